"""How a worker is started, the same on every executor."""

from __future__ import annotations

import sys

WORKER = (sys.executable, "-m", "harness.matrix.worker")
"""Its command, before the run's folder."""

ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",  # forks of a tokenizer that has threads warn, and may hang
    "PYTHONHASHSEED": "0",  # set order is part of "same inputs, same outputs"
    "PYTHONUNBUFFERED": "1",
}
"""What every worker has in its environment."""
