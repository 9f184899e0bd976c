"""The answer in words: what works, what doesn't, what the data cannot say."""

from __future__ import annotations

from dataclasses import dataclass

from harness.reporting import formats
from harness.reporting.accuracy_tables import effect_text, verdict_record
from harness.reporting.analysis import ALL, Analysis, Guard, Row
from harness.reporting.metrics import PERFORMANCE
from harness.stats.verdicts import MIN_DF, Judgement


@dataclass(frozen=True)
class Answer:
    """The answer, sentence by sentence; any part may be empty.

    Attributes:
        training: whether training did anything at all.
        works: levels that raise accuracy.
        hurts: levels that lower it.
        same: levels without a meaningful effect.
        unknown: levels that the data say nothing certain about, and what it would take.
        costs: what levels change in throughput, memory and cost.
        caution: what must not be read into the best checkpoint.
        incomplete: runs that did not finish.
    """

    training: str
    works: tuple[str, ...]
    hurts: tuple[str, ...]
    same: tuple[str, ...]
    unknown: tuple[str, ...]
    costs: tuple[str, ...]
    caution: str
    incomplete: str

    def parts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Title and sentences of every part that has any."""
        listed = [
            ("Works", self.works),
            ("Doesn't", self.hurts),
            ("Makes no difference", self.same),
            ("Can't tell", self.unknown),
            ("What it costs", self.costs),
        ]
        return [(title, sentences) for title, sentences in listed if sentences]


def answer(analysis: Analysis) -> Answer:
    """The answer that the primary verdicts give, with costs beside it."""
    primary = analysis.primary()
    by_word: dict[str, list[str]] = {}
    for judgement in primary:
        by_word.setdefault(judgement.verdict, []).append(_sentence(judgement, analysis))
    return Answer(
        training=_training(analysis),
        works=tuple(by_word.get("works", ())),
        hurts=tuple(by_word.get("hurts", ())),
        same=tuple(by_word.get("no meaningful effect", ())),
        unknown=tuple(by_word.get("inconclusive", ())) or _nothing(analysis, primary),
        costs=tuple(_cost_sentences(analysis)),
        caution=_caution(analysis),
        incomplete=_incomplete(analysis),
    )


def compared(judgement: Judgement) -> str:
    """`reward = cosine (against accuracy)`."""
    return f"{judgement.axis} = {judgement.level} (against {judgement.baseline})"


def _range(judgement: Judgement) -> str:
    low, high = (formats.points(v, signed=True) for v in (judgement.ci_low, judgement.ci_high))
    return f"{low} to {high}"


def _sentence(judgement: Judgement, analysis: Analysis) -> str:
    effect = f"{formats.points(judgement.effect, signed=True)} points"
    if judgement.verdict != "inconclusive":
        return f"{compared(judgement)}: {effect}, interval {_range(judgement)}"
    if formats.is_empty(judgement.effect):
        return f"{compared(judgement)}: not determined by the runs that finished"
    if judgement.df < MIN_DF:
        freedom = f"{judgement.df} degree{'s' * (judgement.df != 1)} of freedom"
        runs = "1 run leaves" if judgement.runs == 1 else f"{judgement.runs} runs leave"
        return (
            f"{compared(judgement)}: {effect} seen, but {runs} {freedom}, and no verdict is "
            f"given below {MIN_DF}; more seeds would settle it"
        )
    return (
        f"{compared(judgement)}: {effect}, interval {_range(judgement)}; effects from "
        f"{formats.points(judgement.detectable_effect)} points up could be found here. "
        f"{_what_it_takes(judgement, analysis)}"
    )


def _what_it_takes(judgement: Judgement, analysis: Analysis) -> str:
    delta = formats.points(judgement.delta)
    if judgement.seeds_needed is None:
        return f"No number of seeds up to 100 would settle an effect of {delta} points at this noise"
    seeds = (
        f"{judgement.seeds_needed} seed{'s' * (judgement.seeds_needed != 1)} (now {analysis.settings.seeds})"
    )
    if (judgement.questions_needed or 0) > judgement.questions:
        return f"An effect of {delta} points would take {judgement.questions_needed:,} questions and {seeds}"
    return f"An effect of {delta} points would take {seeds}"


def _nothing(analysis: Analysis, primary: list[Judgement]) -> tuple[str, ...]:
    if primary:
        return ()
    if not analysis.accuracy:
        return ("no checkpoint has been evaluated yet",)
    return ("nothing was varied that could be compared: the grid has no axis with two measured levels",)


def _training(analysis: Analysis) -> str:
    judgement = analysis.training()
    if judgement is None:
        return ""
    change = f"{formats.points(judgement.effect, signed=True)} points over step 0 on average over runs"
    span = "" if formats.is_empty(judgement.ci_low) else f", interval {_range(judgement)}"
    word = {
        "works": "Training helps",
        "hurts": "Training hurts",
        "no meaningful effect": "Training changes nothing that matters",
        "inconclusive": "Whether training helps at all is not settled",
    }[judgement.verdict]
    return f"{word}: {change}{span}.{_apart(analysis)}"


def _apart(analysis: Analysis) -> str:
    """How many runs end clearly above and below step 0, where there are both: an average hides that."""
    ends = [max(block.checkpoints.values(), key=lambda c: c[1]) for block in analysis.layout.blocks]
    gains = [gain for run, step in ends if (gain := analysis.gain.get((run, step, ALL))) is not None]
    above, below = sum(g.low > 0 for g in gains), sum(g.high < 0 for g in gains)
    if not above or not below:
        return ""
    return f" Of {len(gains)} runs {above} end clearly above step 0, {below} clearly below: it depends on the levels."


def _cost_sentences(analysis: Analysis) -> list[str]:
    """One sentence per level that changes some performance metric by enough."""
    words = {m.name: m.words for m in PERFORMANCE if m.told}
    found: dict[str, list[str]] = {}
    for row in analysis.rows:
        if row.metric not in words or row.judgement.verdict not in ("works", "hurts"):
            continue
        found.setdefault(compared(row.judgement), []).append(f"{words[row.metric]} {_change(row)}")
    return [f"{level}: {', '.join(changes)}" for level, changes in found.items()]


def _change(row: Row) -> str:
    effect = float(verdict_record(row)["effect"])
    if effect > 1:
        return f"× {formats.number(1 + effect, 2)}"
    return effect_text(row.metric, effect)


def guard_sentence(guard: Guard) -> str:
    """What the best checkpoint scored beside the best of as many identical ones."""
    f = guard.figures
    where = "the mean over benchmarks" if guard.benchmark == ALL else guard.benchmark
    verdict = "within what chance gives" if f.best <= f.upper else "above what chance gives"
    return (
        f"on {where} the best of {f.checkpoints} checkpoints scores {formats.percent(f.best)}; the best of "
        f"{f.checkpoints} identical ones would be expected at {formats.percent(f.expected)} (95 % of the time at "
        f"most {formats.percent(f.upper)}): {verdict}"
    )


def _caution(analysis: Analysis) -> str:
    chosen = [g for g in analysis.guards if g.benchmark == ALL] or list(analysis.guards[:1])
    return f"Best checkpoint: {guard_sentence(chosen[0])}." if chosen else ""


def _incomplete(analysis: Analysis) -> str:
    runs = analysis.study.runs
    other = runs.loc[runs["status"] != "finished", "status"]
    if other.empty:
        return ""
    counts = ", ".join(f"{n} {status}" for status, n in sorted(other.value_counts().items()))
    return f"{len(other)} of {len(runs)} runs are not finished ({counts}); verdicts rest on the others."
