"""Damages the files of a small matrix, one at a time, and asks what the report says and whether `ablate` heals it.

    python -m tests.campaigns.damage                 2,000 faults; given again, it continues
    python -m tests.campaigns.damage --faults 200 --heal-every 5

One folder is finished, the other was stopped half way, with a run cancelled. Each fault hits one file of a copy, of
a kind drawn first, so that every kind is hit as often: a flipped bit, a cut, a deletion, a change of places with
another file or folder, a line that is doubled or changes places with the next, bytes behind the end.

The report must give the same tables, or name what is damaged: by leaving a run out (exit 0), or by refusing the
folder (exit 2). Never another table, never exit 4, never a traceback. Of every tenth fault, `ablate` must then
complete the folder, with the same rows of `tables/accuracy.csv` as the undisturbed one, and the same verdicts on
accuracy. Results: results/campaigns/damage.json and damage.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .chaos import ForkExecutor, Place, reap, wait

RESULTS = Path(__file__).resolve().parents[2] / "results" / "campaigns"
GRID = """
name: damage
question: Is damage found, and healed?
base:
  model: tiny
  data: {size: 40, sources: [{source: sums, terms: [2]}]}
  rollout: {prompts_per_step: 2, completions_per_prompt: 2, max_completion_tokens: 6}
  reward: {functions: [{name: format}]}
  optimizer: {learning_rate: 1e-3, schedule: wsd, decay_fraction: 0.5}
  training: {checkpoint_every: 1, keep: resumable}
axes:
  steps: {training.steps: [2, 4]}
seeds: [0, 1]
evaluate:
  samples: 2
  max_completion_tokens: 6
  benchmarks:
    - {name: sums-2, questions: 4, source: {source: sums, terms: [2], digits: [1]}}
    - {name: sums-3, questions: 3, source: {source: sums, terms: [3], digits: [1]}}
hardware: {device: cpu, devices_per_run: 1, retries: 2}
lint: {waive: {reward-prefers-wrong: what is learned does not matter here}}
"""
HEALED = ("accuracy.csv", "verdicts.csv")
"""Tables that are the same when a run is made again; but for verdicts on times, see `timeless`."""
OWN_FIGURES = ("questions", "samples", "accuracy", "ci_low", "ci_high")
SAME, NAMED, REFUSED = "same tables", "left out by name", "refused by name"
FAULTS = ("flip", "cut", "delete", "swap", "double", "reorder", "garbage")
_LINES = ("double", "reorder")
_FOLDERS = {"run": "runs/*", "attempt": "runs/*/attempt-*", "checkpoint": "runs/*/checkpoints/step-*"}


class Folders(Place):
    """The two folders, what their reports say undisturbed, and the tables that each ends with when it is completed.

    Args:
        folder: where they are, with the copies of trials.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.grid.write_text(GRID)
        self.outs = {"finished": folder / "finished" / "out", "half": folder / "half" / "out"}
        self._complete(self.outs["finished"])
        self._stop_half_way(self.outs["half"])
        self.calm, self.whole = {}, {}
        for name, out in self.outs.items():
            code, text = report(out)
            assert code == 0, text
            self.calm[name] = tables(out)
            copy = self.copy(name, links=False)
            self._complete(copy)
            self.whole[name] = tables(copy)
            shutil.rmtree(copy.parent)

    def _complete(self, out):
        out.parent.mkdir(parents=True, exist_ok=True)
        code = wait(self.launch(out))
        reap()
        if code != 0:
            raise RuntimeError(f"ablate ended with {code}: {(self.folder / 'log.txt').read_text()[-2000:]}")

    def _stop_half_way(self, out):
        """Stops the matrix in its second run that trains, and cancels one of the runs that have not begun."""
        from harness.store.cancellations import Cancellations
        from harness.store.folders import Store

        out.parent.mkdir(parents=True)
        pid = self.launch(out)
        while len({path.parts[-3] for path in out.glob("runs/*/checkpoints/step-*")}) < 2:
            time.sleep(0.002)
        os.kill(pid, signal.SIGINT)
        assert wait(pid) == 130
        reap()
        last = Store(out).plan().jobs[-1]
        Cancellations(out).request(last.run, last.label)

    def _ablate(self, out, faults):
        from harness import ablate
        from harness.matrix.execution import run_matrix, scheduler

        run_matrix.make_executor = lambda name: ForkExecutor(faults)
        scheduler.BACKOFF_SECONDS = 0.05
        return ablate.main(["--grid", str(self.grid), "--out", str(out), "--workers", "1"])

    def copy(self, name, *, links):
        """A copy of a folder, of hard links where nothing will be appended to its files."""
        out = self.folder / "trials" / f"{name}-{os.urandom(4).hex()}" / "out"
        shutil.copytree(self.outs[name], out, copy_function=os.link if links else shutil.copy2)
        return out

    def healed(self, name, out):
        """Completes a damaged folder; what is wrong with it then, None if nothing is."""
        try:
            self._complete(out)
        except RuntimeError as error:
            return str(error)
        made, known = tables(out), self.whole[name]
        differ = [table for table in HEALED if timeless(made[table]) != timeless(known[table])]
        return f"other tables: {', '.join(differ)}" if differ else None


