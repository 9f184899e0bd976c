"""Hub datasets whose columns are known: where the question and the reference stand, and what the reference is in."""

from __future__ import annotations

from typing import Any


def _known(
    *datasets: str, question: str, answer: str, pattern: str | None = None, config: str | None = None
) -> dict[str, dict[str, str]]:
    fields = {"question": question, "answer": answer, "answer_pattern": pattern, "config": config}
    return {dataset: {key: value for key, value in fields.items() if value} for dataset in datasets}


KNOWN_DATASETS: dict[str, dict[str, str]] = {
    **_known("openai/gsm8k", "gsm8k", question="question", answer="answer", pattern="gsm8k", config="main"),
    # MATH and NuminaMath have solutions alone, which end in a box.
    **_known(
        "hendrycks/competition_math",
        "EleutherAI/hendrycks_math",
        "lighteval/MATH",
        "lighteval/MATH-Hard",
        "DigitalLearningGmbH/MATH-lighteval",
        "qwedsacf/competition_math",
        "AI-MO/NuminaMath-CoT",
        "AI-MO/NuminaMath-TIR",
        question="problem",
        answer="solution",
        pattern="boxed",
    ),
    **_known(
        "HuggingFaceH4/MATH-500",
        "HuggingFaceH4/aime_2024",
        "yentinglin/aime_2025",
        "knoveleng/open-rs",
        "knoveleng/open-s1",
        "knoveleng/open-deepscaler",
        "knoveleng/AMC-23",
        "agentica-org/DeepScaleR-Preview-Dataset",
        "open-r1/OpenR1-Math-220k",
        "AI-MO/NuminaMath-1.5",
        "AI-MO/aimo-validation-aime",
        "AI-MO/aimo-validation-amc",
        question="problem",
        answer="answer",
    ),
    **_known("math-ai/minervamath", "knoveleng/OlympiadBench", question="question", answer="answer"),
    **_known("simplescaling/s1K", "simplescaling/s1K-1.1", question="question", answer="solution"),
    **_known("open-r1/DAPO-Math-17k-Processed", question="prompt", answer="solution"),
}
"""Fields of a hub source by dataset, as far as they are known; a grid's own fields come before them."""


def with_known_fields(source: dict[str, Any]) -> dict[str, Any]:
    """A hub source's fields with those that are known of its dataset, where they are not given.

    A pattern belongs to the column that it is known of: it is left out where another column is given.
    """
    known = KNOWN_DATASETS.get(str(source.get("dataset")), {})
    if source.get("answer", known.get("answer")) != known.get("answer"):
        known = {key: value for key, value in known.items() if key != "answer_pattern"}
    return {**known, **source}
