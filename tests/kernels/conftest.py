"""Where Triton does not exist, tests that come to need it are skipped: all others run. Its interpreter is sped up."""

from __future__ import annotations

import functools
import inspect

import pytest

from kernels.triton_installed import triton_installed

if not triton_installed():
    collect_ignore = ["test_footprint.py"]

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(pyfuncitem):
        try:
            return (yield)
        except (ImportError, ValueError) as error:
            if "triton" not in str(error).lower():
                raise
            pytest.skip("Triton is not installed")

else:
    from triton.runtime import interpreter

    # Around every call of a function of a kernel the interpreter searches Triton's language anew for what it has to
    # replace, a quarter of all its time. What it finds by name is the same each time; nested calls find it replaced.
    @functools.cache
    def _builtin_names(package):
        return [
            name for name, member in inspect.getmembers(package) if interpreter.tl.core.is_builtin(member)
        ]

    def _patch_builtin(package, builder, scope):
        for name in _builtin_names(package):
            if interpreter.tl.core.is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = _patch_builtin
