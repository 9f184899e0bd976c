import pytest
import torch

from harness.rollout.engine import Request, Sampling
from harness.rollout.transformers_engine import TransformersEngine
from harness.spec.seeds import derive_seed

PROMPTS = [(1, 2, 3), (4, 5), (6, 7, 8, 9, 10, 11), (12,)]


def _engine(model, **options):
    return TransformersEngine(model, end_ids=[30], pad_id=0, **options)


def _requests(repeats=3):
    return [
        Request(prompt, derive_seed("engine", i, j))
        for i, prompt in enumerate(PROMPTS)
        for j in range(repeats)
    ]


def test_greedy_equals_transformers_generate(random_model):
    completions = _engine(random_model).generate(
        [Request(p, 0) for p in PROMPTS], Sampling(max_tokens=20, temperature=0)
    )
    for prompt, completion in zip(PROMPTS, completions):
        truth = random_model.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=30, pad_token_id=0
        )[0, len(prompt) :]
        assert completion.token_ids == tuple(truth.tolist())


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_are_those_of_a_plain_forward_pass(random_model, temperature):
    requests = _requests()
    completions = _engine(random_model).generate(requests, Sampling(max_tokens=16, temperature=temperature))
    assert any(not c.truncated for c in completions)
    for request, completion in zip(requests, completions):
        ids = torch.tensor([request.prompt_ids + completion.token_ids])
        with torch.no_grad():
            logits = random_model(ids).logits[0, len(request.prompt_ids) - 1 : -1]
        truth = torch.log_softmax(logits / temperature, -1).gather(
            -1, ids[0, len(request.prompt_ids) :, None]
        )
        torch.testing.assert_close(torch.tensor(completion.logprobs), truth[:, 0], rtol=1e-4, atol=1e-5)


def test_a_completion_ends_at_the_end_token_or_at_the_cap(random_model):
    for completion in _engine(random_model).generate(_requests(8), Sampling(max_tokens=12)):
        assert 30 not in completion.token_ids[:-1]
        assert completion.truncated == (completion.token_ids[-1] != 30)
        assert not completion.truncated or len(completion.token_ids) == 12


def test_a_sample_does_not_depend_on_its_batch(random_model):
    requests = _requests()
    together = _engine(random_model).generate(requests, Sampling(max_tokens=16))
    alone = [_engine(random_model).generate([r], Sampling(max_tokens=16))[0] for r in requests]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    chunked = _engine(random_model, max_rows=5).generate(requests, Sampling(max_tokens=16))
    assert [c.token_ids for c in together] == [c.token_ids for c in chunked]


def test_a_longer_cap_continues_the_same_sample(random_model):
    short = _engine(random_model).generate(_requests(), Sampling(max_tokens=6))
    long = _engine(random_model).generate(_requests(), Sampling(max_tokens=24))
    for a, b in zip(short, long):
        assert b.token_ids[: len(a.token_ids)] == a.token_ids


def test_training_mode_is_left_as_it_was(random_model):
    random_model.train()
    _engine(random_model).generate(_requests(1), Sampling(max_tokens=2))
    assert random_model.training


def test_a_bf16_engine_follows_the_policy_when_synchronised(random_model):
    engine = _engine(random_model, bf16=True)
    requests = _requests(1)
    before = engine.generate(requests, Sampling(max_tokens=8))
    assert all(p.dtype == torch.float32 for p in random_model.parameters())
    with torch.no_grad():
        for parameter in random_model.parameters():
            parameter.mul_(1.5)
    assert engine.generate(requests, Sampling(max_tokens=8)) == before
    engine.update_weights()
    after = engine.generate(requests, Sampling(max_tokens=8))
    assert after != before
    assert after == _engine(random_model, bf16=True).generate(requests, Sampling(max_tokens=8))
