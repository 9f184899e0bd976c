"""Is there a reference answer, and can it be read?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.curation.items import KEEP, Decision, Item
from harness.rewards.answers import AnswerChecker
from harness.rewards.boxed import final_answer
from harness.spec.curation import AnswersStage


def by_answers(items: Sequence[Item], spec: AnswersStage, checker: AnswerChecker) -> list[Decision]:
    """Drops items without an answer, or whose answer the checker would not accept from a model either."""
    answers = [final_answer(item.answer) if spec.boxed else item.answer.strip() for item in items]
    there = [i for i, answer in enumerate(answers) if answer]
    pairs = [(f"\\boxed{{{answers[i]}}}", str(answers[i])) for i in there]
    # A reference that does not even equal itself can earn nobody a reward.
    checks = dict(zip(there, checker.check_many(pairs), strict=True))
    decisions = []
    for index, item in enumerate(items):
        answer = answers[index]
        if not answer:
            decisions.append(Decision("no box in the solution" if spec.boxed else "no answer"))
        elif not checks[index].correct:
            decisions.append(Decision("answer cannot be read", f"{answer[:200]}: {checks[index].reason}"))
        else:
            decisions.append(Decision(changes={"answer": answer}) if answer != item.answer else KEEP)
    return decisions
