"""What all tests share: Triton's interpreter where there is no GPU, no hub, repeatable property tests, and Ctrl-C."""

import contextlib
import gc
import os
import signal
from pathlib import Path

import torch

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    # Triton reads this once, when it is first imported, whichever test imports it.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Without a network every request is tried again for a second. Tests of what a hub says bring their own.
os.environ["HF_HUB_OFFLINE"] = "1"


# Whether bytes reach the disk shows after a power failure alone; waiting for it takes a third of the time of making a
# study. That and when the store asks for it, the campaigns of kills look at, in processes of their own.
os.fsync = lambda handle: None

LONGEST_FIRST = (
    "harness/rollout/test_vllm_engine.py",
    "kernels/grpo_loss/test_extremes.py",
    "harness/stats/test_monte_carlo.py",
    "harness/matrix/execution/test_ablate.py",
    "harness/regression/test_regress.py",
    "campaigns/test_chaos_scale.py",
    "kernels/test_footprint.py",
    "kernels/grpo_loss/test_parity.py",
    "harness/reporting/test_report.py",
    "harness/rewards/test_hostile.py",
    "harness/test_end_to_end.py",
    "harness/matrix/test_gate.py",
    "harness/test_registries.py",
    "harness/matrix/execution/test_probe.py",
    "harness/spec/test_grid_mutations.py",
    "harness/training/test_data_parallel.py",
    "campaigns/test_kills.py",
)
"""Files of a dozen seconds and more, which side by side start first: one that came last would run alone."""


def pytest_collection_modifyitems(items):
    tests = Path(__file__).parent
    rank = {tests / name: number for number, name in enumerate(LONGEST_FIRST)}
    assert all(path.exists() for path in rank), "a file of LONGEST_FIRST is not there"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish():
    """The libraries and all the tests stay to the end: a collection that looks through them takes half a second."""
    gc.collect()
    gc.freeze()


with contextlib.suppress(ImportError):  # a GPU machine need not have it
    from hypothesis import settings

    # A busy machine is no failure, and the same code gives the same result.
    settings.register_profile("tests", deadline=None, derandomize=True)
    settings.load_profile("tests")
