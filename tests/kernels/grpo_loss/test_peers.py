"""Against the losses that trl and Liger publish, called as they are: agreement where they are right.

Where they are not, a test states the difference, so that an upgrade which mends it is noticed.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from kernels.grpo_loss import Objective, grpo_loss
from tests.kernels.grpo_loss.batches import make_batch

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning"),  # the peers' own, at import and in the interpreter
]
PATTERNS = ("full", "right padded", "holes", "one token")
SHARED = ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
BETA, CAP = 0.2, 11


@pytest.fixture(scope="module")
def trl_trainer():
    return pytest.importorskip("trl.trainer.grpo_trainer", exc_type=ImportError).GRPOTrainer


@pytest.fixture(scope="module")
def liger():
    pytest.importorskip("liger_kernel", exc_type=ImportError)
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

    return LigerFusedLinearGRPOFunction.ppo_loss_fn


def objective_of(loss, level="token", **fields):
    if loss == "gspo":
        level = "sequence"
    return Objective(
        loss=loss, ratio_level=level, max_length=CAP, clip_low=0.2, clip_high=0.28, cispo_max=0.28, **fields
    )


def ours(objective, batch):
    leaf = batch.logprob.clone().requires_grad_()
    out = grpo_loss(
        leaf, batch.advantages, batch.mask, objective=objective, entropy=batch.entropy, **batch.arguments()
    )
    return out, torch.autograd.grad(out.loss, leaf)[0]


def of_trl(trainer, objective, batch):
    """trl's `_compute_loss` on a stand-in trainer: its settings, our log-probs, one process, no accumulation."""
    o = objective
    leaf = batch.logprob.clone().requires_grad_()
    mask = batch.mask.to(batch.logprob.dtype)
    fake = SimpleNamespace(
        loss_type="grpo" if o.loss == "gspo" else o.loss,
        importance_sampling_level=o.resolved().ratio_level,
        epsilon_low=o.clip_low,
        epsilon_high=o.clip_high,
        beta=o.beta,
        top_entropy_quantile=1.0 if o.top_entropy_quantile is None else o.top_entropy_quantile,
        off_policy_mask_threshold=None,
        max_completion_length=CAP,
        use_vllm=o.importance != "none",
        vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=o.entropy_bonus > 0,
        use_adaptive_entropy=False,
        entropy_coef=o.entropy_bonus,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1,
            sync_gradients=False,
            gather=lambda x: x,
            reduce=lambda x, **_: x,
            pad_across_processes=lambda x, **_: x,
        ),
        args=SimpleNamespace(
            delta=o.delta,
            use_bias_correction_kl=o.kl_ratio,
            steps_per_generation=1,
            sapo_temperature_pos=o.sapo_tau_pos,
            sapo_temperature_neg=o.sapo_tau_neg,
            **{name: value for name, value in vars(o).items() if name.startswith("vespo_")},
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, batch.entropy, None),
        get_gamma_weights=trainer.get_gamma_weights,
        get_high_entropy_mask=lambda *a: trainer.get_high_entropy_mask(fake, *a),
    )
    gap = torch.where(batch.mask, batch.old - batch.rollout, 0)
    weight = (gap.sum(1, keepdim=True) if o.importance.startswith("sequence") else gap).exp()
    if o.importance.endswith("mask"):
        weight = weight.masked_fill(weight > o.importance_cap, 0.0)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :0],
        "prompt_mask": mask[:, :0],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": mask.sum(),
    }
    if o.importance != "none":
        inputs["importance_sampling_ratio"] = weight.clamp(max=o.importance_cap)
    loss = trainer._compute_loss(fake, fake.model, inputs)
    return loss, torch.autograd.grad(loss, leaf)[0], fake._metrics["train"]


def of_liger(loss_fn, objective, batch, importance_ratio=None):
    """Liger's chunked loss for one chunk that is the whole batch."""
    o = objective
    leaf = batch.logprob.clone().requires_grad_()
    mask = batch.mask.to(leaf.dtype)
    loss, _ = loss_fn(
        leaf,
        mask,
        batch.advantages,
        mask,
        ref_per_token_logps=batch.reference,
        old_per_token_logps=batch.old,
        epsilon_low=o.clip_low,
        epsilon_high=o.clip_high,
        beta=o.beta,
        loss_type="grpo" if o.loss == "gspo" else o.loss,
        max_completion_length=CAP,
        importance_sampling_level=o.resolved().ratio_level,
        delta=o.delta,
        use_bias_correction_kl=o.kl_ratio,
        vllm_is_ratio=importance_ratio,
    )
    return loss, torch.autograd.grad(loss, leaf)[0]


