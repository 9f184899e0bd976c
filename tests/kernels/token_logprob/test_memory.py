"""Extra memory of a pass: it does not grow with the vocabulary, and with the tokens by fp32 dX and vectors alone."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from kernels.token_logprob import plan, token_logprob

HIDDEN = 16
TILE_ROWS = 128
TILE_ELEMENTS = 1 << 15
TILE_BYTES = TILE_ELEMENTS * 4


@pytest.fixture(autouse=True)
def _tiles_of_128_kib(monkeypatch):
    """A problem of many tiles that takes milliseconds."""
    monkeypatch.setattr(plan, "TILE_ROWS", TILE_ROWS)
    monkeypatch.setattr(plan, "TILE_ELEMENTS", TILE_ELEMENTS)


def peak_extra_bytes(tokens, vocab, dtype, logit_bytes=0, entropy=False):
    """Peak of what the CPU allocator gave out during a full pass, less the gradients that it returns."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(vocab, HIDDEN, generator=generator) / 8).to(dtype).requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=generator)
    upstream = torch.randn(tokens, generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        out = token_logprob(hidden, weight, targets, return_entropy=entropy, logit_bytes=logit_bytes)
        loss = (out.logprob * upstream).sum()
        if entropy:
            loss = loss + out.entropy.mean()
        gradients = torch.autograd.grad(loss, (hidden, weight))
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert peak > 0
    return peak - sum(gradient.nbytes for gradient in gradients)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extra_memory_does_not_grow_with_the_vocabulary(dtype, entropy):
    small, large = (peak_extra_bytes(TILE_ROWS, vocab, dtype, entropy=entropy) for vocab in (2048, 8192))
    assert abs(large - small) < 4096
    # All logits would be 32 tiles.
    assert large < 5 * TILE_BYTES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extra_memory_grows_with_the_tokens_by_dx_in_fp32_and_vectors(dtype):
    first, second = 2 * TILE_ROWS, 4 * TILE_ROWS
    small, large = (peak_extra_bytes(tokens, 1024, dtype) for tokens in (first, second))
    dx, vectors = 4 * HIDDEN, 64
    assert large - small <= (second - first) * (dx + vectors)


def test_kept_logits_are_what_keeping_them_costs():
    tokens, vocab = TILE_ROWS, 4096
    lean, keep = (peak_extra_bytes(tokens, vocab, torch.float32, size) for size in (0, 1 << 40))
    assert keep - lean == pytest.approx(tokens * vocab * 4, rel=0.3)
