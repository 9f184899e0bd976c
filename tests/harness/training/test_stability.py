"""Detectors, each by a fault put into a whole tiny run, under every policy; rollbacks that resume bit for bit."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from harness.matrix import worker
from harness.rollout.engine import Completion
from harness.spec.evaluation import EvaluateSpec
from harness.spec.hardware import HardwareSpec
from harness.spec.recipe import Recipe
from harness.spec.stability import StabilitySpec
from harness.store.checkpoints import OPTIMIZER_FILE
from harness.store.folders import Store
from harness.store.job import RunJob
from harness.store.records import Provenance
from harness.store.study import _step_row
from harness.training import run as run_module
from harness.training.detectors import Detectors, Figures, foreign_share, loop_share, scripts_of
from harness.training.errors import Diverged
from harness.training.run import execute
from harness.training.trainer import Trainer

from ..examples import step_record

STEPS = 5
FAULTY = 4
"""The step at which something goes wrong."""


def step_rows(folder):
    return [_step_row(folder.run_id, record) for record in folder.steps()]


def make_job(stability, steps=(2, STEPS), **sections):
    base = {
        "model": {"name": "tiny"},
        "data": {"size": 40, "sources": [{"source": "sums", "terms": [2]}]},
        "rollout": {
            "prompts_per_step": 2,
            "completions_per_prompt": 2,
            "max_completion_tokens": 12,
            "temperature": 1.5,
        },
        "reward": {"functions": [{"name": "cosine"}]},
        "optimizer": {"learning_rate": 1e-4},
        "training": {"steps": max(steps), "checkpoint_every": 1},
        "stability": {"patience": 1, "reference_steps": 2, **stability},
    }
    recipe = Recipe.model_validate({**base, **{k: {**base[k], **v} for k, v in sections.items()}})
    benchmark = {"name": "sums-2", "questions": 2, "source": {"source": "sums", "terms": [2]}}
    return RunJob(
        run_id="0" * 12,
        kind="train",
        recipe=recipe,
        seed=3,
        steps=tuple(steps),
        evaluate=EvaluateSpec.model_validate(
            {"benchmarks": [benchmark], "samples": 1, "base": False, "max_completion_tokens": 4}
        ),
        evaluation_ids={"sums-2": "e" * 12},
        hardware=HardwareSpec.model_validate({"device": "cpu"}),
        usd_per_hour=0.0,
        devices=1,
        label="test",
        identity={},
    )


class FaultyEngine:
    """The run's engine, whose completions are spoilt while `struck`."""

    def __init__(self, engine, fault):
        self._engine, self._fault, self.struck = engine, fault, False

    def generate(self, requests, sampling):
        completions = self._engine.generate(requests, sampling)
        return [spoilt(self._fault, c) for c in completions] if self.struck else completions

    def update_weights(self):
        self._engine.update_weights()

    def sleep(self):
        self._engine.sleep()


class FaultyTokenizer:
    """The model's tokenizer, whose texts are in another script while `struck`."""

    def __init__(self, tokenizer):
        self._tokenizer, self.struck = tokenizer, False

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def batch_decode(self, rows, **options):
        texts = self._tokenizer.batch_decode(rows, **options)
        return ["сумма двух чисел" for _ in texts] if self.struck else texts


class Faulty(Trainer):
    """Goes wrong at one step: once, or again after every rollback."""

    fault, always = "", False

    def __init__(self, recipe, seed, loaded, engine, *others, **options):
        self._broken = FaultyEngine(engine, self.fault), FaultyTokenizer(loaded.tokenizer)
        self._weight = loaded.model.get_input_embeddings().weight
        loaded = dataclasses.replace(loaded, tokenizer=self._broken[1])
        super().__init__(recipe, seed, loaded, self._broken[0], *others, **options)

    def train_step(self):
        struck = self.step + 1 == FAULTY and (self.always or self.rollbacks == 0)
        self._broken[0].struck = struck
        self._broken[1].struck = struck and self.fault == "language"
        spoil = struck and self.fault == "non_finite"
        handle = self._weight.register_hook(lambda gradient: gradient * math.nan) if spoil else None
        try:
            return super().train_step()
        finally:
            if handle:
                handle.remove()


