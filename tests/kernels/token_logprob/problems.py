"""Problems with every feature of the head on or off, and their truth in fp64 written from the formula."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kernels.token_logprob import Lora, token_logprob

OWN_TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Relative to the largest true value: a few roundings of a result in that dtype."""


@dataclass(frozen=True)
class Problem:
    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    d_logprob: torch.Tensor
    d_entropy: torch.Tensor | None
    bias: torch.Tensor | None = None
    lora: Lora | None = None
    temperature: float = 1.0
    softcap: float | None = None
    vocab_size: int | None = None

    def to(self, dtype):
        def cast(tensor):
            return None if tensor is None else tensor.to(dtype)

        lora = self.lora and Lora(cast(self.lora.a), cast(self.lora.b), self.lora.scale)
        return replace(
            self, hidden=cast(self.hidden), weight=cast(self.weight), bias=cast(self.bias), lora=lora
        )

    def leaves(self):
        named = {"hidden": self.hidden, "weight": self.weight, "bias": self.bias}
        if self.lora is not None:
            named |= {"lora.a": self.lora.a, "lora.b": self.lora.b}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def make_problem(
    tokens=19, hidden=20, vocab=61, *, bias=False, temperature=1.0, softcap=None, padded=False, lora=False,
    entropy=False, ignored=True, seed=0,
):  # fmt: skip
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=g, dtype=torch.float64) * scale

    size = vocab - 8 if padded else vocab
    targets = torch.randint(0, size, (tokens,), generator=g)
    d_logprob, d_entropy = normal(tokens), normal(tokens) if entropy else None
    # Thirds: zero in one output alone, and zero in both, which is what compaction drops.
    d_logprob[::3] = 0
    if d_entropy is not None:
        d_entropy[::6] = 0
    if ignored:
        targets[1::5] = -100
    return Problem(
        hidden=normal(tokens, hidden, scale=0.5),
        weight=normal(vocab, hidden, scale=0.5),
        targets=targets,
        d_logprob=d_logprob,
        d_entropy=d_entropy,
        bias=normal(vocab) if bias else None,
        lora=Lora(normal(3, hidden, scale=0.5), normal(vocab, 3, scale=0.5), 0.5) if lora else None,
        temperature=temperature,
        softcap=softcap,
        vocab_size=size if padded else None,
    )


def truth(problem):
    """Outputs and gradients in fp64, by autograd through the formula."""
    leaves = {name: leaf.double().requires_grad_() for name, leaf in problem.leaves().items()}
    size = problem.vocab_size or problem.weight.shape[0]
    weight = leaves["weight"]
    if problem.lora is not None:
        weight = weight + problem.lora.scale * leaves["lora.b"] @ leaves["lora.a"]
    z = leaves["hidden"] @ weight[:size].T
    if problem.bias is not None:
        z = z + leaves["bias"][:size]
    if problem.softcap is not None:
        z = problem.softcap * torch.tanh(z / problem.softcap)
    log_probs = torch.log_softmax(z / problem.temperature, -1)
    wanted = problem.targets >= 0
    rows = torch.arange(len(problem.targets))
    logprob = log_probs[rows, problem.targets.clamp_min(0)].where(wanted, 0.0)
    entropy = -(log_probs.exp() * log_probs).sum(-1).where(wanted, 0.0)
    return finish(problem, logprob, entropy if problem.d_entropy is not None else None, leaves)


def finish(problem, logprob, entropy, leaves):
    loss = (logprob * problem.d_logprob).sum()
    if problem.d_entropy is not None:
        loss = loss + (entropy * problem.d_entropy).sum()
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    results = {"logprob": logprob.detach()}
    if entropy is not None:
        results["entropy"] = entropy.detach()
    return results | {f"d {name}": gradient for name, gradient in zip(leaves, gradients)}


def solve(problem, implementation, logit_bytes=None):
    """Outputs and gradients of an implementation."""
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in problem.leaves().items()}
    lora = problem.lora and Lora(leaves["lora.a"], leaves["lora.b"], problem.lora.scale)
    out = token_logprob(
        leaves["hidden"], leaves["weight"], problem.targets,
        bias=leaves.get("bias"), temperature=problem.temperature, softcap=problem.softcap,
        vocab_size=problem.vocab_size, lora=lora, return_entropy=problem.d_entropy is not None,
        implementation=implementation, logit_bytes=logit_bytes,
    )  # fmt: skip
    return finish(problem, out.logprob, out.entropy, leaves)


def assert_as_good_as_reference(problem, implementation, dtype, logit_bytes=None, roundings=1.0):
    """Error against fp64 at most the reference's own in `dtype`, plus `roundings` times the tolerance."""
    cast = problem.to(dtype)
    exact, reference = truth(cast), solve(cast, "reference")
    found = solve(cast, implementation, logit_bytes)
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        scale = float(value.abs().max()) if value.numel() else 0.0
        error = float((found[name].double() - value).abs().max()) if value.numel() else 0.0
        own = float((reference[name].double() - value).abs().max()) if value.numel() else 0.0
        limit = own + roundings * OWN_TOLERANCE[dtype] * max(scale, 1e-3)
        assert error <= limit, (
            f"{name}: error {error:.2e} over {limit:.2e} (the reference's own is {own:.2e})"
        )
