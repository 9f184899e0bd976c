"""The code behind a reward of the user's own: read from its files, never run.

A reward `package.module:function` is its module, the packages around it, and whatever of the user's own these
import, however deep: modules of the standard library, of installed packages and of this product do not count, since
they are named by versions elsewhere. Code is compared as a syntax tree, so comments and layout do not count. What a
module reads while it runs (a file of words, a model behind an address) and what it imports under a computed name
cannot be seen here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from harness.rewards.errors import UnknownReward

MODULE_LEVEL = "module level"
"""The part of a module that is no function, class or single name: imports and other statements."""

Parts = dict[str, str]
"""Digest of each top-level part of a module, by its name."""

_PRODUCT = frozenset({"harness", "kernels"})
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def search_path() -> list[str]:
    """Where a worker looks for modules: the working directory, then this process's path."""
    return list(dict.fromkeys([os.getcwd(), *(entry for entry in sys.path if entry)]))


def reward_code(name: str) -> dict[str, Parts]:
    """The parts of every module behind the reward `package.module:function`, by the module's name.

    Raises:
        UnknownReward: its module is not there, or one of the files is no Python.
    """
    module = name.partition(":")[0]
    found: dict[str, Parts] = {}
    waiting = _with_packages(module)
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        file = _file_of(each)
        if file is None:
            if each == module:
                hint = "put the folder of the module on PYTHONPATH, or install it"
                raise UnknownReward(f"reward {name!r}: No module named {module!r}", hint)
            continue
        if each != module and not _is_own(each, module, file):
            continue
        found[each], imported = _read(name, each, file)
        waiting += imported
    return {each: found[each] for each in sorted(found)}


def _with_packages(module: str) -> list[str]:
    """A module and the packages around it, which are imported with it."""
    parts = module.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _is_own(module: str, reward_module: str, file: Path) -> bool:
    """Whether a module is the user's: of the reward's package, or at least of no installed one."""
    top = module.partition(".")[0]
    if top in _PRODUCT or top in sys.stdlib_module_names:
        return False
    if top == reward_module.partition(".")[0]:
        return True
    standard = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")}
    return not (_INSTALLED & set(file.parts) or standard & set(file.parents))


def _file_of(module: str) -> Path | None:
    """The file of a module, found without importing the packages around it; None where it has none."""
    path: list[str] | None = search_path()
    spec: importlib.machinery.ModuleSpec | None = None
    for name in _with_packages(module):
        if path is None:  # something below a module that is no package
            return None
        spec = _spec_of(name, path)
        if spec is None:
            return None
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return Path(spec.origin).resolve()


def _spec_of(name: str, path: list[str]) -> importlib.machinery.ModuleSpec | None:
    if (spec := importlib.machinery.PathFinder.find_spec(name, path)) is not None:
        return spec
    for finder in sys.meta_path:  # installed in editable form, a package may be found by a finder of its own
        find = getattr(finder, "find_spec", None)
        if find is not None and (spec := find(name, path)) is not None:
            found: importlib.machinery.ModuleSpec = spec
            return found
    return None


def _read(name: str, module: str, file: Path) -> tuple[Parts, list[str]]:
    """A module's parts, and the modules that it may import."""
    status = file.stat()
    try:
        return _parsed(module, file, status.st_size, status.st_mtime_ns)
    except SyntaxError as error:
        raise UnknownReward(
            f"reward {name!r}: {file}:{error.lineno}: {error.msg}", "mend the module"
        ) from None
    except (OSError, ValueError) as error:
        raise UnknownReward(f"reward {name!r}: {file} cannot be read: {error}", "mend the module") from None


@lru_cache(maxsize=1024)
def _parsed(module: str, file: Path, _size: int, _mtime_ns: int) -> tuple[Parts, list[str]]:
    data = file.read_bytes()
    if file.suffix != ".py":  # compiled: all or nothing
        return {file.name: hashlib.sha256(data).hexdigest()[:12]}, []
    tree = ast.parse(data, str(file))
    texts: dict[str, list[str]] = {}
    for statement in tree.body:
        texts.setdefault(_part_of(statement), []).append(_canonical(statement))
    parts = {part: hashlib.sha256("\n".join(text).encode()).hexdigest()[:12] for part, text in texts.items()}
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imported = dict.fromkeys(each for found in _imports(tree, package) for each in _with_packages(found))
    return parts, list(imported)


def _part_of(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return names[0] if len(names) == len(targets) == 1 else MODULE_LEVEL


def _canonical(node: object) -> str:
    """A syntax tree as text that is the same for every version of Python: what is empty is left out of it."""
    if isinstance(node, ast.JoinedStr):  # some versions have an empty text where others have none
        return f"JoinedStr({','.join(_canonical(v) for v in node.values if getattr(v, 'value', None) != '')})"
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_canonical(value)}"
            for name, value in ast.iter_fields(node)
            if name not in ("ctx", "kind", "type_comment") and value is not None and value != []
        )
        # The value None is content in a constant alone.
        if isinstance(node, ast.Constant) and node.value is None:
            return "Constant(None)"
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return f"{type(node).__name__}:{node!r}"


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Modules that the code names in imports, wherever they stand; a name taken from a package may be one too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


CODE_FIELD = "reward.code."
"""Begins the identity's field of a module behind a reward; the module's name follows."""


def code_fields(names: list[str]) -> dict[str, Parts]:
    """Identity fields of the user's own rewards among `names`; none where all are built in.

    Raises:
        UnknownReward: a module is not there.
    """
    fields: dict[str, Parts] = {}
    for name in names:
        if ":" in name:
            fields |= {CODE_FIELD + module: parts for module, parts in reward_code(name).items()}
    return fields


def changed_parts(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What differs between two states of a module, in words."""
    words = []
    for part in dict.fromkeys([*old, *new]):
        if old.get(part) != new.get(part):
            how = "added" if part not in old else "removed" if part not in new else "changed"
            words.append(f"{part if part == MODULE_LEVEL else f'`{part}`'} {how}")
    return words