def same(found, expected, rtol=1e-9):
    for mine, theirs in zip(found, expected):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kl_ratio", [False, True])
@pytest.mark.parametrize("loss", [*SHARED, "gspo"])
def test_trl_agrees(trl_trainer, loss, kl_ratio, level):
    if loss == "gspo" and level == "token":
        pytest.skip("trl's gspo is its sequence level")
    batch = make_batch(20, patterns=PATTERNS)
    objective = objective_of(loss, level, beta=BETA, kl_ratio=kl_ratio)
    out, grad = ours(objective, batch)
    loss_value, loss_grad, metrics = of_trl(trl_trainer, objective, batch)
    # trl's τ is fp32 even among fp64 tensors.
    same((out.loss, grad), (loss_value, loss_grad), rtol=1e-5 if loss == "sapo" else 1e-9)
    assert metrics["kl"][0] == pytest.approx(
        _kl_times_ratio(batch, objective) if kl_ratio else out.metrics["kl"].item()
    )
    if objective.variant.surrogate == "clip" and objective.resolved().ratio_level == "token":
        for mine, theirs in (("low", "low_mean"), ("high", "high_mean")):
            found = out.metrics[f"clip_fraction_{mine}"].item()
            assert found == pytest.approx(metrics[f"clip_ratio/{theirs}"][0])


def _kl_times_ratio(batch, objective):
    """trl logs the KL after multiplying it by ρ; ours is the KL whatever the objective does with it."""
    delta = torch.where(batch.mask, batch.logprob - batch.old, 0)
    if objective.resolved().ratio_level == "sequence":
        delta = delta.sum(1, keepdim=True) / batch.mask.sum(1, keepdim=True)
    gap = torch.where(batch.mask, batch.logprob - batch.reference, 0)
    kl = (torch.exp(-gap) + gap - 1) * delta.exp()
    return (torch.where(batch.mask, kl, 0).sum() / batch.mask.sum()).item()


@pytest.mark.parametrize("importance", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("loss", [*SHARED, "gspo"])
def test_trl_agrees_on_importance_correction(trl_trainer, loss, importance):
    batch = make_batch(21, patterns=PATTERNS)
    level = "sequence" if loss == "luspo" else "token"
    objective = objective_of(loss, level, importance=importance, importance_cap=1.5, beta=BETA)
    out, grad = ours(objective, batch)
    same((out.loss, grad), of_trl(trl_trainer, objective, batch)[:2], rtol=1e-5 if loss == "sapo" else 1e-9)


@pytest.mark.parametrize("fields", [{"delta": 3.0}, {"top_entropy_quantile": 0.3}, {"entropy_bonus": 0.3}])
def test_trl_agrees_on_cap_entropy_mask_and_bonus(trl_trainer, fields):
    batch = make_batch(22, patterns=PATTERNS)
    objective = objective_of("dapo", **fields)
    out, grad = ours(objective, batch)
    same((out.loss, grad), of_trl(trl_trainer, objective, batch)[:2])


def test_trl_restricts_the_entropy_bonus_to_the_top_entropy_tokens(trl_trainer):
    """Ours is the mean entropy of all loss tokens: the mask of arXiv 2506.01939 is one of the policy term."""
    batch = make_batch(23, patterns=PATTERNS)
    objective = objective_of("dapo", top_entropy_quantile=0.3, entropy_bonus=0.3)
    out, grad = ours(objective, batch)
    loss, loss_grad, _ = of_trl(trl_trainer, objective, batch)
    torch.testing.assert_close(grad, loss_grad)
    entropies = batch.entropy[batch.mask]
    top = entropies[entropies >= torch.quantile(entropies, 0.7)]
    difference = 0.3 * (top.mean() - entropies.mean())
    torch.testing.assert_close(out.loss - loss, difference)


@pytest.mark.parametrize("loss", [*SHARED, "gspo"])
@pytest.mark.parametrize("kl_ratio", [False, True])
def test_liger_chunked_agrees_by_its_supported_level(liger, loss, kl_ratio):
    batch = make_batch(24, patterns=PATTERNS)
    level = "sequence" if loss == "luspo" else "token"
    beta = 0.0 if loss == "luspo" else BETA  # with a KL its luspo is by token, which is wrong: see below
    objective = objective_of(loss, level, beta=beta, kl_ratio=kl_ratio)
    out, grad = ours(objective, batch)
    same((out.loss, grad), of_liger(liger, objective, batch))


def test_liger_luspo_by_token_counts_padding_and_divides_by_the_padded_length(liger):
    """Its token losses are not masked and their mean is over B·T: the loss moves with what padding holds."""
    batch = make_batch(25, patterns=("right padded", "one token"))
    objective = objective_of("luspo", "token")
    loss, grad = of_liger(liger, objective, batch)
    assert bool((grad[~batch.mask] != 0).any())
    wider = batch._replace(logprob=torch.where(batch.mask, batch.logprob, batch.logprob - 0.1))
    assert of_liger(liger, objective, wider)[0] != loss
    assert ours(objective, wider)[0].loss == ours(objective, batch)[0].loss


def logits_batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    B, L, V = 3, 4, 8
    logits = torch.randn(B, L + 1, V, generator=g)
    ids = torch.randint(V, (B, L), generator=g)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.float32)
    logp = logits[:, :-1].log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    old = logp + 0.3 * torch.randn(B, L, generator=g)
    reference = logp + 0.3 * torch.randn(B, L, generator=g)
    return logits, ids, mask, torch.randn(B, generator=g), old, reference


