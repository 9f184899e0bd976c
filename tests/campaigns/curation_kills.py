"""The full-size curation, killed with SIGKILL at random moments and continued, against one that is not killed.

python tests/campaigns/curation_kills.py [--recipe R] [--kills 8] [--out results/curation/offline]

Every file that a curation leaves must be the same to the byte. Goes on where it was; writes the manifest, table and
picture, and `killed.json` with what was compared, to --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = (
    "manifest.json",
    "recipe.resolved.json",
    "tables/funnel.csv",
    "tables/funnel.md",
    "figures/funnel.svg",
)
"""What is small enough to be committed."""


def curate(recipe: Path, out: Path, kill_after: float | None) -> bool:
    """Runs the command; whether it ended by itself."""
    command = [sys.executable, "-m", "harness.curate", "--recipe", str(recipe), "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        code = process.wait(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    if code != 0:
        raise SystemExit(f"harness.curate ended with {code}")
    return True


def hashes(out: Path) -> dict[str, str]:
    """sha256 of every file but locks, by its path."""
    paths = sorted(p for p in out.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def comparable(found: dict[str, str]) -> dict[str, str]:
    """Without the parts of the models' stages, which hold how long they took."""
    return {name: digest for name, digest in found.items() if "/part-" not in name}


def main() -> int:
    """Exit code: 0 all the same, 1 something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "curation" / "offline.yaml")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seconds", type=float, nargs=2, default=(20.0, 90.0), help="between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "runs" / "curation-kills")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "curation" / "offline")
    arguments = parser.parse_args()
    whole, killed = arguments.work / "whole", arguments.work / "killed"
    rng = random.Random(arguments.seed)
    kills = 0
    while kills < arguments.kills and not curate(arguments.recipe, killed, rng.uniform(*arguments.seconds)):
        kills += 1
        print(f"killed {kills} times; {len(list(killed.rglob('*.parquet')))} parts on file", flush=True)
    start = time.perf_counter()
    curate(arguments.recipe, killed, None)
    print("the killed one ended", flush=True)
    curate(arguments.recipe, whole, None)
    print(f"the other ended after {time.perf_counter() - start:.0f} s", flush=True)
    first, second = comparable(hashes(whole)), comparable(hashes(killed))
    differ = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    for name in KEPT:
        (arguments.out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(killed / name, arguments.out / name)
    report = {"kills": kills, "files_compared": len(first), "differ": differ, "sha256": first}
    (arguments.out / "killed.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"{kills} kills, {len(first)} files compared, {len(differ)} differ {differ}", flush=True)
    return 1 if differ or not kills else 0


if __name__ == "__main__":
    sys.exit(main())
