"""What the meters cost a training step: python -m tests.campaigns.meter_overhead [--steps N]

Trains the tiny model and sums the seconds inside every meter call of a step (phase clock, memory, energy, FLOPs,
record, JSONL line), on the clock that also times the step. Results: results/campaigns/meter_overhead.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.01
RECIPE = {
    "model": "tiny",
    "data": {"size": 200, "sources": [{"source": "sums", "terms": [2, 3]}]},
    "rollout": {"prompts_per_step": 8, "completions_per_prompt": 8, "max_completion_tokens": 32},
    "reward": {"functions": [{"name": "accuracy"}, {"name": "format", "weight": 0.5}]},
    "optimizer": {"learning_rate": 1e-4},
}


class Stopwatch:
    """Adds up the seconds inside wrapped calls; a call inside a call counts once."""

    def __init__(self):
        self.seconds, self._depth = 0.0, 0

    @contextmanager
    def inside(self):
        start, self._depth = time.perf_counter(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - start

    def wrap(self, owner, name):
        """Counts every call of `owner.name` from now on; returns how to undo it."""
        real = getattr(owner, name)

        def call(*args, **kwargs):
            with self.inside():
                return real(*args, **kwargs)

        setattr(owner, name, call)
        return lambda: setattr(owner, name, real)

    def wrap_phase(self, clock):
        """Counts what entering and leaving a phase takes, not what happens inside of it."""
        real = clock.phase

        @contextmanager
        def phase(self_, name):
            with self.inside():
                block = real(self_, name)
                block.__enter__()
            try:
                yield
            except BaseException:
                if not block.__exit__(*sys.exc_info()):
                    raise
            else:
                with self.inside():
                    block.__exit__(None, None, None)

        clock.phase = phase
        return lambda: setattr(clock, "phase", real)


def measured(steps):
    """Seconds of each step, and of its meters."""
    import torch

    from harness.data.mix import build_mix
    from harness.meters.clock import PhaseClock
    from harness.meters.energy import EnergyMeter
    from harness.models.catalog import resolve_model
    from harness.models.loading import load_model
    from harness.rewards.composite import CompositeReward
    from harness.rollout.build import build_engine
    from harness.spec.recipe import Recipe
    from harness.store.schema import append_record
    from harness.training import trainer as module

    torch.set_num_threads(1)
    recipe = Recipe.model_validate(RECIPE)
    loaded = load_model(resolve_model(recipe.model), recipe.model)
    watch = Stopwatch()
    undo = [watch.wrap_phase(PhaseClock)]
    undo += [watch.wrap(PhaseClock, name) for name in ("reset", "with_other", "move")]
    undo += [watch.wrap(EnergyMeter, name) for name in ("reset", "read")]
    undo += [watch.wrap(module.Trainer, name) for name in ("_timing", "_text_figures")]
    undo += [
        watch.wrap(module, name)
        for name in ("reward_figures", "completion_figures", "token_figures", "detector_figures")
    ]
    rows = []
    try:
        with CompositeReward(recipe.reward) as rewards, tempfile.TemporaryDirectory() as folder:
            problems = build_mix(recipe.data).problems
            engine = build_engine(recipe, loaded)
            made = module.Trainer(recipe, 0, loaded, engine, rewards, problems, peak_flops=1e11)
            for _ in range(steps + 1):
                watch.seconds, start = 0.0, time.perf_counter()
                record = made.train_step()
                with watch.inside():
                    append_record(record, Path(folder) / "steps.jsonl")
                rows.append({"step_seconds": time.perf_counter() - start, "meter_seconds": watch.seconds})
    finally:
        for back in undo:
            back()
    return rows[1:]  # the first one warms up


def summary(rows):
    """Shares over all steps and of the median step."""
    total, meters = (sum(r[k] for r in rows) for k in ("step_seconds", "meter_seconds"))
    return {
        "steps": len(rows),
        "step_seconds_median": statistics.median(r["step_seconds"] for r in rows),
        "meter_seconds_median": statistics.median(r["meter_seconds"] for r in rows),
        "share": meters / total,
        "share_of_median": statistics.median(r["meter_seconds"] / r["step_seconds"] for r in rows),
    }


def main(argv=None):
    """The command; 1 if the meters take 1 % of the step or more."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.meter_overhead", description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "campaigns")
    arguments = parser.parse_args(argv)
    from harness.meters.provenance import collect
    from harness.store.atomic import write_json, write_text

    rows = measured(arguments.steps)
    found = summary(rows)
    where = collect()
    arguments.out.mkdir(parents=True, exist_ok=True)
    told = {"schema": 1, "commit": where.commit, "device": where.device, "recipe": RECIPE, **found}
    write_json(arguments.out / "meter_overhead.json", {**told, "rows": rows})
    text = (
        f"# Meter overhead\n\nThe tiny model (0.8M weights, the smallest step the harness makes), {found['steps']} "
        f"steps of {found['step_seconds_median'] * 1e3:.0f} ms on one thread of {where.device}: the meters take "
        f"{found['meter_seconds_median'] * 1e3:.2f} ms of it, {found['share']:.2%} over all steps "
        f"({found['share_of_median']:.2%} in the median step; limit {LIMIT:.0%}).\n"
    )
    write_text(arguments.out / "meter_overhead.md", text)
    print(text, json.dumps(found))
    return int(found["share_of_median"] >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
