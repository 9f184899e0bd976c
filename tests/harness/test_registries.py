"""One of each thing that can be added, added in the one place that is meant for it and seen at the far end."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.store.study import load_study

from .reporting.conftest import Toy, make_study

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, *paths: Path) -> str:
    """What a fresh interpreter prints that looks for modules in `paths` before this tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))}
    # Started elsewhere: the current folder would come first.
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=paths[0], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def insert(file: Path, after: str, text: str) -> None:
    """Adds text to a file behind a passage that it holds once."""
    content = file.read_text(encoding="utf-8")
    assert content.count(after) == 1, (file, after)
    file.write_text(content.replace(after, after + text), encoding="utf-8")


GRID = """\
name: gained
question: Does the factor matter?
base:
  model: tiny
  data: {sources: [{source: sums}]}
  reward: {functions: [{name: accuracy}]}
  objective: {loss: grpo}
axes:
  factor: {objective.gain: [1.0, 3.0]}
evaluate: {benchmarks: [{name: easy, questions: 2, source: {source: sums}}]}
"""

USES_GAIN = """
import torch
from harness.spec.grid import load_grid
from harness.spec.identity import RECIPE, run_identity
from harness.spec.objective import ObjectiveSpec
from kernels.grpo_loss import grpo_loss

ids, losses = [], []
for cell in load_grid("grid.yaml").cells:
    objective = cell.recipe.objective.objective(cap=8)
    out = grpo_loss(
        torch.tensor([[-1.0, -2.0]], requires_grad=True), torch.tensor([2.0]), torch.ones(1, 2, dtype=torch.bool),
        objective=objective, implementation="torch",
    )
    losses.append(float(out.loss))
    ids.append(run_identity(cell.recipe, 0, model_fingerprint="m", data_fingerprint="d"))
print(losses)
print("objective.gain" in ids[0].fields, ids[1].fields["objective.gain"])
print(ObjectiveSpec.model_fields["gain"].description)
"""


def test_a_parameter_of_the_objective(tmp_path):
    """Declared in `Objective` and used in the formula, it is a field of grids, of identities, and of the loss."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    loss = tmp_path / "kernels" / "grpo_loss"
    end = 'out of the loss and of its token counts (DAPO, overlong filtering)."""\n'
    insert(loss / "objective.py", end, '    gain: float = 1.0\n    """Factor on every advantage."""\n')
    insert(
        loss / "reference.py",
        "    log_rho, advantage = applied_log_ratio(x, objective), x.advantage",
        " * objective.gain",
    )
    (tmp_path / "grid.yaml").write_text(GRID, encoding="utf-8")
    losses, counted, described = run_python(USES_GAIN, tmp_path).splitlines()
    assert losses == "[-2.0, -6.0]", "on-policy every ratio is 1: the loss is the mean of −gain · A"
    assert counted == "False 3.0", "at its default it leaves the identity of earlier runs as it was"
    assert described == "Factor on every advantage."


REWARD = """
from __future__ import annotations
from collections.abc import Sequence
from harness.rewards.registry import Direction, reward
from harness.rewards.types import RewardContext, RewardInput

@reward("brevity", direction=Direction(right=-1, wrong=-1), reads_opened=True)
def brevity(batch: Sequence[RewardInput], context: RewardContext, *, scale: int = 1) -> list[float]:
    return [%s / item.cap for item in batch]
"""

USES_REWARD = """
from harness.reporting.figures.rewards import BUILT_IN
from harness.rewards.composite import CompositeReward, reads_opened
from harness.rewards.types import RewardInput
from harness.spec.grid import load_grid
from harness.spec.lint.grids import grid_findings

grid = load_grid("grid.yaml")
spec = grid.cells[0].recipe.reward
with CompositeReward(spec) as reward:
    print(reward.score([RewardInput("x", "1", tokens, 10, False) for tokens in (2, 5)]).total)
print(reads_opened(spec), "brevity" in BUILT_IN)
print(*sorted({f.rule for f in grid_findings(grid) if "brevity" in f.effect}))
try:
    load_grid("misspelt.yaml")
    CompositeReward(load_grid("misspelt.yaml").cells[0].recipe.reward)
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("formula", "totals", "found"),
    [
        ("-scale * item.tokens", "[-0.6, -1.5]", ""),
        ("scale * item.tokens", "[0.6, 1.5]", "reward-inverted"),
    ],
)
def test_a_reward(tmp_path, formula, totals, found):
    """A file of its own in the folder of the rewards: recipes name it, plots draw it, lint knows its direction."""
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "harness" / "rewards" / "builtin" / "brevity.py").write_text(
        REWARD % formula, encoding="utf-8"
    )
    named = GRID.replace("{name: accuracy}", "{name: brevity, params: {scale: 3}}")
    (tmp_path / "grid.yaml").write_text(named.replace("objective.gain", "objective.beta"), encoding="utf-8")
    misspelt = GRID.replace("{name: accuracy}", "{name: brevety}").replace("objective.gain", "objective.beta")
    (tmp_path / "misspelt.yaml").write_text(misspelt, encoding="utf-8")
    given, known, rules, *refused = run_python(USES_REWARD, tmp_path).splitlines()
    assert given == totals
    assert known == "True True"
    assert rules == found
    assert refused == ["no reward 'brevety'", '  did you mean "brevity"?']


TRAITS = """
class SilentTraits(EngineTraits):
    path = "harness.rollout.silent:SilentEngine"
    title = "Silence"
    max_temperature = 1.5
    continuous_batching = True

    def concurrency(self, rollout):
        return 7

    def layer_seconds(self, rollout):
        return 0.0

    def reservation(self, rollout):
        return Reservation(device_share=0.5, cache_gib=2.0, libraries_gib=0.0, asleep_in_updates=False)
