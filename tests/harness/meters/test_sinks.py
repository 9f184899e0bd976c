"""Sinks hear every number of a record, say what they lack, and can do a run no harm."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.cli.run_options import RunOptions, add_run_options, steps
from harness.meters import sinks
from harness.meters.sinks import SinkMissing, Sinks, check_sinks, numbers
from harness.spec.errors import SpecError

from ..examples import step_record

RECORD = {
    "step": 3,
    "reward": {"mean": 0.5, "functions": {"accuracy": {"mean": 1}}},
    "objective": {"kl": None, "loss": float("nan"), "grad_norm": 2.0},
    "memory": {"update": {"device_gib": None, "resident_gib": 1.5}},
    "flag": True,
    "words": "x",
}


def unexpected(name, error):
    raise AssertionError(f"{name}: {error!r}")


def test_numbers_are_the_finite_ones_by_slashed_name():
    assert numbers(RECORD) == {
        "step": 3.0,
        "reward/mean": 0.5,
        "reward/functions/accuracy/mean": 1.0,
        "objective/grad_norm": 2.0,
        "memory/update/resident_gib": 1.5,
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_files_hold_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    opened = Sinks(["tensorboard"], tmp_path, "run", {}, unexpected)
    opened.write(step_record(3, objective={"grad_norm": 2.0}))
    opened.write(step_record(4, reward={"mean": 0.75}, objective={"grad_norm": 2.0}))
    opened.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(3, 0.5), (4, 0.75)]
    assert [e.value for e in events.Scalars("objective/grad_norm")] == [2.0, 2.0]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackers_get_project_run_settings_and_figures(name, monkeypatch, tmp_path):
    calls = []
    fake = ModuleType(name)
    fake.init = lambda **kwargs: calls.append(("init", kwargs))
    fake.log = lambda figures, step: calls.append(("log", step, figures["reward/mean"]))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda package: package == name or None)
    opened = Sinks([name], tmp_path, "label id", {"a": 1}, unexpected)
    opened.write(step_record(3))
    opened.close()
    (_, settings), logged, finished = calls
    assert settings["name"] == "label id"
    assert settings["config"] == {"a": 1}
    assert settings.get("dir") == (str(tmp_path) if name == "wandb" else None)
    assert (logged, finished) == (("log", 3, 0.5), ("finish",))


def test_a_sink_that_fails_is_left_out_and_told_once(monkeypatch, tmp_path):
    heard = []

    class Broken:
        def write(self, step, figures):
            raise OSError("no network")

        def close(self):
            raise AssertionError("is not open any more")

    class Sound:
        def __init__(self):
            self.steps = []

        def write(self, step, figures):
            self.steps.append(step)

        def close(self):
            self.steps.append("closed")

    sound = Sound()
    made = {"tensorboard": Broken(), "trackio": sound}
    monkeypatch.setattr(sinks, "open_sink", lambda name, *_: made[name])
    opened = Sinks(made, tmp_path, "run", {}, lambda name, error: heard.append((name, str(error))))
    for step in (1, 2):
        opened.write(step_record(step))
    opened.close()
    assert heard == [("tensorboard", "no network")]
    assert sound.steps == [1, 2, "closed"]


def test_a_missing_package_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(SinkMissing, match="pip install trackio"):
        check_sinks(["trackio"])
    with pytest.raises(SpecError, match="--sink: sink 'wandb' needs the package wandb: pip install wandb"):
        RunOptions(sinks=("wandb",)).check()
    with pytest.raises(SinkMissing, match="unknown sink 'paper'"):
        check_sinks(["paper"])


def test_the_command_says_so_with_exit_code_2():
    root = Path(__file__).resolve().parents[3]
    code = (
        "import sys, importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'wandb' else real(name, *a)\n"
        "from harness import ablate\n"
        "sys.exit(ablate.main(['--grid', 'ablations/quickstart.yaml', '--sink', 'wandb']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: --sink: sink 'wandb' needs the package wandb: pip install wandb"
    ]


def test_steps_to_profile():
    assert steps("2,5-7,2") == (2, 5, 6, 7)
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    for argv in (
        [],
        ["--profile", "2,5-7", "--sink", "tensorboard", "--sink", "wandb", "--sink", "tensorboard"],
    ):
        options = RunOptions.from_arguments(parser.parse_args(argv))
        assert RunOptions.from_arguments(parser.parse_args(options.to_argv())) == options
    assert options == RunOptions((2, 5, 6, 7), ("tensorboard", "wandb"))
    assert options.to_argv() == ["--profile", "2,5,6,7", "--sink", "tensorboard", "--sink", "wandb"]


@pytest.mark.parametrize("text", ["", "0", "x", "3-", "5-2", "-1", "1-1000"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(Exception, match="must be"):
        steps(text)