def both_from_logits(loss, level, *, beta=0.0, kl_ratio=False, mask=None):
    """Loss and gradient in the logits: ours, and Liger's Triton kernel."""
    from liger_kernel.transformers.grpo_loss import triton_grpo_loss

    logits, ids, ragged, advantages, old, reference = logits_batch()
    mask = ragged if mask is None else mask
    mine = logits.clone().requires_grad_()
    logp = mine[:, :-1].log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    objective = Objective(
        loss=loss, ratio_level=level, beta=beta, kl_ratio=kl_ratio, max_length=4, cispo_max=0.2
    )
    out = grpo_loss(
        logp, advantages, mask, objective=objective, old_logprob=old, reference_logprob=reference
    ).loss
    (grad,) = torch.autograd.grad(out, mine)
    theirs = logits.clone().requires_grad_()
    loss_value, _ = triton_grpo_loss(
        theirs,
        old,
        reference,
        ids,
        advantages,
        mask,
        temperature=1.0,
        beta=beta,
        eps_low=0.2,
        eps_high=0.2,
        inplace=False,
        loss_type="grpo" if loss == "gspo" else loss,
        max_completion_length=4,
        importance_sampling_level=level,
        reduce=True,
        use_bias_correction_kl=kl_ratio,
    )
    (loss_grad,) = torch.autograd.grad(loss_value, theirs)
    return (out.detach(), grad), (loss_value.detach(), loss_grad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Liger's kernel is interpreted on CPU tensors")
class TestLigerTriton:
    @pytest.fixture(autouse=True)
    def _available(self, liger):
        pass

    @pytest.mark.parametrize("kl_ratio", [False, True])
    @pytest.mark.parametrize("loss", [name for name in (*SHARED, "gspo") if name != "luspo"])
    def test_agrees_with_ragged_lengths(self, loss, kl_ratio):
        level = "sequence" if loss == "gspo" else "token"
        mine, theirs = both_from_logits(loss, level, beta=0.2, kl_ratio=kl_ratio)
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

    def test_luspo_by_token_has_the_right_loss_and_a_wrong_gradient_even_without_padding(self):
        """Backward reads the [B, 1] length factor with the strides of [B, T]."""
        mine, theirs = both_from_logits("luspo", "token", mask=torch.ones(3, 4))
        torch.testing.assert_close(mine[0], theirs[0], rtol=1e-4, atol=1e-6)
        assert (mine[1] - theirs[1]).abs().max() > 0.2 * mine[1].abs().max()

    def test_luspo_by_sequence_agrees_without_padding_only(self):
        """With padding it multiplies a masked token sum by the length again and divides by the padded length."""
        mine, theirs = both_from_logits("luspo", "sequence", mask=torch.ones(3, 4))
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        mine, theirs = both_from_logits("luspo", "sequence")
        assert (mine[0] - theirs[0]).abs() > 0.01 * mine[0].abs()
        assert (mine[1] - theirs[1]).abs().max() > 0.2 * mine[1].abs().max()
