"""What the world damaged in a matrix's folder is set aside by the same command, and made again."""

from __future__ import annotations

import pytest

from harness.store.folders import Store
from harness.store.repair import damages
from harness.store.study import load_study

KEY = ["run", "step", "benchmark"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return bytes(content)


def shorten(path):
    content = b"".join(path.read_bytes().splitlines(keepends=True)[:-1])
    path.write_bytes(content)
    return content


def accuracies(out):
    study = load_study(out)
    assert study.damaged == ()
    assert set(study.runs["status"]) == {"finished"}
    assert sorted(study.steps.groupby("run")["step"].max()) == [4, 4]
    return study.evaluations[[*KEY, "correct"]].sort_values(KEY, ignore_index=True)


@pytest.fixture
def finished(grid, tmp_path, ablate):
    out = tmp_path / "out"
    assert ablate("--grid", grid, "--out", out).returncode == 0
    return out


PATTERNS = {
    "runs/*/run.json": flip,
    "runs/*/attempt-001/attempt.json": flip,
    "runs/*/attempt-001/end.json": flip,
    "runs/*/attempt-001/steps.jsonl": shorten,
    "runs/*/contents.json": flip,
    "runs/*/evaluations/step-000002*.json": flip,
    "runs/*/evaluations/step-000004*.parquet": flip,
    "invocations/*.json": flip,
    "plan.json": flip,
    "grid.resolved.json": flip,
    "lint.json": flip,
}


def test_each_damaged_file_is_set_aside_and_what_it_held_made_again(finished, grid, ablate):
    """One after the other, so that each is found in a folder that was healed before."""
    calm = accuracies(finished)
    trained = {run.path for run in Store(finished).runs() if run.checkpoint_steps()}
    for pattern, harm in PATTERNS.items():
        file = next(
            f for f in sorted(finished.glob(pattern)) if "runs" not in pattern or {*f.parents} & trained
        )
        content = harm(file)
        done = ablate("--grid", grid, "--out", finished)
        assert done.returncode == 0, (pattern, done.stderr)
        assert f"damaged: {file}" in done.stderr or "damaged or gone" in done.stderr, (pattern, done.stderr)
        kept = sorted(file.parent.glob(f"{file.name}.damaged-*"))
        assert kept, pattern
        assert kept[-1].read_bytes() == content, pattern
        assert accuracies(finished).equals(calm), pattern
        assert not any(damages(run) for run in Store(finished).runs()), pattern


def test_a_run_whose_steps_were_cut_is_trained_from_the_step_before_the_loss(finished, grid, ablate):
    run = next(run for run in Store(finished).runs() if run.checkpoint_steps())
    steps = run.attempts()[0].steps_file
    steps.write_bytes(b"".join(steps.read_bytes().splitlines(keepends=True)[:3]))
    done = ablate("--grid", grid, "--out", finished)
    assert done.returncode == 0
    assert "is not as its attempt left it" in done.stderr
    assert [record.attempt for record in run.steps()] == [1, 1, 2, 2], "the second line of step 3 may be lost"


def test_planning_names_the_damage_and_touches_nothing(finished, grid, ablate):
    file = next(finished.glob("runs/*/attempt-001/end.json"))
    flip(file)
    before = {path for path in finished.rglob("*")}
    done = ablate("--grid", grid, "--out", finished, "--dry-run")
    assert done.returncode == 2
    assert f"{file}: " in done.stderr
    assert "given again, sets it aside" in done.stderr
    assert {path for path in finished.rglob("*")} == before
