"""Runs that tests execute: without what costs time and proves nothing here."""

from __future__ import annotations

import pytest
import torch

from harness.meters import provenance
from harness.rewards.answers import AnswerChecker
from harness.training import run as run_module


class OpenChecker(AnswerChecker):
    """An answer checker whose process serves all runs of a session: it keeps no state between answers."""

    def close(self):
        pass


@pytest.fixture(scope="session")
def open_checker():
    checker = OpenChecker()
    yield checker
    AnswerChecker.close(checker)


@pytest.fixture(scope="module")
def light_runs(open_checker):
    """Runs on one thread, with one checker process for all, and without measuring the machine."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "collect", lambda: {"commit": "0"})
        patch.setattr(run_module, "measured_peak", lambda **_: 1e11)
        patch.setattr(run_module, "AnswerChecker", lambda: open_checker)
        yield