"""

SILENT_ENGINE = """
from harness.rollout.engine import Completion

class SilentEngine:
    def __init__(self, end_id):
        self.end_id = end_id

    @classmethod
    def from_recipe(cls, recipe, loaded, *, completion_tokens=0, on_event=None):
        return cls(loaded.special.end_ids[0])

    def generate(self, requests, sampling):
        return [Completion((self.end_id,), (0.0,), False) for _ in requests]

    def update_weights(self): ...
    def sleep(self): ...
    def close(self): ...
"""

USES_ENGINE = """
import contextlib, io
from harness import evaluate, plan
from harness.evaluation.tables import evaluations_in
from harness.matrix.planning.hardware import Machine, resolve_hardware
from harness.matrix.planning.time_model import CostModel
from harness.models.catalog import resolve_model
from harness.spec.grid import load_grid

grid = load_grid("grid.yaml")
recipe = grid.cells[0].recipe
model = resolve_model(recipe.model)
cost = CostModel(recipe, model, resolve_hardware(grid.head.hardware, Machine(2)))
print(cost.memory.parts["Silence"] - 4 * model.parameters / 2**30)
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    code = plan.main(["--grid", "hot.yaml"])
print(code, *said.getvalue().splitlines()[:2], sep="|")
asked = ["--model", "tiny", "--benchmarks", "sums@3", "--samples", "2", "--temperature", "1", "--max-tokens", "8"]
with contextlib.redirect_stdout(io.StringIO()):
    done = evaluate.main([*asked, "--engine", "silent", "--out", "out"])
    done += evaluate.main([*asked, "--max-tokens", "4", "--engine", "silent", "--out", "out"])
print(done, [(r.settings.engine, r.completion.mean_tokens, r.truncated_from) for _, r in evaluations_in("out")])
"""


def test_a_rollout_engine(tmp_path):
    """Its traits in the table and a class: grids and commands name it, plans reckon with it, evaluations sample."""
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "harness" / "rollout" / "silent.py").write_text(SILENT_ENGINE, encoding="utf-8")
    table = tmp_path / "harness" / "spec" / "engines.py"
    insert(table, "            asleep_in_updates=settings.sleep_level > 0,\n        )\n", TRAITS)
    insert(table, '"vllm": VllmTraits()', ', "silent": SilentTraits()')
    grid = GRID.replace("objective.gain", "objective.beta").replace(
        "  objective:", "  rollout: {engine: silent}\n  objective:"
    )
    (tmp_path / "grid.yaml").write_text(grid, encoding="utf-8")
    (tmp_path / "hot.yaml").write_text(grid.replace("silent}", "silent, temperature: 2.0}"), encoding="utf-8")
    reserved, refused, evaluated = run_python(USES_ENGINE, tmp_path).splitlines()
    assert float(reserved) == pytest.approx(2.0), "the cache that its traits reserve, beside the weights"
    message, hint = "Silence samples at 1.5 at most, got 2", "  use `transformers` for more"
    assert refused == f"2|error: hot.yaml:7: base.rollout.temperature: {message}|{hint}"
    # It is not exact: a smaller cap is sampled, not cut from the larger one.
    assert evaluated == "0 [('silent', 1.0, None), ('silent', 1.0, None)]"


ADDED_METRIC = """\
    Metric(
        name="longest_step_seconds",
        words="longest step",
        header="longest s",
        unit="s",
        better=-1,
        compute=lambda steps, price: float(column(steps, SECONDS).max()),
        table="throughput",
        tile="of any run",
    ),
"""

ADDED_BUILDER = """\
def _longest_figure(drawn: Drawn, theme: Theme) -> Figure | None:
    from harness.reporting.figures.theme import new_figure

    figure, (axes,) = new_figure(4.6, 2.0)
    axes.plot(drawn.analysis.study.steps["timing.total_seconds"], color=theme.c1)
    return figure


"""

ADDED_PLOT = """\
    Plot(
        name="every-step",
        group="costs",
        title="Every step's time",
        caption="One point a step.",
        build=_longest_figure,
    ),