def spoilt(fault, completion):
    tokens, logprobs = completion.token_ids, completion.logprobs
    if fault == "length":
        return Completion(tokens[:1], logprobs[:1], True)
    if fault == "entropy":
        return Completion(tokens, tuple(0.0 for _ in logprobs), completion.truncated)
    if fault == "repetition":
        return Completion(tokens[:1] * 12, logprobs[:1] * 12, True)
    if fault == "kl":
        return Completion(tokens, tuple(value - 5 for value in logprobs), completion.truncated)
    return completion


SETTINGS = {
    "non_finite": {},
    "length": {"collapse_ratio": 0.5},
    "entropy": {"minimum": 1e-6},
    "repetition": {"ngram_tokens": 4, "maximum": 0.5},
    "language": {},
    "kl": {},
}


ACTED_ON = ("non_finite", "repetition")
"""Faults under the policies that act: one without patience and figure, one with. Policies act on any alarm alike."""


@pytest.fixture
def start(tmp_path, monkeypatch, light_runs):
    def begin(fault, stability, *, always=False, name="a", stop=lambda: False, **options):
        monkeypatch.setattr(
            run_module, "Trainer", type("Case", (Faulty,), {"fault": fault, "always": always})
        )
        job = make_job(stability, **options)
        folder = Store(tmp_path / name).run(job.run_id)
        folder.write_job(job)
        attempt = folder.reserve_attempt()
        attempt.begin(Provenance())
        error = None
        try:
            execute(job, folder, attempt, stop)
        except Exception as raised:
            error = raised
        return job, folder, attempt, error

    return begin


def kinds(attempt):
    return [e.kind for e in attempt.events() if e.kind in SETTINGS or e.kind == "rolled_back"]


@pytest.mark.parametrize("fault", SETTINGS)
def test_an_alarm_is_an_event_and_training_goes_on(start, fault):
    _, folder, attempt, error = start(
        fault, {fault: {"policy": "continue", **SETTINGS[fault]}}, training={"checkpoint_every": None}
    )
    assert error is None
    assert kinds(attempt) == [fault]
    (event,) = [e for e in attempt.events() if e.kind == fault]
    assert (event.step, event.figures["policy"]) == (FAULTY, "continue")
    records = {r.step: r for r in attempt.steps()}
    (told,) = records[FAULTY].events
    assert told.detector == fault
    if fault != "non_finite":
        figure, threshold = told.figure, told.threshold
        below = fault in ("length", "entropy")
        assert figure < threshold if below else figure > threshold
    assert [s for s in records if records[s].events] == [FAULTY]
    assert len(folder.evaluated()) == 2


@pytest.mark.parametrize("fault", ACTED_ON)
def test_a_rollback_returns_before_the_trouble_and_draws_anew(start, fault):
    _, folder, attempt, error = start(fault, {fault: {"policy": "rollback", **SETTINGS[fault]}})
    assert error is None
    assert kinds(attempt) == [fault, "rolled_back"]
    (event,) = [e for e in attempt.events() if e.kind == "rolled_back"]
    assert (event.step, event.figures["to_step"]) == (FAULTY, FAULTY - 1)
    records = attempt.steps()
    assert [r.step for r in records] == [1, 2, 3, FAULTY, STEPS]
    assert not any(r.events for r in records)
    again = [r for r in records if r.rollbacks]
    assert [r.step for r in again] == [FAULTY, STEPS]
    # The questions of the step that went wrong are not asked again: two at each of five steps, and two more.
    assert again[-1].samples_seen == (STEPS + 1) * 4
    assert len(folder.evaluated()) == 2


@pytest.mark.parametrize("fault", ACTED_ON)
def test_a_stop_is_a_result(start, fault):
    job, folder, attempt, error = start(
        fault, {fault: {"policy": "stop", **SETTINGS[fault]}}, training={"checkpoint_every": None}
    )
    assert isinstance(error, Diverged)
    assert str(error).startswith(f"{fault}: ")
    assert f"at step {FAULTY}" in str(error)
    assert worker.diverged_at(attempt) == FAULTY
    attempt.finish("diverged", diverged_at=worker.diverged_at(attempt))
    assert folder.evaluated() == {(2, "sums-2", "e" * 12)}
    assert folder.missing(job) == []


