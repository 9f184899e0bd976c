"""What all tests share: Triton's interpreter where there is no GPU, no hub, repeatable property tests, and Ctrl-C."""

import contextlib
import gc
import os
import signal

import torch

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    # Triton reads this once, when it is first imported, whichever test imports it.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Without a network every request is tried again for a second. Tests of what a hub says bring their own.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_finish():
    """The libraries and all the tests stay to the end: a collection that looks through them takes half a second."""
    gc.collect()
    gc.freeze()


with contextlib.suppress(ImportError):  # a GPU machine need not have it
    from hypothesis import settings

    # A busy machine is no failure, and the same code gives the same result.
    settings.register_profile("tests", deadline=None, derandomize=True)
    settings.load_profile("tests")
