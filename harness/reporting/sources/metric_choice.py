"""The one metric by which a benchmark is compared, and its value as a fraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.reporting.sources.choices import chosen
from harness.reporting.sources.metric_names import Metric
from harness.reporting.sources.reading_notes import few
from harness.spec.errors import SpecError

_NEAR = 0.02


def choose_metric(
    benchmark: str,
    found: Sequence[Mapping[Metric, float]],
    *,
    wanted: tuple[str | None, bool],
    filtered: tuple[str | None, bool],
) -> Metric | None:
    """The metric that most files have of a benchmark; among those the one that its name ranks first.

    Args:
        benchmark: its name.
        found: the metrics of every file that has the benchmark.
        wanted: name of the metric that is asked for, and whether it is asked for of this benchmark alone.
        filtered: likewise lm-eval's filter.

    Returns:
        None where no metric is known as an accuracy, or where what is asked for in general is not there.

    Raises:
        SpecError: what is asked for of this benchmark is not there.
    """
    order = list(dict.fromkeys(metric for metrics in found for metric in metrics))
    eligible = [m for m in order if m.rank is not None]
    for (name, strict), what, fits in (
        (wanted, "metric", lambda m, name: name in (m.key, m.name, f"{m.name},none")),
        (filtered, "filter", lambda m, name: name == (m.filter or "none")),
    ):
        if name is None:
            continue
        # A metric that is asked for by name need not be known as an accuracy.
        pool = order if what == "metric" else eligible
        fitting = [m for m in pool if fits(m, name)]
        if not fitting and strict:
            raise SpecError(
                f"--{what} {benchmark}={name}: no such {what}", hint=f"it has {few(m.key for m in order)}"
            )
        eligible = fitting or eligible
    counts = {m: sum(m in metrics for metrics in found) for m in eligible}
    return min(
        eligible,
        key=lambda m: (-counts[m], m.rank or (9, 0), order.index(m)),
        default=None,
    )


def check_choices(option: str, given: Sequence[str], tasks: Sequence[str], known: Sequence[str]) -> None:
    """Refuses a filter or metric that no file has.

    Raises:
        SpecError: with what there is.
    """
    general, _ = chosen(given, "", tasks)
    if general is not None and general not in known:
        task = general.partition("=")[0]
        what = (
            f"no task `{task}`, or no such {option}" if "=" in general else f"no such {option} in these files"
        )
        raise SpecError(
            f"--{option} {general}: {what}",
            hint=f"they have {few(known) if known else 'none'}; tasks: {few(tasks)}",
        )


def as_fraction(value: float, total: int, *, percent: bool) -> float | None:
    """An accuracy as a fraction; None where it is none, or where its scale is not certain.

    Args:
        value: as the file has it.
        total: questions times samples; 0 where unknown.
        percent: whether the metric has values above 1 elsewhere in the files, which only percentages are.
    """
    if not 0 <= value <= 100:
        return None
    if value > 1:
        return value / 100 if value > 1 + 1e-9 else 1.0
    if not percent or value == 0:
        return value
    fits = [abs(v * total - round(v * total)) < _NEAR for v in (value, value / 100)]
    if total == 0 or fits[0] == fits[1]:
        return None
    return value if fits[0] else value / 100
