"""Whom verdicts on external results are about: seeds of training or evaluation, families, what files do not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.reporting.sources.reading_notes import Parts, few
from harness.spec.errors import SpecError
from harness.stats.contrasts import Unit

_AXIS = "axis."
_QUESTION = ("samples", "correct")
_TOTAL = ("questions", "samples_per_question", "accuracy_percent")


@dataclass(frozen=True)
class Inference:
    """What cannot be read off a file.

    Attributes:
        unit: `recipe`: runs of equal levels stand for the training seeds of a recipe. `checkpoint`: verdicts are
            about the very checkpoints in the file; `seed` is then the evaluation's, unless a column `eval_seed` is.
        shared_seeds: whether runs of one seed share their random numbers, so that seeds are blocks. That two runs are
            both called seed 0 says nothing.
    """

    unit: Unit = "recipe"
    shared_seeds: bool = False


TRAINING_SEEDS = Inference()
"""Every run is one training of a recipe, and seeds have nothing in common."""


def as_evaluations(frame: pd.DataFrame, inference: Inference) -> pd.DataFrame:
    """The rows with `seed` for an evaluation seed where verdicts are about checkpoints and no column says otherwise.

    Rows that differ in nothing but seed and name are then evaluations of one checkpoint; where a file has no levels,
    names tell checkpoints apart.
    """
    if inference.unit == "recipe" or "seed" not in frame.columns or "eval_seed" in frame.columns:
        return frame
    has_levels = any(str(c).startswith(_AXIS) for c in frame.columns)
    return frame.rename(columns={"seed": "eval_seed"}).drop(
        columns=["run"] if has_levels else [], errors="ignore"
    )


def pooled_evaluations(frame: pd.DataFrame, file: Path) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """One row for each checkpoint, however often it was evaluated: evaluation seeds are no training runs.

    Answers of one question are added up. Of totals the accuracy is averaged, and what evaluations of one checkpoint
    differ by measures the noise of drawing answers.

    Returns:
        The rows, and by benchmark the ratio of that noise to p(1 − p)/n and its degrees of freedom.
    """
    if "eval_seed" not in frame.columns:
        return frame, {}
    by_question = "question" in frame.columns
    place = [c for c in frame.columns if c not in ("eval_seed", *(_QUESTION if by_question else _TOTAL))]
    if by_question:
        return frame.groupby(place, sort=False, as_index=False)[list(_QUESTION)].sum(), {}
    groups = frame.groupby(place, sort=False)
    if (
        int(groups["questions"].nunique().max()) > 1
        or int(groups["samples_per_question"].nunique().max()) > 1
    ):
        raise SpecError(
            "evaluations of one checkpoint have different numbers of questions or samples", file=file,
            hint="pool them, or leave those out that are not like the others",
        )  # fmt: skip
    made = groups.agg(
        questions=("questions", "first"),
        samples_per_question=("samples_per_question", "sum"),
        accuracy_percent=("accuracy_percent", "mean"),
        evaluations=("accuracy_percent", "size"),
        spread=("accuracy_percent", "var"),
    ).reset_index()
    noise: dict[str, dict[str, float]] = {}
    for benchmark, part in made[made["evaluations"] > 1].groupby("benchmark", sort=False):
        p = part["accuracy_percent"] / 100
        answers = part["questions"] * part["samples_per_question"] / part["evaluations"]
        # Half an answer on each side, so that a checkpoint that is right throughout has an expectation.
        p = (p * answers + 0.5) / (answers + 1)
        df = part["evaluations"] - 1
        ratio = (part["spread"] / 1e4 * df).sum() / (p * (1 - p) / answers * df).sum()
        noise[str(benchmark)] = {"ratio": float(ratio), "df": float(df.sum())}
    return made.drop(columns=["evaluations", "spread"]), noise


def inference_notes(
    frame: pd.DataFrame, runs: pd.DataFrame, inference: Inference, repeated: Mapping[str, Any]
) -> Parts:
    """Whom verdicts are about, and what was taken for granted, in sentences."""
    by_question = "question" in frame.columns
    told = []
    if inference.unit == "checkpoint":
        told.append(
            f"Verdicts are about the {len(runs)} checkpoints in the file, not about what their recipes would give "
            "under other training seeds"
        )
    else:
        told.append(
            "Verdicts are about recipes, over training seeds: every run is one training of its own. If `seed` "
            "numbers evaluations of one trained model, name that column eval_seed, or give --unit checkpoint"
        )
    told.append(
        "They are about questions like these" if by_question
        else "They are about these questions: how questions differ is not in totals"
    )  # fmt: skip
    if inference.unit == "recipe" and not inference.shared_seeds and runs["seed"].nunique() > 1:
        told.append(
            "Runs of equal seed are not paired: say --shared-seeds if they share their random numbers"
        )
    if repeated:
        told.append(f"The noise of drawing answers is that of repeated evaluations on {few(repeated)}")
    shared = runs.groupby("family").size()
    if (shared > 1).any():
        several = shared[shared > 1]
        told.append(
            f"{int(several.sum())} runs are of {len(several)} families, and count as so many between families"
        )
    return (("Whom this is about", tuple(told)),)