def tables(out):
    """Every table as text, by name."""
    return {path.name: path.read_text() for path in sorted((out / "tables").glob("*.csv"))}


def report(out):
    """Exit code of `harness.report`, without its drawings, and what it printed and wrote on top of its page."""
    from harness import report as command

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = command.main([str(out)])
    return code, printed.getvalue()


def kind_of(path):
    """What a file of an output folder is, by its path in it."""
    first, name = path.parts[0], path.name
    if first == "runs":
        if "checkpoints" in path.parts:
            return name if name in ("state.json", "optimizer.safetensors") else (
                "weights" if path.suffix == ".safetensors" else "other file of a checkpoint"
            )  # fmt: skip
        if "evaluations" in path.parts:
            return "samples" if path.suffix == ".parquet" else "evaluation"
        known = ("run.json", "attempt.json", "end.json", "steps.jsonl", "events.jsonl", "contents.json")
        return name if name in known else "log and traces"
    if first in ("invocations", "cancelled"):
        return first
    if name in ("listing.jsonl", "plan.json", "grid.resolved.json", "lint.json", "looks.json", ".looks.json"):
        return name
    return "derived or empty"


def census(out):
    """Files by kind, and folders by kind, as paths in the folder."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            inside = path.relative_to(out)
            found.setdefault(kind_of(inside), []).append(inside)
    for kind, pattern in _FOLDERS.items():
        found[f"folder of a {kind}"] = sorted(p.relative_to(out) for p in out.glob(pattern) if p.is_dir())
    return found


def inflict(out, path, fault, others, rng):
    """Damages `path`; what it was, in words. None where this fault says nothing of this file."""
    target = out / path
    if fault == "delete":
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        return "deleted"
    if fault == "swap":
        choice = [other for other in others if other != path]
        if not choice:
            return None
        other, aside = out / rng.choice(choice), target.with_name(f"{target.name}.aside")
        target.rename(aside)
        other.rename(target)
        aside.rename(other)
        return f"in the place of {other.relative_to(out)}"
    if target.is_dir():
        return None
    content = target.read_bytes()
    changed, words = _changed(content, fault, rng)
    if changed is None or changed == content:
        return None
    target.unlink()  # a hard link
    target.write_bytes(changed)
    return words


def _changed(content, fault, rng):
    """Other content of a file, and what was done to it in words."""
    if fault == "garbage":
        tail = rng.choice([rng.randbytes(20), b"{}\n", b'{"schema": 2}\n', b"\n"])
        return content + tail, f"{tail!r} behind the end"
    if not content:
        return None, ""
    if fault == "flip":
        bit = rng.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed), f"bit {bit}"
    lines = content.splitlines(keepends=True)
    if fault == "cut":
        length = len(b"".join(lines[: rng.randrange(len(lines))])) if rng.random() < 0.5 else None
        length = rng.randrange(len(content)) if length is None else length
        return content[:length], f"{length} of {len(content)} bytes left"
    number = rng.randrange(len(lines))
    if fault == "double":
        return b"".join([*lines[:number], lines[number], *lines[number:]]), f"line {number + 1} twice"
    lines[number : number + 2] = lines[number : number + 2][::-1]
    return b"".join(lines), f"line {number + 1} behind the next"


def judged(code, text, found, calm, path):
    """What the report makes of it, or what is wrong with that."""
    if code not in (0, 2) or "Traceback" in text:
        return f"WRONG: exit {code}: {text[-500:]}"
    named = path.name in text or any(part in text for part in path.parts[1:2])
    if code == 2:
        return REFUSED if named else f"WRONG: refused without its name: {text[-500:]}"
    if found == calm:
        return SAME
    if not named or "Left out of every table" not in text:
        differ = sorted(name for name in calm.keys() | found.keys() if calm.get(name) != found.get(name))
        return f"WRONG: other tables in silence: {', '.join(differ)}"
    known, now = (own_figures(each["accuracy.csv"]) for each in (calm, found))
    other = [key for key, figures in now.items() if any(figures) and figures != known.get(key)]
    return f"WRONG: other figures beside those left out: {other[:2]}" if other else NAMED


def own_figures(table):
    """What the cells of `accuracy.csv` have of their own, not by comparison with others; by run, step, benchmark."""
    rows = csv.DictReader(io.StringIO(table))
    return {(r["run"], r["step"], r["benchmark"]): [r[name] for name in OWN_FIGURES] for r in rows}


def timeless(table):
    """The rows of a table that no clock has a part in."""
    return [row for row in csv.DictReader(io.StringIO(table)) if row.get("metric", "accuracy") == "accuracy"]


def trial(folders, number, *, heal, seed=0):
    """One fault: where, what, what the report says, and whether it is healed (None where that was not tried)."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(folders.outs))
    out = folders.copy(name, links=not heal)
    try:
        found = census(out)
        words = None
        while words is None:
            kind, fault = rng.choice(sorted(found)), rng.choice(FAULTS)
            if not found[kind]:
                continue
            path = rng.choice(found[kind])
            if fault in _LINES and path.suffix != ".jsonl":
                continue
            words = inflict(out, path, fault, found[kind], rng)
        code, text = report(out)
        outcome = judged(code, text, tables(out), folders.calm[name], path)
        healed = (folders.healed(name, out) or "yes") if heal else None
    finally:
        shutil.rmtree(out.parent)
    row = {"number": number, "folder": name, "kind": kind, "fault": fault, "file": path.name, "words": words}
    return {**row, "outcome": outcome, "healed": healed}


