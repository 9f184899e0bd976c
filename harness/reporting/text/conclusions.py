"""Conclusions in words: what works, what does not, what the data cannot say."""

from __future__ import annotations

from dataclasses import dataclass

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.best_cell import BestCell
from harness.reporting.analysis.best_of import BestOfCheck
from harness.reporting.analysis.trajectories import AccuracyCurve
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.frames import records
from harness.reporting.tables.training_length import ABOVE_CHANCE, WITHIN_CHANCE
from harness.reporting.text.costs import compared, cost_sentences
from harness.reporting.text.dependence import depends_sentences
from harness.stats.intervals import Interval
from harness.stats.power import MIN_DF
from harness.stats.verdicts import Judgement

_MOST_LUCKY = 4
_MOST_SCOPES = 3


@dataclass(frozen=True)
class Conclusions:
    """What a study says, sentence by sentence; any part may be empty.

    Attributes:
        training: whether training did anything at all.
        works: levels that raise accuracy.
        hurts: levels that lower it.
        same: levels without a meaningful effect.
        unknown: levels that the data say nothing certain about, and what it would take.
        depends: levels whose effect another axis changes: where they help and where not.
        nothing: why there is no verdict at all; empty where there is one.
        length: where accuracy peaks along training, and whether it degrades afterwards.
        costs: what levels change in throughput, memory and cost.
        caution: what must not be read into the best checkpoint.
        incomplete: runs that did not finish, and what verdicts leave out because it is not measured everywhere.
    """

    training: str
    works: tuple[str, ...]
    hurts: tuple[str, ...]
    same: tuple[str, ...]
    unknown: tuple[str, ...]
    depends: tuple[str, ...]
    nothing: tuple[str, ...]
    length: tuple[str, ...]
    costs: tuple[str, ...]
    caution: str
    incomplete: str

    def parts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Title and sentences of every part that has any."""
        listed = [
            ("It depends", self.depends),
            ("Works", self.works),
            ("Doesn't", self.hurts),
            ("Makes no difference", self.same),
            ("Can't tell", self.unknown or self.nothing),
            ("Decline along training", self.length),
            ("What it costs", self.costs),
        ]
        return [(title, sentences) for title, sentences in listed if sentences]


def conclude(analysis: Analysis) -> Conclusions:
    """What the primary verdicts say, with costs beside it."""
    primary = analysis.primary()
    by_word: dict[str, list[str]] = {}
    for judgement in analysis.whole_axes():
        by_word.setdefault(judgement.verdict, []).append(_sentence(judgement, analysis))
    return Conclusions(
        training=_training(analysis),
        works=tuple(by_word.get("works", ())),
        hurts=tuple(by_word.get("hurts", ())),
        same=tuple(by_word.get("no meaningful effect", ())),
        unknown=tuple(by_word.get("inconclusive", ())),
        depends=depends_sentences(analysis),
        nothing=_nothing(analysis, primary),
        length=tuple(_length_sentences(analysis)),
        costs=tuple(cost_sentences(analysis)),
        caution=_caution(analysis),
        incomplete=_incomplete(analysis),
    )


def _range(judgement: Judgement) -> str:
    low, high = (formats.points(v, signed=True) for v in (judgement.ci_low, judgement.ci_high))
    return f"{low} to {high}"


def _sentence(judgement: Judgement, analysis: Analysis) -> str:
    said = _verdict_sentence(judgement, analysis)
    if judgement.noise != "both" or judgement.df < MIN_DF:
        return said
    return f"{said}. Too few runs to measure how much each level's own differ: the wider of two intervals is given"


def _verdict_sentence(judgement: Judgement, analysis: Analysis) -> str:
    effect = f"{formats.points(judgement.effect, signed=True)} points"
    if judgement.verdict != "inconclusive":
        return f"{compared(judgement)}: {effect}, interval {_range(judgement)}"
    if formats.is_empty(judgement.effect):
        return f"{compared(judgement)}: not determined by the runs that finished"
    if judgement.df < MIN_DF:
        freedom = f"{judgement.df} degree{'s' * (judgement.df != 1)} of freedom"
        runs = f"{judgement.runs} run{'s' * (judgement.runs != 1)}"
        if 0 < judgement.questions < analysis.asked:
            runs += f" on the {judgement.questions} of {analysis.asked} questions that all of them have"
        runs += " leaves" if judgement.runs == 1 else " leave"
        noise = " at the noise that plans assume" if judgement.assumed else ""
        found = (
            ""
            if formats.is_empty(judgement.detectable_effect)
            else f" As many runs that leave {MIN_DF} would find effects from "
            f"{formats.points(judgement.detectable_effect)} points up{noise}."
        )
        return (
            f"{compared(judgement)}: {effect} seen, but {runs} {freedom}, and no verdict is "
            f"given below {MIN_DF}.{found} {_what_it_takes(judgement, analysis)}"
        )
    return (
        f"{compared(judgement)}: {effect}, interval {_range(judgement)}; effects from "
        f"{formats.points(judgement.detectable_effect)} points up could be found here. "
        f"{_what_it_takes(judgement, analysis)}"
    )


def _what_it_takes(judgement: Judgement, analysis: Analysis) -> str:
    delta = formats.points(judgement.delta)
    noise = " at the noise that plans assume" if judgement.assumed else ""
    if judgement.seeds_needed is None:
        noise = noise or " at this noise"
        return f"No number of seeds up to 100 would settle an effect of {delta} points{noise}"
    low, high = judgement.seeds_low or judgement.seeds_needed, judgement.seeds_high
    span = "" if (low, high) == (judgement.seeds_needed,) * 2 else f"{low} to {high or 'more than 100'}; "
    plural = "s" * (judgement.seeds_needed != 1)
    seeds = f"{judgement.seeds_needed} seed{plural} ({span}now {analysis.settings.seeds})"
    if (judgement.questions_needed or 0) > judgement.questions:
        seeds = f"{judgement.questions_needed:,} questions and {seeds}"
    return f"An effect of {delta} points would take {seeds}{noise}"


def _nothing(analysis: Analysis, primary: list[Judgement]) -> tuple[str, ...]:
    if primary:
        return ()
    if not analysis.accuracy:
        return ("no checkpoint has been evaluated yet",)
    layout, places = analysis.layout, {key[:2] for key in analysis.accuracy}
    measured = [b for b in layout.blocks if places & set(b.checkpoints.values())]
    lengths = [{v for v, place in b.checkpoints.items() if place in places} for b in measured]
    levels = [{b.levels[axis] for b in measured} for axis in layout.axes] + [set().union(*lengths)]
    if max(map(len, levels)) < 2:
        return ("nothing was varied that could be compared: the grid has no axis with two measured levels",)
    if not set.intersection(*lengths):
        return ("nothing can be compared: no training length is common to all runs",)
    return ("nothing can be compared: runs of different levels have no measured question in common",)


def _training(analysis: Analysis) -> str:
    judgement = analysis.training()
    if judgement is None:
        return ""
    if judgement.runs == 1 and (gains := _gains_at_the_end(analysis)):
        low, gain, high = (
            formats.points(v, signed=True) for v in (gains[0].low, gains[0].estimate, gains[0].high)
        )
        return (
            f"The one run ends {gain} points over step 0, interval {low} to {high} for these questions; what another "
            "seed would give it cannot say."
        )
    change = f"{formats.points(judgement.effect, signed=True)} points over step 0 on average over runs"
    span = "" if formats.is_empty(judgement.ci_low) else f", interval {_range(judgement)}"
    word = {
        "works": "Training helps",
        "hurts": "Training hurts",
        "no meaningful effect": "Training changes nothing that matters",
        "inconclusive": _undecided(analysis),
    }[judgement.verdict]
    return f"{word}: {change}{span}.{_apart(analysis)}"


def _undecided(analysis: Analysis) -> str:
    """What can be said of training where its mean over runs is not settled."""
    gains = _gains_at_the_end(analysis)
    above, below = sum(g.low > 0 for g in gains), sum(g.high < 0 for g in gains)
    if above and below:
        return "Training helps or hurts, depending on the levels"
    if above or below:
        side = f"{above} end clearly above step 0" if above else f"{below} end clearly below step 0"
        return f"Of {len(gains)} runs {side} on these questions; what other seeds would do is not settled"
    return "Whether training helps is not settled"


def _gains_at_the_end(analysis: Analysis) -> list[Interval]:
    """What the last checkpoint of every run gained over step 0."""
    ends = [max(block.checkpoints.values(), key=lambda c: c[1]) for block in analysis.layout.blocks]
    return [gain for run, step in ends if (gain := analysis.gain.get((run, step, ALL))) is not None]


def _apart(analysis: Analysis) -> str:
    """How many runs end clearly above and below step 0, where there are both: an average hides that."""
    gains = _gains_at_the_end(analysis)
    above, below = sum(g.low > 0 for g in gains), sum(g.high < 0 for g in gains)
    if not above or not below:
        return ""
    return f" Of {len(gains)} runs {above} end clearly above step 0, {below} clearly below: it depends on the levels."


def best_of_sentence(check: BestOfCheck) -> str:
    """What the best checkpoint scored beside the best of as many identical ones."""
    f = check.result
    where = "the mean over benchmarks" if check.benchmark == ALL else check.benchmark
    verdict = WITHIN_CHANCE if f.chance else ABOVE_CHANCE
    deviation = formats.points(f.run_noise.variance**0.5)
    known = "as measured" if f.run_noise.df is not None else "as plans assume"
    return (
        f"on {where} the best of {f.checkpoints} checkpoints scores {formats.percent(f.best)}; the best of "
        f"{f.checkpoints} identical ones, whose runs differ by {deviation} points {known}, would be expected at "
        f"{formats.percent(f.expected)} (95 % of the time at most {formats.percent(f.upper)}): {verdict}"
    )


def best_cell_text(analysis: Analysis) -> str:
    """The best cell, what luck would give, whether it is better than the others, and its corrected figure."""
    best = analysis.best
    if best is None:
        return ""
    f = best.luck
    name = ", ".join(f"{axis} = {level}" for axis, level in best.levels.items())
    runs = f"the mean of {best.runs} runs, " if best.runs > 1 else ""
    luck = "as their runs do" if best.luck_of == "runs" else "by drawing answers alone"
    parts = [
        f"{name} scores {formats.percent(f.best)}, {runs}the highest of {f.checkpoints} cells",
        f"The best of {f.checkpoints} identical cells that differ {luck} would be expected at "
        f"{formats.percent(f.expected)} (95 % of the time at most {formats.percent(f.upper)})",
        _lead_sentence(best, analysis),
        _baseline_sentence(best),
        _corrected_sentence(best),
    ]
    return " ".join(f"{part}." for part in parts if part)


def _lead_sentence(best: BestCell, analysis: Analysis) -> str:
    others = "the other cells of its training length" if analysis.layout.within else "the other cells"
    if best.p_value is None:
        return f"Whether it is better than {others} cannot be told: {best.reason}"
    reading = ABOVE_CHANCE if best.p_value < analysis.settings.alpha else WITHIN_CHANCE
    seeds = " within seeds" if analysis.settings.seeds > 1 else ""
    orders = f"{'all ' if best.exact else ''}{best.permutations:,} permutations of runs{seeds}"
    return (
        f"It lies {formats.points(best.lead or 0.0, signed=True)} points from the mean of {others}, "
        f"p = {formats.p_text(best.p_value)} after the search for the best (max-T over {orders}): {reading}"
    )


def _baseline_sentence(best: BestCell) -> str:
    if best.is_baseline:
        return "It is the baseline"
    if best.baseline_lead is None or best.baseline_p_value is None:
        return ""
    return (
        f"Against the baseline cell: {formats.points(best.baseline_lead, signed=True)} points, "
        f"p = {formats.p_text(best.baseline_p_value)} after the search over all cells"
    )


def _corrected_sentence(best: BestCell) -> str:
    if best.corrected is None:
        return ""
    score = formats.percent(best.corrected.accuracy)
    if best.corrected.left_out == "runs":
        return f"Chosen without one run of every cell and measured on that run, the best cell scores {score}"
    return (
        f"Chosen on nine tenths of the questions and measured on the others, the best cell scores {score}; the luck "
        "of its run is still in that"
    )


def _caution(analysis: Analysis) -> str:
    every = [g for g in analysis.best_of_checks if g.benchmark == ALL] or list(analysis.best_of_checks[:1])
    # A headline is made of the best checkpoint of one benchmark: each that luck explains is named.
    lucky = [g for g in analysis.best_of_checks if g.result.chance and g not in every]
    chosen = [*lucky[:_MOST_LUCKY], *every]
    return f"Best checkpoint: {'; '.join(best_of_sentence(g) for g in chosen)}." if chosen else ""


def _length_sentences(analysis: Analysis) -> list[str]:
    """Declines that are there, then in one sentence per benchmark the curves that show none or cannot tell."""
    reported = [c for c in analysis.trajectories if c.reported]
    sentences = [_decline(c) for c in reported if c.trajectory.verdict == "hurts"]
    for benchmark in dict.fromkeys(c.benchmark for c in reported):
        own = [c for c in reported if c.benchmark == benchmark]
        where = "mean accuracy" if benchmark == ALL else benchmark
        same = [c.scope for c in own if c.trajectory.verdict == "no meaningful effect"]
        if same:
            # Of several curves at once the error rate of an equality is not controlled.
            each = ", each judged by itself" if len(same) > 1 else ""
            sentences.append(f"{where}: no decline that matters in {_few(same)}{each}")
        unknown = [c for c in own if c.trajectory.verdict == "inconclusive"]
        if unknown:
            known = [
                c.trajectory.detectable_effect
                for c in unknown
                if c.trajectory.detectable_effect == c.trajectory.detectable_effect
            ]
            least = f"; declines from {formats.points(min(known))} points up could be found" if known else ""
            sentences.append(
                f"{where}: whether it degrades is not settled in {_few([c.scope for c in unknown])}{least}"
            )
    return sentences


def _few(scopes: list[str]) -> str:
    if len(scopes) <= _MOST_SCOPES:
        return ", ".join(scopes)
    return f"{', '.join(scopes[: _MOST_SCOPES - 1])} and {len(scopes) - _MOST_SCOPES + 1} other curves"


def _decline(curve: AccuracyCurve) -> str:
    f = curve.trajectory
    where = "mean accuracy" if curve.benchmark == ALL else curve.benchmark
    change = f"step {f.change}"
    if f.change_low != f.change_high:
        change += f" (95 %: {f.change_low} to {f.change_high})"
    whose = " of this one run" if curve.runs == 1 else ""
    return (
        f"{where} in {curve.scope} peaks at step {f.peak} and degrades after {change}: the later checkpoints{whose} "
        f"score {formats.points(f.effect, signed=True)} points, at best {formats.points(f.ci_high, signed=True)}, "
        f"p = {formats.p_text(f.p_adjusted)} after the search for the change"
    )


def _incomplete(analysis: Analysis) -> str:
    return " ".join(
        filter(None, (_unfinished(analysis), _damaged(analysis), _left_out(analysis), _looks(analysis)))
    )


def _looks(analysis: Analysis) -> str:
    """That the study was judged before, and what that costs."""
    looks = analysis.looks
    if len(looks.information) < 2 and not looks.declared:
        return ""
    return (
        f"This is look {len(looks.information)} at this study: verdicts are given at an error rate of "
        f"{looks.level:.2%}, later looks have {looks.left:.2%} left."
    )


def _left_out(analysis: Analysis) -> str:
    """Benchmarks and questions that the primary verdicts do without."""
    parts = []
    primary = analysis.primary()
    if primary and analysis.left_out:
        parts.append(f"Verdicts leave out {', '.join(analysis.left_out)}: not measured on every level.")
    if primary and analysis.runs_left_out:
        names = analysis.runs_left_out
        shown = ", ".join(names[:_MOST_LUCKY]) + (", …" if len(names) > _MOST_LUCKY else "")
        runs = "1 run that was" if len(names) == 1 else f"{len(names)} runs that were"
        parts.append(f"Verdicts leave out {runs} not measured on every benchmark and length: {shown}.")
    fewest = min((j.questions for j in primary if j.questions), default=analysis.asked)
    if fewest < analysis.asked:
        parts.append(
            f"Verdicts rest on {fewest} of {analysis.asked} questions: the others were not measured on every run."
        )
    return " ".join(parts)


def _unfinished(analysis: Analysis) -> str:
    runs = analysis.study.runs
    other = runs.loc[runs["status"] != "finished", "status"]
    if other.empty:
        return ""
    counts = ", ".join(f"{n} {status}" for status, n in sorted(other.value_counts().items()))
    cancelled = runs.loc[runs["status"] == "cancelled", "label"]
    named = f" Cancelled: {', '.join(f'[{label}]' for label in cancelled)}." if len(cancelled) else ""
    return (
        f"{len(other)} of {len(runs)} runs are not finished ({counts}); verdicts rest on the others.{named}"
    )


def _damaged(analysis: Analysis) -> str:
    """What a damaged record keeps out of the report, and how to heal it."""
    study = analysis.study
    if not study.damaged:
        return ""
    labels = {
        str(run["error"]): f"[{run['label']}]"
        for run in records(study.runs[study.runs["status"] == "damaged"])
    }
    shown = "; ".join(f"{labels.get(str(e), 'a call of harness.ablate')} ({e})" for e in study.damaged)
    out = "FOLDER" if study.sources else study.out
    return (
        f"Left out of every table, costs included, for a damaged record: {shown}. "
        f"`python -m harness.ablate --grid GRID --out {out}` makes again what was damaged."
    )
