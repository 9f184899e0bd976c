"""What happened in training besides learning: events of attempts and of steps, truncation."""

from __future__ import annotations

from typing import Any

from harness.reporting import formats
from harness.reporting.frames import column, records
from harness.store.study import Study

_TRUNCATED = 0.5
"""Share of completions cut off at the cap, over the last steps, from which it is reported."""
_LAST_STEPS = 10
_GRAVE = ("collapse", "language", "spike", "diverge", "nan", "failed", "drift", "truncat", "oom", "killed")


def step_events(study: Study) -> list[dict[str, Any]]:
    """Events that step records carry (`events`: a list), and runs whose completions are mostly cut off at the cap."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    if "events" in study.steps.columns:
        for row in records(study.steps[["run", "attempt", "step", "events"]]):
            for event in row["events"] if isinstance(row["events"], list) else []:
                known: dict[str, Any] = event if isinstance(event, dict) else {"message": str(event)}
                kind = str(known.get("kind") or known.get("detector") or "event")
                common = {"run": row["run"], "attempt": row["attempt"], "step": row["step"], "kind": kind}
                seen.setdefault((str(row["run"]), kind), []).append(
                    {**common, "message": str(known.get("message") or "")}
                )
    found = []
    for same in seen.values():
        # An alarm that goes on rings at every step, each time with another number: reported once, with its span.
        span = f" (and at {len(same) - 1} more steps up to {same[-1]['step']})" if len(same) > 1 else ""
        found.append({**same[0], "message": same[0]["message"] + span})
    return found + _truncated(study)


def _truncated(study: Study) -> list[dict[str, Any]]:
    found = []
    for run, steps in study.steps.groupby("run", sort=False):
        last = steps.sort_values("step").tail(_LAST_STEPS)
        share = float(column(last, "completion.truncated_share").mean())
        if share >= _TRUNCATED:
            message = (
                f"{formats.percent(share)} of completions cut off at the cap in the last {len(last)} steps"
            )
            found.append(
                {
                    "run": run,
                    "attempt": None,
                    "step": int(last["step"].max()),
                    "kind": "truncation",
                    "message": message,
                }
            )
    return found


def most_events(events: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The first `most`, grave ones before others, otherwise in their order."""
    grave = [e for e in events if any(word in str(e["kind"]).lower() for word in _GRAVE)]
    rest = [e for e in events if e not in grave]
    return [*grave, *rest][:most]
