"""Ends, padding and the tokens that may be sampled, against transformers' own generation."""

from __future__ import annotations

import pytest
import torch

from harness.models import loading
from harness.models.catalog import resolve_model
from harness.models.loading import load_model
from harness.models.special_ids import SpecialIds
from harness.rollout.engine import Request, Sampling
from harness.rollout.texts import completion_texts
from harness.rollout.transformers_engine import TransformersEngine
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import ModelSpec
from harness.training.batch import Sample, micro_batches
from harness.training.policy import completion_logprobs
from tests.harness.models import folders

QUESTIONS = ("12+7=", "3+4+5=", "88+19=", "7-8=")


def load(folder):
    spec = ModelSpec(name=str(folder))
    return load_model(resolve_model(spec), spec)


def engine_of(loaded):
    s = loaded.special
    return TransformersEngine(loaded.model, end_ids=s.end_ids, pad_id=s.pad_id, vocabulary=s.vocabulary)


def prompts_of(loaded):
    from harness.data.prompts import PromptEncoder

    encoder = PromptEncoder(loaded.tokenizer, PromptSpec())
    return [tuple(encoder.encode(question)) for question in QUESTIONS]


@pytest.mark.parametrize(
    ("name", "special"),
    [
        ("copy", SpecialIds((2,), 0, 265)),
        ("two-ends", SpecialIds((2, 33), 0, 265)),
        ("no-generation-config", SpecialIds((2,), 0, 265)),
        ("end-in-generation-config-alone", SpecialIds((2,), 0, 265)),
        ("end-of-the-class-alone", SpecialIds((2,), 0, 265)),
        ("end-in-tokenizer-alone", SpecialIds((2,), 0, 265)),
        ("one-end-beyond", SpecialIds((2,), 0, 265)),
        ("no-pad", SpecialIds((2,), 2, 265)),
        ("pad-of-the-class", SpecialIds((2,), 2, 265)),
        ("pad-beyond", SpecialIds((2,), 2, 265)),
        ("pad-is-end", SpecialIds((2,), 2, 265)),
        ("config-pad-beyond", SpecialIds((2,), 0, 265)),
        ("config-pad-negative", SpecialIds((2,), 0, 265)),
        ("padded-vocabulary", SpecialIds((2,), 0, 265)),
        ("token-beyond-unused", SpecialIds((2,), 0, 265)),
    ],
)
def test_which_tokens_are_special(tmp_path, name, special):
    loaded = load(folders.USED[name](folders.copy_tiny(tmp_path / "m")))
    assert loaded.special == special
    # Whatever the padding: the same greedy answers as the model that it was made from.
    completions = engine_of(loaded).generate(
        [Request(p, 0) for p in prompts_of(loaded)], Sampling(max_tokens=24, temperature=0)
    )
    for prompt, completion in zip(prompts_of(loaded), completions):
        truth = loaded.model.generate(
            torch.tensor([prompt]),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=list(special.end_ids),
            pad_token_id=special.pad_id,
        )[0, len(prompt) :]
        assert completion.token_ids == tuple(truth.tolist())


@pytest.mark.parametrize("name", ["two-ends", "one-end-beyond", "no-generation-config"])
def test_completions_end_where_transformers_ends_them(tmp_path, name):
    """With the model's own generation settings, not with ours handed to it."""
    loaded = load(folders.USED[name](folders.copy_tiny(tmp_path / "m")))
    prompts = prompts_of(loaded)
    completions = engine_of(loaded).generate([Request(p, 0) for p in prompts], Sampling(40, temperature=0))
    ends = set()
    for prompt, completion in zip(prompts, completions):
        truth = loaded.model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[
            0, len(prompt) :
        ]
        assert completion.token_ids == tuple(truth.tolist())
        assert not completion.truncated
        ends.add(completion.token_ids[-1])
    assert ends <= set(loaded.special.end_ids)
    # The digit 9 ends what reaches it first.
    assert (33 in ends) == (name == "two-ends")


def test_the_token_that_ended_a_completion_is_no_part_of_its_text(tmp_path):
    loaded = load(folders.USED["two-ends"](folders.copy_tiny(tmp_path / "m")))
    prompts = prompts_of(loaded)
    completions = engine_of(loaded).generate([Request(p, 0) for p in prompts], Sampling(40, temperature=0))
    texts = completion_texts(loaded.tokenizer, completions, loaded.special.end_ids)
    for completion, text in zip(completions, texts):
        assert completion.token_ids[-1] != 33 or not text.endswith("9")
        assert "<eos>" not in text


@pytest.fixture(params=[1.0, 0.7])
def padded(request, tmp_path):
    """A model whose padded rows would be sampled nearly always, were they not masked; and a temperature."""
    folder = folders.pad_vocabulary(folders.copy_tiny(tmp_path / "m"), 288, bias=3.0)
    return load(folder), request.param


def test_padded_rows_are_never_sampled(padded, tmp_path):
    loaded, temperature = padded
    plain = load(folders.copy_tiny(tmp_path / "plain"))
    prompts = prompts_of(loaded)
    with torch.no_grad():
        probabilities = loaded.model(torch.tensor([prompts[0]])).logits[0].softmax(-1)
    assert probabilities[:, 265:].sum(-1).max() > 0.5
    requests = [Request(p, seed) for p in prompts for seed in range(4)]
    sampled = engine_of(loaded).generate(requests, Sampling(16, temperature, top_p=0.9))
    assert all(token < 265 for completion in sampled for token in completion.token_ids)
    expected = engine_of(plain).generate(requests, Sampling(16, temperature, top_p=0.9))
    assert [c.token_ids for c in sampled] == [c.token_ids for c in expected]


def test_padded_rows_have_no_part_in_the_trained_logprobs(padded, tmp_path):
    """Ratio and KL compare the trainer's log-probs with the engine's: both are of the same tokens."""
    loaded, temperature = padded
    plain = load(folders.copy_tiny(tmp_path / "plain"))
    requests = [Request(p, seed) for p in prompts_of(loaded) for seed in range(2)]
    sampled = engine_of(loaded).generate(requests, Sampling(12, temperature))
    samples = [
        Sample(r.prompt_ids, c.token_ids, c.logprobs, 1.0, c.truncated) for r, c in zip(requests, sampled)
    ]
    (batch,) = micro_batches(
        samples, range(len(samples)), budget_tokens=10**6, device=torch.device("cpu"), mode="padded"
    )

    def scores(model, vocabulary):
        found, entropy = completion_logprobs(
            model.model, batch, temperature=temperature, bf16=False, vocab_size=vocabulary
        )
        return found, entropy

    mine, entropy = scores(loaded, loaded.special.vocabulary)
    truth, true_entropy = scores(plain, None)
    torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, true_entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        mine[batch.mask > 0], batch.rollout_logprob[batch.mask > 0], rtol=1e-4, atol=1e-4
    )
    mine.sum().backward()
    assert loaded.model.get_output_embeddings().weight.grad[265:].abs().max() == 0


def test_weights_that_transformers_would_draw_at_random_are_refused(tmp_path, monkeypatch):
    """For families whose tensors are not known by name, which are not looked at before."""
    monkeypatch.setattr("harness.models.checks._DENSE", frozenset())
    folder = folders.edit_weights(
        folders.copy_tiny(tmp_path / "m"), lambda t: t.pop("model.layers.1.mlp.up_proj.weight")
    )
    with pytest.raises(loading.ModelNotFound, match=r"up_proj\.weight missing in its weights"):
        load(folder)