"""

SMALL = {"benchmarks": {"easy": 12}, "steps": (2, 4), "samples": 2, "seeds": (0, 1)}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A small study and its report, made by a copy of the package with a metric and a plot more."""
    root = tmp_path_factory.mktemp("package")
    for package in ("harness", "kernels"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    reporting = root / "harness" / "reporting"
    insert(reporting / "analysis" / "performance.py", "\nPERFORMANCE = (\n", ADDED_METRIC)
    figures = reporting / "figures" / "all_figures.py"
    plots = "PLOTS: tuple[Plot | PlotOfEach[Any], ...] = (\n"
    insert(figures, plots, ADDED_PLOT)
    figures.write_text(
        figures.read_text(encoding="utf-8").replace(plots, ADDED_BUILDER + plots), encoding="utf-8"
    )
    out = make_study(root / "study", Toy(**SMALL))
    run_python(
        f"import harness.reporting as r; assert r.__file__.startswith({str(root)!r}); r.build({str(out)!r})",
        root,
    )
    return out


def test_a_performance_metric(reported):
    """One entry gives its column, its verdicts and its tile."""
    steps = load_study(reported).steps
    with (reported / "tables" / "throughput.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16, "8 recipes, 2 seeds"
    for row in rows:
        longest = steps.loc[steps["run"] == row["run"], "timing.total_seconds"].max()
        assert float(row["longest_step_seconds"]) == pytest.approx(longest, rel=1e-5)
    with (reported / "tables" / "verdicts.csv").open(encoding="utf-8", newline="") as file:
        verdicts = {r["axis"]: r for r in csv.DictReader(file) if r["metric"] == "longest_step_seconds"}
    assert set(verdicts) == {"data", "length_cap", "reward"}, "a longer training does not change it"
    effect = float(verdicts["length_cap"]["effect"])
    assert effect == pytest.approx(1.52 / 1.40 - 1, abs=0.04), "the planted one"
    assert "| longest s |" in (reported / "tables" / "throughput.md").read_text(encoding="utf-8")
    assert "<span>longest step</span>" in (reported / "report.html").read_text(encoding="utf-8")


def test_a_plot(reported):
    """A builder and an entry give the file, and its place in both reports."""
    page = (reported / "report.html").read_text(encoding="utf-8")
    costs, _ = page.split("<h2>Cost, time, memory</h2>")[1].split("<h2>Events and failures</h2>")
    assert "<h3>Every step&#39;s time</h3>" in costs
    assert "<figcaption>One point a step.</figcaption>" in costs
    assert "![Every step's time](figures/every-step.svg)" in (reported / "report.md").read_text(
        encoding="utf-8"
    )
    assert "</svg>" in (reported / "figures" / "every-step.svg").read_text(encoding="utf-8")


NOTED_EXECUTOR = """
from pathlib import Path
from harness.matrix.executors.local import LocalExecutor

class NotedExecutor(LocalExecutor):
    def submit(self, command, env, slot, log):
        with Path("submitted").open("a") as file:
            print(command[command.index("-m") + 1], file=file)
        return super().submit(command, env, slot, log)
"""

USES_EXECUTOR = """
import contextlib, io, sys
from pathlib import Path
from harness import ablate
from harness.matrix.execution import run_matrix

# What runs is not what is asked here, but who starts it.
run_matrix.report_matrix = lambda _: None
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    done = ablate.main(
        ["--grid", "grid.yaml", "--out", "out", "--executor", "noted"],
        worker=[sys.executable, "-m", "tests.harness.matrix.fake_worker"],
    )
print(done if done == 0 else said.getvalue())
print(*Path("submitted").read_text().splitlines())
"""


def test_an_executor(tmp_path):
    """A class and its row: `--executor` names it, and the runs of a grid are started by it."""
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "harness" / "matrix" / "executors"
    (folder / "noted.py").write_text(NOTED_EXECUTOR, encoding="utf-8")
    row = '    "noted": ExecutorEntry("harness.matrix.executors.noted:NotedExecutor"),\n'
    insert(
        folder / "registry.py",
        'ExecutorEntry("harness.matrix.executors.slurm:SlurmExecutor", "submitit"),\n',
        row,
    )
    short = "training: {steps: 1}\n  rollout: {prompts_per_step: 2, completions_per_prompt: 2}"
    grid = GRID.replace("objective: {loss: grpo}", f"objective: {{loss: grpo}}\n  {short}")
    grid = grid.replace("objective.gain: [1.0, 3.0]", "objective.beta: [0.0]")
    (tmp_path / "grid.yaml").write_text(grid, encoding="utf-8")
    ended, submitted = run_python(USES_EXECUTOR, tmp_path).splitlines()
    assert ended == "0"
    worker = "tests.harness.matrix.fake_worker"
    assert submitted == f"{worker} {worker}", "the untrained model and the run"
