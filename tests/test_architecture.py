"""The floors: nothing imports upward, and what reads results or plans needs neither torch nor its friends."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = (
    {"units", "safe_text", "processes", "limited_process"},
    {"spec", "stats", "rewards", "kernels"},
    {"store", "meters", "models"},
    {"rollout", "data", "reporting", "cli"},
    {"training", "evaluation", "curation"},
    {"simulation"},
    {"matrix", "regression"},
    {"commands"},
)
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}


HEAVY = ("torch", "triton", "transformers")

LIGHT = (
    "harness.spec",
    "harness.stats",
    "harness.store",
    "harness.reporting",
    "harness.matrix.planning",
    "harness.cli",
)

MATRIX_COMMANDS = {"harness.ablate", "harness.plan", "harness.lint"}
"""The commands that run, plan or check a grid; everything else gets by without the matrix."""


def room(module):
    """The room of a dotted module name; None for other people's."""
    first, *rest = module.split(".")
    if first == "kernels":
        return "kernels"
    if first != "harness" or not rest:
        return None
    return rest[0] if rest[0] in HEIGHT or (ROOT / "harness" / rest[0]).is_dir() else "commands"


def modules():
    for package in ("harness", "kernels"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def imports(path):
    """(module, line) of everything that a file imports, at its top or in functions, but for type checkers alone."""
    return tuple(_imports(path))


def _imports(path):
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from .api import x` starts from the file's own package, `from harness import stats` names a room last.
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def test_every_room_has_a_floor():
    rooms = {p.name for p in (ROOT / "harness").iterdir() if p.is_dir() and list(p.glob("*.py"))}
    assert rooms <= HEIGHT.keys()


def test_nothing_imports_upward():
    wrong = []
    for module, path in modules():
        own = room(module)
        if own is None:
            continue
        for target, line in imports(path):
            other = room(target)
            if other is not None and HEIGHT[other] > HEIGHT[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {other}")
    assert not wrong, "\n".join(wrong)


def forbidden(inside, *targets):
    """Imports of `targets` by modules of the package or module `inside`, as `file:line: target`."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {target}"
        for module, path in modules()
        if module == inside or module.startswith(f"{inside}.")
        for target, line in imports(path)
        if any(target == t or target.startswith(f"{t}.") for t in targets)
    ]


def test_planning_imports_nothing_of_execution():
    above = ("harness.matrix.execution", "harness.matrix.executors", "harness.matrix.worker")
    assert not forbidden("harness.matrix.planning", *above)


def test_analysis_imports_no_table_figure_or_text():
    above = [f"harness.reporting.{room}" for room in ("tables", "figures", "text", "report", "page")]
    assert not forbidden("harness.reporting.analysis", *above)


def test_evaluation_imports_nothing_of_training():
    assert not forbidden("harness.evaluation", "harness.training")


def test_only_ablate_plan_and_lint_import_the_matrix():
    users = [
        m for m, _ in modules() if m not in MATRIX_COMMANDS and not f"{m}.".startswith("harness.matrix.")
    ]
    assert not [use for module in users if module != "harness" for use in forbidden(module, "harness.matrix")]


def import_graph():
    """Module -> modules of this project that it imports at its top or inside functions.

    A package counts as imported where the import names it alone, or what its `__init__` defines.
    """
    paths = dict(modules())

    def owner(target):
        while target not in paths and "." in target:
            target = target.rpartition(".")[0]
        return target

    graph = {}
    for module, path in paths.items():
        targets = {t for t, _ in imports(path)}
        # `from a.b import c` yields a.b and a.b.c: a.b itself is needed only where a.b.c is no module.
        named = {t for t in targets if not any(o.startswith(f"{t}.") and o in paths for o in targets)}
        graph[module] = {owner(t) for t in named} & paths.keys() - {module}
    return graph


def test_no_module_imports_itself_by_way_of_others():
    graph = import_graph()
    # What imports nothing that is left is on no circle, nor is what nothing imports; whatever remains is.
    while gone := [
        m for m, targets in graph.items()
        if not targets & graph.keys() or not any(m in others for others in graph.values())
    ]:  # fmt: skip
        for module in gone:
            graph.pop(module)
    assert not graph, "\n".join(
        f"{m} -> {', '.join(sorted(t & graph.keys()))}" for m, t in sorted(graph.items())
    )


def test_no_file_is_too_long_to_hold_in_the_head():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for _, p in modules()}
    assert not {file: n for file, n in lengths.items() if n > 400}


def test_kernels_know_nothing_of_the_harness():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for module, path in modules()
        if room(module) == "kernels"
        for target, line in imports(path)
        if target.split(".")[0] == "harness"
    ]
    assert not wrong, wrong


def test_kernels_is_invisible_to_transformers_probe():
    """Hugging Face's package shares the name: ours must import nothing and carry no version."""
    tree = ast.parse((ROOT / "kernels" / "__init__.py").read_text())
    assert [type(node) for node in tree.body] == [ast.Expr]


def light_modules():
    found = []
    for name in LIGHT:
        path = ROOT.joinpath(*name.split("."))
        if path.is_dir():
            found += [
                ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                for p in sorted(path.rglob("*.py"))
            ]
        else:
            found.append(name)
    return found


def loaded_after(code):
    program = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_planning_and_reading_results_load_no_torch():
    assert loaded_after("\n".join(f"import {name}" for name in light_modules())) == []


COMMANDS = sorted(
    f"harness.{p.stem}" for p in (ROOT / "harness").glob("*.py") if "def main" in p.read_text()
) + [f"kernels.{n}" for n in ("bench", "footprint") if (ROOT / "kernels" / f"{n}.py").exists()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_no_torch(command):
    code = (
        "import runpy\n"
        f"sys.argv = [{command!r}, '--help']\n"
        "import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    runpy.run_module({command!r}, run_name='__main__')"
    )
    assert loaded_after(code) == []
