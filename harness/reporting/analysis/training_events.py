"""What happened in training besides learning: events of attempts and of steps, truncation."""

from __future__ import annotations

from harness.reporting import formats
from harness.reporting.frames import column, records
from harness.store.records import Alarm
from harness.store.records.form import TableRow
from harness.store.study import STEP, Study

_ALARMS = STEP.name(lambda r: r.events)
_TRUNCATED_SHARE = STEP.name(lambda r: r.completion.truncated_share)

_TRUNCATED = 0.5
"""Share of completions cut off at the cap, over the last steps, from which it is reported."""
_LAST_STEPS = 10
_GRAVE = ("collapse", "language", "spike", "diverge", "nan", "failed", "drift", "truncat", "oom", "killed")


def step_events(study: Study) -> list[TableRow]:
    """Events that step records carry (`events`: a list), and runs whose completions are mostly cut off at the cap."""
    seen: dict[tuple[str, str], list[TableRow]] = {}
    if _ALARMS in study.steps.columns:
        for row in records(study.steps[["run", "attempt", "step", _ALARMS]]):
            alarms: tuple[Alarm, ...] = row[_ALARMS] if isinstance(row[_ALARMS], tuple) else ()
            for alarm in alarms:
                common = {"run": row["run"], "attempt": row["attempt"], "step": row["step"]}
                seen.setdefault((str(row["run"]), alarm.detector), []).append(
                    {**common, "kind": alarm.detector, "message": alarm.message}
                )
    found = []
    for same in seen.values():
        # An alarm that goes on rings at every step, each time with another number: reported once, with its span.
        span = f" (and at {len(same) - 1} more steps up to {same[-1]['step']})" if len(same) > 1 else ""
        found.append({**same[0], "message": same[0]["message"] + span})
    return found + _truncated(study)


def _truncated(study: Study) -> list[TableRow]:
    found = []
    for run, steps in study.steps.groupby("run", sort=False):
        last = steps.sort_values("step").tail(_LAST_STEPS)
        share = float(column(last, _TRUNCATED_SHARE).mean())
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


def most_events(events: list[TableRow], most: int) -> list[TableRow]:
    """The first `most`, grave ones before others, otherwise in their order."""
    grave = [e for e in events if any(word in str(e["kind"]).lower() for word in _GRAVE)]
    rest = [e for e in events if e not in grave]
    return [*grave, *rest][:most]
