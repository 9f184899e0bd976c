"""A machine without Triton, such as a Mac: everything but `fused` works, and `fused` says why it does not."""

from __future__ import annotations

import sys

import pytest
import torch

from kernels import footprint
from kernels.grpo_loss import Objective, grpo_loss
from kernels.token_logprob import token_logprob


@pytest.fixture(autouse=True)
def no_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [
        name
        for name in sys.modules
        if name.startswith("kernels.") and name.endswith((".launch", ".autograd", ".cases"))
    ]:
        monkeypatch.delitem(sys.modules, name)


def loss(implementation):
    logprob = torch.zeros(1, 2, requires_grad=True)
    return grpo_loss(
        logprob, torch.ones(1), torch.ones(1, 2), objective=Objective(), implementation=implementation
    ).loss


def logprobs(implementation):
    hidden, weight = torch.ones(2, 4), torch.ones(5, 4)
    return token_logprob(hidden, weight, torch.tensor([1, 2]), implementation=implementation).logprob


def test_the_default_needs_none():
    assert loss("auto") == loss("torch")
    torch.testing.assert_close(logprobs("auto"), logprobs("reference"))


@pytest.mark.parametrize(("call", "otherwise"), [(loss, "torch"), (logprobs, "slabs")])
def test_fused_says_why_not(call, otherwise):
    with pytest.raises(
        ValueError, match=f"`implementation` must be {otherwise} here, got fused: Triton is not"
    ):
        call("fused")


def test_a_footprint_is_refused(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("kernels.") and "fused" in name]:
        monkeypatch.delitem(sys.modules, name)
    assert footprint.main(["--arch", "86"]) == 2
    assert "triton" in capsys.readouterr().err
