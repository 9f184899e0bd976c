"""What all tests share: Triton's interpreter where there is no GPU, and property tests that repeat."""

import contextlib
import os

import torch

if not torch.cuda.is_available():
    # Triton reads this once, when it is first imported, whichever test imports it.
    os.environ.setdefault("TRITON_INTERPRET", "1")

with contextlib.suppress(ImportError):  # a GPU machine need not have it
    from hypothesis import settings

    # A busy machine is no failure, and the same code gives the same result.
    settings.register_profile("tests", deadline=None, derandomize=True)
    settings.load_profile("tests")
