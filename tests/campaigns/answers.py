"""The answer checker on CHAMP's 270 answers and on generated ones: equivalent forms, perturbed ones, hostile ones.

    python -m tests.campaigns.answers                  everything, about 10 minutes on one core
    python -m tests.campaigns.answers --per-kind 5 --every 12 --hostile 40

Every reference answer is rewritten in at least five equivalent forms, all of which must be accepted, and perturbed
in at least three ways, none of which may be. Hostile answers must each be judged wrong within five processor
seconds, with the pool alive and its memory bounded. Results: results/campaigns/answers.json and answers.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.data.champ import load_champ
from harness.data.seeding import seeded_rng
from harness.rewards.answers import AnswerChecker
from tests.campaigns.answer_forms import Golds, champ, generated
from tests.campaigns.hostile_answers import hostile

OUT = Path("results/campaigns")
SECONDS = 5.0
"""What a hostile answer may take, in processor time."""
MIB = 1024
"""Address space of a worker; what a worker holds must stay below it."""
BATCH = 25


@dataclass
class Count:
    """What happened to the forms of one kind of answer."""

    golds: int = 0
    equivalent: int = 0
    accepted: int = 0
    perturbed: int = 0
    rejected: int = 0
    fewest_forms: int = 10**9
    failures: list[dict[str, str]] = field(default_factory=list)


def judge(checker: AnswerChecker, golds: Golds, counts: dict[str, Count]) -> None:
    """Judges every form of some references, and counts."""
    asked = [(form, gold.text) for gold in golds for form in (*gold.right, *gold.wrong)]
    checks = iter(
        checker.check_many([(f"so it is\n</think>\n\\boxed{{{form}}}", gold) for form, gold in asked])
    )
    for gold in golds:
        count = counts[gold.kind]
        count.golds += gold.times
        count.fewest_forms = min(count.fewest_forms, len(set(gold.right)))
        for forms, wanted in ((gold.right, True), (gold.wrong, False)):
            for form in forms:
                check = next(checks)
                if wanted:
                    count.equivalent += 1
                    count.accepted += check.correct
                else:
                    count.perturbed += 1
                    count.rejected += not check.correct
                if check.correct is not wanted:
                    count.failures.append({"gold": gold.text, "form": form, "reason": check.reason})


@dataclass
class Hostility:
    """What hostile answers came to."""

    answers: int = 0
    accepted: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    slowest: str = ""
    peak_worker_mib: float = 0.0
    parent_growth_mib: float = 0.0
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    alive_afterwards: bool = False


def spent_seconds(checker: AnswerChecker) -> float:
    """Processor time of this process and of the checker's workers, forks that have ended included."""
    total = time.process_time()
    for worker in checker.workers:
        for pid in (worker.process.pid if worker.process else None, worker.fork_pid):
            if pid is not None and psutil.pid_exists(pid):
                total += sum(psutil.Process(pid).cpu_times()[:4])
    return total


def suffer(answers: dict[str, str], *, gold: str = "x^2+1") -> Hostility:
    """Judges hostile answers one by one, as a fresh batch each, with a checker of default settings."""
    found, own = Hostility(), psutil.Process()
    with AnswerChecker() as checker:
        before = own.memory_info().rss
        for name, answer in answers.items():
            if found.answers % 20 == 19:
                print(f"hostile answers: {found.answers + 1} of {len(answers)}", flush=True)
            # Start-up of a replacement is told apart: it happens between answers, while the trainer goes on.
            ready = checker.check("\\boxed{y+2}", "2+y").correct
            checker.forget()
            start = spent_seconds(checker)
            check = checker.check(f"</think>\n\\boxed{{{answer}}}", gold)
            seconds = spent_seconds(checker) - start
            found.answers += 1
            found.reasons[check.reason or "accepted"] += 1
            if check.correct or not ready:
                found.accepted.append(name)
            if seconds > SECONDS:
                found.slow.append(f"{name}: {seconds:.1f} s")
            if seconds > found.slowest_seconds:
                found.slowest_seconds, found.slowest = seconds, name
            for worker in checker.workers:
                if worker.fork_pid is not None and psutil.pid_exists(worker.fork_pid):
                    held = psutil.Process(worker.fork_pid).memory_info().rss / 2**20
                    found.peak_worker_mib = max(found.peak_worker_mib, held)
        found.parent_growth_mib = (own.memory_info().rss - before) / 2**20
        found.alive_afterwards = checker.check("\\boxed{\\frac{2x}{2}+1}", "x+1").correct
    return found


