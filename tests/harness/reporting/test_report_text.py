"""The whole text of a report, against one on file.

After a change of the text that is meant: `WRITE_REPORT=1 pytest tests/harness/reporting/test_report_text.py`, and
read what `git diff` shows.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.reporting import build

ON_FILE = Path(__file__).parent / "assets" / "report.md"

EFFECTS = {("length_cap", "32"): 0.12, ("reward", "cosine"): -0.12}


def masked(text: str) -> str:
    """The text without what differs between two days: every time of day."""
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}", "TIME", text)


def test_report_of_a_planted_study(study_at, tmp_path):
    """One axis helps, one hurts, one does nothing, and one run fails: every section but the lint's has something."""
    out = study_at(
        tmp_path / "planted",
        effects=EFFECTS,
        failed=(4,),
        seeds=(0, 1),
        benchmarks={"easy": 80, "hard": 80},
        steps=(4, 8, 16),
    )
    build(out, echo=False)
    text = masked((out / "report.md").read_text(encoding="utf-8"))
    if os.environ.get("WRITE_REPORT"):
        ON_FILE.write_text(text, encoding="utf-8")
    assert text.splitlines() == ON_FILE.read_text(encoding="utf-8").splitlines()
