"""Triton kernels run in the interpreter where there is no GPU.

Triton reads the variable when a kernel is decorated, so it is set here, before any test module imports one.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