def test_steps_behind_a_rollback_are_no_part_of_the_run(tmp_path):
    folder = Store(tmp_path).run("0" * 12)
    attempt = folder.reserve_attempt()
    for step, rollbacks in ((1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (3, 1)):
        attempt.append_step(step_record(step, rollbacks=rollbacks))
    assert [(r.step, r.rollbacks) for r in attempt.steps()] == [(1, 0), (2, 1), (3, 1)]
    resumed = folder.reserve_attempt()
    resumed.append_step(step_record(2, rollbacks=2, attempt=2))
    assert [(r["step"], r["attempt"]) for r in step_rows(folder)] == [(1, 1), (2, 2)]
    resumed.append_step(step_record(3, rollbacks=2, attempt=2))
    assert [(r["step"], r["attempt"]) for r in step_rows(folder)] == [(1, 1), (2, 2), (3, 2)]


def test_rollbacks_are_bounded(start):
    _, _, attempt, error = start(
        "length", {"length": {"policy": "rollback", "collapse_ratio": 0.5}, "max_rollbacks": 2}, always=True
    )
    assert isinstance(error, Diverged)
    assert "after 2 rollbacks" in str(error)
    assert kinds(attempt) == ["length", "rolled_back"] * 2 + ["length"]


def test_without_a_checkpoint_a_rollback_starts_again_from_the_untrained_model(start):
    stability = {"length": {"policy": "rollback", "collapse_ratio": 0.5}}
    _, _, attempt, error = start("length", stability, steps=(STEPS,), training={"checkpoint_every": None})
    assert error is None
    (event,) = [e for e in attempt.events() if e.kind == "rolled_back"]
    assert event.figures["to_step"] == 0
    rows = [r.step for r in attempt.steps() if r.rollbacks]
    assert sorted(set(rows)) == [1, 2, 3, 4, 5]


def test_levels_that_an_earlier_attempt_left_ahead_do_not_bound_a_rollback(start):
    stability = {"length": {"collapse_ratio": 0.5, "policy": "rollback"}}
    _, whole, _, _ = start("length", stability, name="whole", steps=(2, 5, 6))
    _, folder, _, _ = start("length", stability, name="extended", steps=(2, 5, 6))
    shutil.rmtree(folder.checkpoints / "step-000006")
    for path in folder.checkpoints.glob(f"*/{OPTIMIZER_FILE}"):
        path.unlink()
    for path in (folder.path / "evaluations").glob("step-000006*"):
        path.unlink()
    _, _, attempt, error = start("length", stability, name="extended", steps=(2, 5, 6))
    assert error is None
    (event,) = [e for e in attempt.events() if e.kind == "rolled_back"]
    assert (event.step, event.figures["to_step"]) == (FAULTY, FAULTY - 1)
    for step in (2, 5, 6):
        mine, other = (
            load_file(f.checkpoints / f"step-{step:06d}" / "model.safetensors") for f in (folder, whole)
        )
        assert all(torch.equal(mine[name], other[name]) for name in other)


def test_a_policy_of_nan_is_not_finite_though_no_sample_is_trained_on(start):
    _, _, attempt, error = start("", {}, optimizer={"learning_rate": 1e18}, training={"steps": STEPS})
    assert "non_finite" in str(error)
    written = (attempt.path / "events.jsonl").read_text() + attempt.steps_file.read_text()
    for line in written.splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON
    assert attempt.steps()[-1].completion.sampled_entropy is None


def without_time(row):
    left = ("timing", "memory", "energy", "load", "cost", "time", "attempt")
    return json.dumps(
        {k: v for k, v in row.items() if k.split(".")[0].split("_")[0] not in left}, default=str
    )


@pytest.mark.parametrize("killed_after", [3, 4])
def test_a_run_killed_after_a_rollback_goes_on_bit_for_bit(start, killed_after):
    """Killed before the first new checkpoint, it rolls back once more to the same; after it, it goes on."""
    stability = {"repetition": {"policy": "rollback", **SETTINGS["repetition"]}, "patience": 1}
    steps = (2, 7)
    _, whole, _, error = start(
        "repetition", stability, steps=steps, training={"checkpoint_every": 3}, name="whole"
    )
    assert error is None

    class Killed(Exception):
        pass

    made = []

    def stop():
        # Polled after every step, before its checkpoint; a kill leaves no time to save.
        made.append(1)
        if len(made) == 2 * killed_after:
            raise Killed
        return False

    _, folder, _, error = start(
        "repetition", stability, steps=steps, training={"checkpoint_every": 3}, name="killed", stop=stop
    )
    assert isinstance(error, Killed)
    _, folder, _, error = start(
        "repetition", stability, steps=steps, training={"checkpoint_every": 3}, name="killed"
    )
    assert error is None
    last = "step-000007/model.safetensors"
    one, other = load_file(whole.checkpoints / last), load_file(folder.checkpoints / last)
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert list(map(without_time, step_rows(whole))) == list(map(without_time, step_rows(folder)))


def figures(**changes):
    sound = {
        "non_finite": False,
        "mean_tokens": 100.0,
        "sampled_entropy": 0.5,
        "loop_share": 0.0,
        "foreign_script_share": 0.0,
        "kl": 0.1,
    }
    return Figures(**{**sound, **changes})


def test_patience_counts_steps_in_a_row_and_an_event_is_told_once():
    detectors = Detectors(StabilitySpec.model_validate({"patience": 2}))
    seen = [detectors.check(figures(kl=kl)) for kl in (3, 0, 3, 3, 3, 0, 3, 3)]
    assert [len(alarms) for alarms in seen] == [0, 0, 0, 1, 0, 0, 0, 1]
    assert seen[3][0].figure == 3
    assert seen[3][0].threshold == 2.0
    assert detectors.bad_steps(seen[3][0]) == 2


BAD = {
    "non_finite": {"non_finite": True},
    "length": {"mean_tokens": 1.0},
    "entropy": {"sampled_entropy": 0.0},
    "repetition": {"loop_share": 0.9},
    "language": {"foreign_script_share": 0.9},
    "kl": {"kl": 9.0},
}


@pytest.mark.parametrize("policy", ["continue", "rollback", "stop"])
@pytest.mark.parametrize("detector", SETTINGS)
def test_an_alarm_carries_the_policy_of_its_detector_alone(detector, policy):
    other = "stop" if policy == "continue" else "continue"
    policies = {name: {"policy": policy if name == detector else other} for name in SETTINGS}
    detectors = Detectors(StabilitySpec.model_validate({"patience": 1, "reference_steps": 1, **policies}))
    assert detectors.check(figures()) == []
    (alarm,) = detectors.check(figures(**BAD[detector]))
    assert (alarm.detector, alarm.policy) == (detector, policy)
    again = detectors.check(figures(**BAD[detector]))
    assert [a.detector for a in again] == ([] if policy == "continue" else [detector])
    assert detectors.bad_steps(alarm) == 2


def test_length_is_compared_with_the_first_steps():
    detectors = Detectors(StabilitySpec.model_validate({"patience": 1, "reference_steps": 2}))
    assert [len(detectors.check(figures(mean_tokens=n))) for n in (50, 150, 401, 400, 19, 20)] == [
        0,
        0,
        1,
        0,
        1,
        0,
    ]


def test_the_state_of_the_detectors_goes_through_json():
    spec = StabilitySpec.model_validate({"patience": 3, "reference_steps": 2})
    one, other = Detectors(spec), Detectors(spec)
    for n in (100, 120, 900):
        one.check(figures(mean_tokens=n, sampled_entropy=0.0))
    other.restore(json.loads(json.dumps(one.state())))
    for n in (900, 900):
        assert one.check(figures(mean_tokens=n)) == other.check(figures(mean_tokens=n))


def test_loop_share_by_hand():
    # abcabcab has six trigrams: abc, bca, cab, and each of them once more.
    assert loop_share([[1, 2, 3, 1, 2, 3, 1, 2]], 3) == 3 / 6
    assert loop_share([[1, 2, 3, 1, 2, 3, 1, 2], [1, 2, 3], [1]], 3) == 3 / 7
    assert loop_share([[1, 2]], 3) == 0.0


def test_foreign_share_by_hand():
    scripts = scripts_of(["What is 2 + 3?", "Σ of α"])
    assert foreign_share(["abc это"], scripts) == 0.5
    assert foreign_share(["∑ 𝑥² ≤ 3, so 5 is 12"], scripts) == 0.0
    assert foreign_share(["123"], scripts) == 0.0
    assert foreign_share(["答案是 five"], scripts) == 3 / 7
    assert foreign_share(["答案是 five"], scripts_of(["什么 is this"])) == 0.0
