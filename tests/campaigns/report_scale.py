"""Time and memory of reports on large studies: `python tests/campaigns/report_scale.py`.

Writes synthetic result folders (1,000 cells × 500 questions × 8 samples; 200 cells), reports on each in a process of
its own and opens the 200-cell page in headless Chromium where there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MOST_SECONDS, MOST_GIB = 60.0, 2.0
HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'> 12 + 7 = \\boxed{19} "

THOUSAND: dict[str, Any] = {
    "axes": {
        "data": ("easy", "mixed", "hard", "long", "old"),
        "length_cap": ("16", "32", "64", "128", "256"),
        "reward": ("accuracy", "cosine"),
    },
    "seeds": (0, 1, 2, 3, 4),
    "steps": (10, 20, 30, 40),
    "benchmarks": {"questions": 500},
    "samples": 8,
}
TWO_HUNDRED: dict[str, Any] = {
    "axes": {
        "data": ("easy", "mixed", "hard", "long", "old"),
        "length_cap": ("16", "32"),
        "reward": ("accuracy", "cosine"),
    },
    "seeds": (0, 1),
    "steps": (10, 20, 30, 40, 50),
    "benchmarks": {"easy": 60, "hard": 40},
    "samples": 4,
}  # fmt: skip


def toy() -> Any:
    """The toy trainer of the report's tests."""
    file = ROOT / "tests" / "harness" / "reporting" / "conftest.py"
    spec = importlib.util.spec_from_file_location("toy_trainer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_trainer"] = module
    spec.loader.exec_module(module)
    return module


def write(folder: Path, settings: dict[str, Any]) -> Path:
    """A synthetic study with planted effects and completions that are HTML."""
    trainer = toy()
    effects = {("length_cap", "32"): 0.08, ("reward", "cosine"): -0.05}
    return Path(trainer.make_study(folder, trainer.Toy(effects=effects, text=HOSTILE * 3, **settings)))


def measure(folder: Path) -> dict[str, Any]:
    """Wall-clock and processor seconds and peak resident memory of `python -m harness.report`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "harness.report", str(folder), "--quiet"],
        cwd=ROOT,
        env=environment,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    plan = json.loads((folder / "plan.json").read_text())
    return {
        "cells": len(plan["cells"]),
        "exit": done.returncode,
        "wall_seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_gib": round(after.ru_maxrss / 2**20, 2),
        "html_bytes": (folder / "report.html").stat().st_size,
    }


def browser() -> Callable[..., dict[str, Any]] | None:
    """`look` of browser.py, None where there is no Chromium."""
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    look: Callable[..., dict[str, Any]] = module.look
    return look if module.CHROMIUM else None


def main() -> int:
    """Exit code: 0 within bounds, 1 not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "campaigns" / "report_scale.json")
    parser.add_argument("--keep", type=Path, help="where the synthetic folders go and stay")
    parser.add_argument("--only", choices=("thousand", "two-hundred"))
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or Path(scratch)
        for name, settings in (("thousand", THOUSAND), ("two-hundred", TWO_HUNDRED)):
            if arguments.only in (None, name):
                folder = root / name
                if not (folder / "plan.json").exists():
                    write(folder, settings)
                found[name] = measure(folder)
                look = browser()
                if look is not None and name == "two-hundred":
                    opened = look(folder / "report.html", arguments.shots)
                    found[name]["browser"] = {k: v for k, v in opened.items() if k not in ("report", "bytes")}
                print(name, json.dumps(found[name]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    large = found.get("thousand", {"cpu_seconds": 0, "peak_gib": 0, "exit": 0})
    return int(large["cpu_seconds"] > MOST_SECONDS or large["peak_gib"] > MOST_GIB or large["exit"] != 0)


if __name__ == "__main__":
    sys.exit(main())
