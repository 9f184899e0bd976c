"""Which look at a study this is, and at which level it is judged."""

from __future__ import annotations

import datetime

from harness.stats.looks import Looks
from harness.stats.power import MIN_DF
from harness.stats.verdicts import Judgement
from harness.store.records import LookRecord
from harness.store.study import Study

UNFINISHED = ("pending", "running", "interrupted", "killed", "damaged")


def looks_of(study: Study) -> Looks:
    """The looks at a study up to this one; a report on what was judged before is no other look."""
    verdict = study.grid.get("verdict", {})
    now = answered(study)
    past = [float(look.answered) for look in study.looks if look.answered < now]
    seeds = max(1, study.cells["seed"].nunique())
    return Looks(
        alpha=float(verdict.get("alpha", 0.05)),
        information=(*past, float(now)),
        declared=tuple(n * now / seeds for n in verdict.get("looks", ())),
    )


def answered(study: Study) -> int:
    """Questions answered by trained checkpoints, the information that a study has; 1 at least."""
    trained = set(study.runs.loc[study.runs["kind"] != "base", "run"].astype(str))
    made = study.evaluations[study.evaluations["run"].astype(str).isin(trained)]
    return max(1, int(made["questions"].astype(float).sum())) if len(made) else 1


def new_look(study: Study, looks: Looks, primary: list[Judgement]) -> LookRecord | None:
    """The record of this look; None where it is none: a matrix that is not finished, no verdict that could be given,
    or nothing that was not judged before."""
    unfinished = study.runs["status"].isin(UNFINISHED).any()
    if unfinished or study.sources or all(j.df < MIN_DF for j in primary):
        return None
    if any(look.answered >= answered(study) for look in study.looks):
        return None
    return LookRecord(
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seeds=study.cells["seed"].nunique(),
        answered=answered(study),
        level=looks.level,
    )
