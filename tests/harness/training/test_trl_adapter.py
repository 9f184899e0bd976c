"""Our head and loss inside trl's GRPOTrainer, held to trl's own losses and gradients on the same batch."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import sys
import warnings

import pytest
import torch

from harness.data.mix import build_mix
from harness.models.catalog import resolve_model
from harness.models.loading import load_model
from harness.spec.recipe import Recipe
from harness.training.trl_adapter import NotSupported, use_fused_loss

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*fork.*:DeprecationWarning")
pytest.importorskip("trl", exc_type=ImportError)

RECIPE = Recipe.model_validate(
    {
        "model": "tiny",
        "data": {"size": 8, "sources": [{"source": "sums", "terms": [2]}]},
        "reward": {"functions": [{"name": "accuracy"}]},
    }
)
GROUP = 4


def reward(completions, **_):
    """Some spread within every group, whatever the model says."""
    return [float(i % GROUP) + 0.1 * len(text) for i, text in enumerate(completions)]


def trainer_of(folder, **settings):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    loaded = load_model(resolve_model(RECIPE.model), RECIPE.model)
    problems = build_mix(RECIPE.data).problems
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = GRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=GROUP * 2,
            gradient_accumulation_steps=2,
            num_generations=GROUP,
            max_completion_length=12,
            learning_rate=1e-3,
            max_steps=2,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            seed=0,
            disable_tqdm=True,
            **settings,
        )
        return GRPOTrainer(
            model=loaded.model,
            processing_class=loaded.tokenizer,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [p.question for p in problems]}),
        )


def batch(trainer, *, seed=3):
    """Rows of different lengths, left-padded prompts, off-policy, with a reference."""
    draw = torch.Generator().manual_seed(seed)
    rows, prompt, completion = 8, 6, 12
    prompt_lengths = torch.tensor([6, 4, 6, 1, 3, 5, 2, 6])
    lengths = torch.tensor([12, 3, 1, 7, 12, 2, 5, 9])
    ids = torch.randint(4, 19, (rows, completion), generator=draw)

    def noise(scale):
        return scale * torch.randn((rows, completion), generator=draw)

    made = {
        "prompt_ids": torch.randint(4, 19, (rows, prompt), generator=draw),
        "prompt_mask": (torch.arange(prompt) >= prompt - prompt_lengths[:, None]).long(),
        "completion_ids": ids,
        "completion_mask": (torch.arange(completion) < lengths[:, None]).long(),
        "advantages": torch.tensor([1.0, -0.5, 0.0, 0.7, -1.2, 0.3, 0.9, -0.2]),
        "num_items_in_batch": lengths.sum() * 2,
    }
    attention = torch.cat([made["prompt_mask"], made["completion_mask"]], 1)
    with torch.no_grad():
        own, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, torch.cat([made["prompt_ids"], ids], 1), attention, completion
        )
    made["old_per_token_logps"] = own + noise(0.2)
    made["ref_per_token_logps"] = own + noise(0.3)
    return made


def loss_and_gradients(trainer, inputs):
    model = trainer.model
    model.train()
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = 2
    loss = trainer._compute_loss(model, copy.deepcopy(inputs))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "grpo", "beta": 0.04},
        {"loss_type": "bnpo"},
        {"loss_type": "dr_grpo", "epsilon_high": 0.3},
        {"loss_type": "dapo", "delta": 1.5, "epsilon": 0.1},
        {"loss_type": "cispo", "epsilon_high": 1.1},
        {"loss_type": "sapo"},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.02},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_losses_and_gradients_are_trls(tmp_path, settings):
    trainer = trainer_of(tmp_path, temperature=0.7, **settings)
    inputs = batch(trainer)
    loss, gradients = loss_and_gradients(trainer, inputs)
    fused, ours = loss_and_gradients(use_fused_loss(trainer), inputs)
    assert abs(loss.item()) > 1e-4
    assert max(g.abs().max().item() for g in gradients.values()) > 1e-4
    torch.testing.assert_close(fused, loss, rtol=1e-4, atol=1e-6)
    assert ours.keys() == gradients.keys()
    for name in gradients:
        torch.testing.assert_close(ours[name], gradients[name], rtol=1e-3, atol=1e-6, msg=name)


def test_two_training_steps_log_the_losses_that_trl_logs(tmp_path):
    logs = []
    for fused in (False, True):
        trainer = trainer_of(tmp_path, loss_type="dapo", beta=0.04)
        with contextlib.redirect_stdout(io.StringIO()):
            (use_fused_loss(trainer) if fused else trainer).train()
        logs.append([row for row in trainer.state.log_history if "loss" in row])
    theirs, ours = logs
    assert len(theirs) == len(ours) == 2
    for a, b in zip(theirs, ours):
        assert a["reward"] == b["reward"], "other samples, so the losses say nothing"
        for name in ("loss", "grad_norm", "kl", "entropy"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-5), name


def test_a_micro_batch_without_a_token_logs_what_trl_logs(tmp_path):
    trainer = trainer_of(tmp_path, beta=0.04)
    inputs = batch(trainer)
    inputs["completion_mask"] = torch.zeros_like(inputs["completion_mask"])
    logged = []
    for one in (trainer, use_fused_loss(trainer)):
        loss_and_gradients(one, inputs)
        logged.append({name: one._metrics["train"][name].pop() for name in ("kl", "entropy")})
    assert logged == [{"kl": 0.0, "entropy": 0.0}] * 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"loss_type": "luspo"}, "loss_type"), ({"top_entropy_quantile": 0.5}, "top_entropy_quantile")],
)
def test_what_the_fused_loss_does_not_compute_is_refused(tmp_path, settings, words):
    trainer = trainer_of(tmp_path, **settings)
    before = trainer._compute_loss
    with pytest.raises(NotSupported, match=words):
        use_fused_loss(trainer)
    assert trainer._compute_loss == before


@pytest.mark.parametrize("module", ["harness.training.policy", "harness.training.trl_adapter"])
def test_the_adapter_loads_without_trl(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)  # importing it now fails
    spec = importlib.util.find_spec(module)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