def run(*, per_kind: int, every: int, hostile_count: int | None, out: Path | None) -> int:
    """The campaign; returns how many forms were misjudged and hostile answers went wrong."""
    start, cpu = time.monotonic(), time.process_time()
    counts: dict[str, Count] = defaultdict(Count)
    golds = champ(load_champ())[::every] + generated(seeded_rng("answers"), per_kind=per_kind)
    with AnswerChecker(timeout_seconds=20) as checker:
        for done in range(0, len(golds), BATCH):
            judge(checker, golds[done : done + BATCH], counts)
            if done % (20 * BATCH) == 0:
                print(f"references: {done} of {len(golds)}, {time.monotonic() - start:.0f} s", flush=True)
        spent = psutil.Process().children(recursive=True)
        cpu = time.process_time() - cpu + sum(sum(p.cpu_times()[:2]) for p in spent)
    answers = dict(list(hostile().items())[:hostile_count])
    suffered = suffer(answers)
    misjudged = sum(len(c.failures) for c in counts.values())
    bad = misjudged + len(suffered.accepted) + len(suffered.slow) + (not suffered.alive_afterwards)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        data = {
            "kinds": {kind: vars(count) for kind, count in sorted(counts.items())},
            "hostile": {**vars(suffered), "reasons": dict(suffered.reasons)},
            "settings": {"per_kind": per_kind, "every": every},
            "wall_seconds": round(time.monotonic() - start, 1),
            "core_seconds_of_references": round(cpu, 1),
        }
        (out / "answers.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        (out / "answers.md").write_text(page(counts, suffered))
    print(
        f"{misjudged} forms misjudged; hostile: {len(suffered.accepted)} accepted, {len(suffered.slow)} slow"
    )
    return bad


def page(counts: dict[str, Count], suffered: Hostility) -> str:
    """The results for people."""
    lines = [
        "# Answers",
        "",
        "`python -m tests.campaigns.answers`: every reference in at least five equivalent forms and at least three",
        "perturbed ones, judged by the accuracy reward's checker.",
        "",
        "| kind | references | fewest forms | equivalent | accepted | perturbed | rejected |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, c in sorted(counts.items()):
        row = (c.golds, c.fewest_forms, c.equivalent, c.accepted, c.perturbed, c.rejected)
        lines.append(f"| {kind} | {' | '.join(map(str, row))} |")
    whole = list(counts.values())
    row = (
        sum(c.golds for c in whole),
        min((c.fewest_forms for c in whole), default=0),
        *(
            sum(getattr(c, name) for c in whole)
            for name in ("equivalent", "accepted", "perturbed", "rejected")
        ),
    )
    lines += [f"| **all** | {' | '.join(map(str, row))} |", ""]
    failures = [(kind, f) for kind, c in sorted(counts.items()) for f in c.failures]
    if failures:
        lines += ["Misjudged:", ""]
        lines += [
            f"- {kind}: `{f['form']}` for `{f['gold']}` ({f['reason'] or 'accepted'})"
            for kind, f in failures[:40]
        ]
        lines.append("")
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(suffered.reasons.items()))
    lines += [
        "## Hostile answers",
        "",
        f"{suffered.answers} answers against `x^2+1`: {reasons}. Slowest {suffered.slowest_seconds:.2f} s "
        f"({suffered.slowest}); {len(suffered.slow)} above {SECONDS:g} s. A worker held at most "
        f"{suffered.peak_worker_mib:.0f} MiB between answers (its address space ends at {MIB}), the parent grew by "
        f"{suffered.parent_growth_mib:.0f} MiB. The pool "
        f"{'judged on afterwards' if suffered.alive_afterwards else 'was dead afterwards'}.",
        "",
        "## What is lenient on purpose",
        "",
        "- `5\\%` is 0.05 and five: references seldom carry the unit that their question asks for.",
        "- A unit that only one side has (`5 \\text{ cm}`, `5`), a degree or a currency sign does not count.",
        "- `(1, 2)` and `1, 2` are the same where the reference has no brackets.",
        "",
        "The whole policy: docs/answers.md.",
        "",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--per-kind", type=int, default=200, help="generated references per kind")
    parser.add_argument("--every", type=int, default=1, help="every n-th of CHAMP's distinct answers")
    parser.add_argument("--hostile", type=int, help="how many of the hostile answers (default: all)")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    bad = run(
        per_kind=arguments.per_kind, every=arguments.every, hostile_count=arguments.hostile, out=arguments.out
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
