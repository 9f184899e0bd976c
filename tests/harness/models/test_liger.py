"""Liger's kernels: told in words where they cannot run, the same logits where they can."""

import copy

import pytest
import torch

from harness.models.liger import apply_liger
from harness.spec.errors import SpecError


@pytest.mark.skipif(torch.cuda.is_available(), reason="is told where there is no GPU")
def test_without_a_gpu_it_is_told_in_words(random_model):
    with pytest.raises(SpecError, match=r"model\.liger needs a CUDA device"):
        apply_liger(random_model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_logits_and_gradients_stay_what_they_were(random_model):
    pytest.importorskip("liger_kernel")
    plain = random_model.to("cuda")
    patched = copy.deepcopy(plain)
    apply_liger(patched)
    ids = torch.arange(1, 25, device="cuda").view(2, 12)
    one, other = plain(ids).logits, patched(ids).logits
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    weights = torch.randn(one.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    (one * weights).sum().backward()
    (other * weights).sum().backward()
    for first, second in zip(plain.parameters(), patched.parameters()):
        scale = float(first.grad.abs().max())
        torch.testing.assert_close(first.grad, second.grad, rtol=0, atol=2e-3 * scale)
