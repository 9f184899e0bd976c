"""Overlap with evaluation benchmarks: shared runs of n words (GPT-3, arXiv 2005.14165, appendix C: n = 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.curation.items import KEEP, Decision, Item
from harness.curation.text import ngrams, words


def find_contaminated(
    items: Sequence[Item], benchmarks: Mapping[str, Sequence[str]], ngram: int
) -> list[Decision]:
    """Drops items that share a run of `ngram` words with a benchmark's question.

    A benchmark question of fewer words is matched whole: by an item of the same words.

    Args:
        items: the candidates.
        benchmarks: questions by benchmark.
        ngram: n.
    """
    # The first question in order that holds a run is the one that is named.
    runs: dict[tuple[str, ...], tuple[str, int]] = {}
    for name, questions in benchmarks.items():
        for number, question in enumerate(questions):
            for run in ngrams(words(question), ngram):
                runs.setdefault(run, (name, number))
    decisions = []
    for item in items:
        text = words(item.question)
        places = [text[i : i + ngram] for i in range(max(1, len(text) - ngram + 1))]
        hit = next((run for run in places if run in runs), None)
        if hit is None:
            decisions.append(KEEP)
        else:
            name, number = runs[hit]
            decisions.append(Decision("in a benchmark", f"{name}, question {number + 1}: {' '.join(hit)}"))
    return decisions
