"""`harness.ablate` with the fake worker beside this file; a test that wants no report sets `FAKE_NO_REPORT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness import ablate
from harness.matrix.execution import run_matrix as matrix

if os.environ.get("FAKE_NO_REPORT"):
    matrix.report_matrix = lambda _: None
sys.exit(ablate.main(worker=[sys.executable, str(Path(__file__).with_name("fake_worker.py"))]))
