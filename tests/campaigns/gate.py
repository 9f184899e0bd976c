"""Does the gate stay quiet, and does it wake? `python tests/campaigns/gate.py`

Runs `harness.regress --quick` on two copies of this tree, and on a copy whose head's kernel spends 5 % more processor
time in every forward and backward pass. Every run is a row of `results/campaigns/gate.json`, from which the same
command continues; `gate.md` beside it has the counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results" / "campaigns"

SLOWER = """

def _slower(work):
    import time

    def wrapped(*arguments):
        begin = time.process_time()
        result = work(*arguments)
        end = begin + {factor!r} * (time.process_time() - begin)
        while time.process_time() < end:
            pass
        return result

    return staticmethod(wrapped)


_TokenLogprob.forward = _slower(_TokenLogprob.forward)
_TokenLogprob.backward = _slower(_TokenLogprob.backward)
"""


def copy_tree(target: Path, slowdown: float = 0.0) -> Path:
    """A copy of the product, its head's kernel slower by `slowdown` of its own processor time."""
    for package in ("harness", "kernels"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    if slowdown:
        with (target / "kernels" / "token_logprob" / "autograd.py").open("a") as file:
            file.write(SLOWER.format(factor=1 + slowdown))
    return target


def gate(baseline: Path, candidate: Path, out: Path, seed: int, *options: str) -> dict[str, object]:
    """One gate run."""
    begin = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "harness.regress",
        "--baseline",
        str(baseline),
        "--candidate",
        str(candidate),
    ]
    done = subprocess.run(
        [*command, "--quick", "--quiet", "--seed", str(seed), "--out", str(out), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    row: dict[str, object] = {
        "seed": seed,
        "exit_code": done.returncode,
        "seconds": round(time.monotonic() - begin, 1),
        "load": round(os.getloadavg()[0], 1),
    }
    if (file := out / "regress.json").exists():
        data = json.loads(file.read_text())
        row |= {"headline": data["headline"], "device": data["provenance"].get("device")}
        row["findings"] = [
            {"kind": f["kind"], "name": f["name"], "note": f["note"], **f["comparison"]}
            for f in data["findings"]
        ]
    else:
        row["error"] = done.stderr.strip()[-500:]
    return row


def summary(rows: dict[str, list[dict[str, object]]], slowdown: float) -> str:
    """Counts and every run, as Markdown."""
    words = {0: "quiet", 1: "regression", 3: "undecided"}
    lines = [f"# The gate against itself and against a {100 * slowdown:g} % slower kernel", ""]
    for name, runs in rows.items():
        counts = {
            code: sum(r["exit_code"] == code for r in runs) for code in sorted({r["exit_code"] for r in runs})
        }
        told = ", ".join(f"{n} {words.get(code, f'exit code {code}')}" for code, n in counts.items())
        seconds = sorted(float(r["seconds"]) for r in runs)
        middle = seconds[len(seconds) // 2] if seconds else 0.0
        lines.append(f"* **{name}**: {len(runs)} runs: {told}; median {middle:.0f} s a run")
    lines += [
        "",
        "| runs | seed | exit code | seconds | load | says |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in rows.items():
        for r in runs:
            says = str(r.get("headline", r.get("error", ""))).replace("|", "\\|").replace("\n", " ")
            lines.append(
                f"| {name} | {r['seed']} | {r['exit_code']} | {r['seconds']} | {r['load']} | {says} |"
            )
    return "\n".join([*lines, ""])


def main() -> int:
    """Runs what is missing; exit code 1 where the counts are not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--same", type=int, default=40, help="runs of the tree against itself; default %(default)s"
    )
    parser.add_argument(
        "--slower", type=int, default=20, help="runs against the slower one; default %(default)s"
    )
    parser.add_argument("--slowdown", type=float, default=0.05, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="default results/campaigns")
    parser.add_argument("options", nargs="*", help="further options of harness.regress, after --")
    arguments = parser.parse_args()
    file = arguments.out / "gate.json"
    rows: dict[str, list[dict[str, object]]] = {"same": [], "slower": []}
    if file.exists():
        rows |= json.loads(file.read_text())["runs"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gate-campaign-") as name:
        folder = Path(name)
        baseline = copy_tree(folder / "baseline")
        candidates = {
            "same": copy_tree(folder / "same"),
            "slower": copy_tree(folder / "slower", arguments.slowdown),
        }
        # In turn, so that both kinds meet the same hours of the machine.
        wanted = {"same": arguments.same, "slower": arguments.slower}
        while any(len(rows[k]) < n for k, n in wanted.items()):
            kind = min(
                (k for k, n in wanted.items() if len(rows[k]) < n), key=lambda k: len(rows[k]) / wanted[k]
            )
            seed = len(rows[kind])
            row = gate(baseline, candidates[kind], folder / f"{kind}-{seed}", seed, *arguments.options)
            rows[kind].append(row)
            print(
                f"{kind} {seed}: {row['exit_code']} in {row['seconds']} s, {row.get('headline', row.get('error'))}"
            )
            sys.stdout.flush()
            partial = file.with_suffix(".tmp")
            partial.write_text(json.dumps({"slowdown": arguments.slowdown, "runs": rows}, indent=1))
            partial.replace(file)
            (arguments.out / "gate.md").write_text(summary(rows, arguments.slowdown))
    alarms = sum(r["exit_code"] != 0 for r in rows["same"])
    caught = sum(r["exit_code"] == 1 for r in rows["slower"])
    print(f"{alarms} alarms in {len(rows['same'])} runs; {caught} of {len(rows['slower'])} slow-downs caught")
    return int(alarms > 0 or caught < 0.9 * len(rows["slower"]))


if __name__ == "__main__":
    sys.exit(main())