def summary(rows):
    """The figures as Markdown: outcomes by kind of file and by fault."""
    outcomes = (SAME, NAMED, REFUSED)
    wrong = [row for row in rows if row["outcome"] not in outcomes or row["healed"] not in (None, "yes")]
    tried = sum(row["healed"] is not None for row in rows)
    lines = [
        "# Damage",
        "",
        f"{len(rows):,} faults, one at a time, in a finished folder and in one that was stopped half way; "
        f"{len(wrong)} wrong. {tried} were given to `harness.ablate` afterwards, of which "
        f"{sum(row['healed'] == 'yes' for row in rows)} ended with the undisturbed accuracies and verdicts.",
        "",
        "Wrong is: another table without a word, exit 4, a traceback, or other tables after healing. The weights of "
        "a checkpoint are verified when it is used, so the report says nothing of them. The runs learn next to "
        "nothing in their few tokens: what is compared after healing are mostly intervals and counts of zero right.",
    ]
    for column in ("kind", "fault"):
        lines += [
            "",
            f"| {column} | faults | {' | '.join(outcomes)} | wrong | healed of |",
            "|---|" + "---:|" * 6,
        ]
        for value in sorted({row[column] for row in rows}):
            own = [row for row in rows if row[column] == value]
            count = Counter(row["outcome"] for row in own)
            healed = (
                f"{sum(r['healed'] == 'yes' for r in own)} of {sum(r['healed'] is not None for r in own)}"
            )
            shown = " | ".join(str(count[outcome]) for outcome in outcomes)
            lines.append(
                f"| {value} | {len(own)} | {shown} | {sum(row in wrong for row in own)} | {healed} |"
            )
    lines += [""] + [f"- wrong: {json.dumps(row)}" for row in wrong]
    return "\n".join(lines).rstrip() + "\n"


def quiet():
    """Reports without drawings, which take most of their time and are of the tables' figures."""
    from harness.reporting import report as writing

    writing.draw = lambda *_: []


def main(argv=None):
    """Exit code: 0 all is found and healed, 1 something is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=2000)
    parser.add_argument("--heal-every", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    file = arguments.out / "damage.json"
    rows = json.loads(file.read_text())["trials"] if file.exists() else []
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        folders = Folders(Path(folder))
        for number in range(len(rows), arguments.faults):
            heal = number % arguments.heal_every == 0
            rows.append(trial(folders, number, heal=heal, seed=arguments.seed))
            if "WRONG" in rows[-1]["outcome"] or rows[-1]["healed"] not in (None, "yes"):
                print(json.dumps(rows[-1]), flush=True)
            if number % 50 == 49 or number + 1 == arguments.faults:
                lines = ",\n".join(map(json.dumps, rows))
                file.write_text(f'{{"seed": {arguments.seed}, "trials": [\n{lines}\n]}}\n')
                (arguments.out / "damage.md").write_text(summary(rows))
                print(f"{number + 1} faults", flush=True)
    return int("0 wrong." not in summary(rows))


if __name__ == "__main__":
    sys.exit(main())
