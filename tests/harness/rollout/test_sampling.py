import numpy as np
import pytest
import torch
from scipy import stats

from harness.rollout.sampling import sample, uniforms
from harness.spec.seeds import derive_seed


def _seeds(count):
    return np.array([derive_seed("test", i) for i in range(count)], dtype=np.uint64)


def test_uniforms_are_uniform_and_uncorrelated_over_positions():
    seeds = _seeds(4000)
    draws = np.stack([uniforms(seeds, position) for position in range(8)])
    assert ((draws >= 0) & (draws < 1)).all()
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(draws)[np.triu_indices(8, 1)]
    assert np.abs(correlation).max() < 4 / np.sqrt(4000)


def test_neighbouring_seeds_give_independent_draws():
    draws = uniforms(np.arange(4000, dtype=np.uint64), 0)
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(4000)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_distribution(temperature):
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -30.0])
    count = 20000
    tokens, logprobs = sample(logits.expand(count, -1), _seeds(count), 3, temperature=temperature, top_p=1.0)
    expected = torch.softmax(logits.double() / temperature, -1)
    observed = np.bincount(tokens.numpy(), minlength=5)
    likely = expected.numpy() * count > 5
    assert observed[~likely].sum() <= 5
    chi2 = ((observed - count * expected.numpy())[likely] ** 2 / (count * expected.numpy()[likely])).sum()
    assert chi2 < stats.chi2.ppf(0.9999, likely.sum() - 1)
    torch.testing.assert_close(logprobs.double(), expected.log()[tokens], rtol=1e-5, atol=1e-5)


def test_top_p_keeps_the_smallest_sufficient_set():
    probabilities = torch.tensor([0.1, 0.5, 0.25, 0.15])
    tokens, logprobs = sample(
        probabilities.log().expand(4000, -1), _seeds(4000), 0, temperature=1.0, top_p=0.7
    )
    assert set(tokens.tolist()) == {1, 2}
    share = (tokens == 1).double().mean()
    assert abs(share - 0.5 / 0.75) < 0.04
    # The log-probs are those of the whole distribution.
    torch.testing.assert_close(logprobs, probabilities.log()[tokens])


def test_temperature_zero_is_greedy():
    logits = torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    tokens, _ = sample(logits, _seeds(50), 0, temperature=0.0, top_p=1.0)
    assert torch.equal(tokens, logits.argmax(-1))


def test_a_draw_depends_on_its_own_row_alone():
    logits = torch.randn(64, 9, generator=torch.Generator().manual_seed(1))
    seeds = _seeds(64)
    whole, _ = sample(logits, seeds, 5, temperature=1.0, top_p=1.0)
    part, _ = sample(logits[10:20], seeds[10:20], 5, temperature=1.0, top_p=1.0)
    assert torch.equal(whole[10:20], part)


def test_large_vocabulary_tail_is_reached():
    # In fp32 the running sum would not see increments of 9e-9 beside 1: every draw would be the first token.
    size, peak = 150_000, 18.5
    total = np.exp(peak) + size - 1
    seeds = _seeds(40_000)
    draws = uniforms(seeds, 0)
    beyond = draws > np.exp(peak) / total
    assert beyond.sum() > 30
    logits = torch.zeros(1, size)
    logits[0, 0] = peak
    tokens, _ = sample(logits.expand(int(beyond.sum()), -1), seeds[beyond], 0, temperature=1.0, top_p=1.0)
    expected = np.floor(draws[beyond] * total - np.exp(peak)) + 1
    assert np.abs(tokens.numpy() - expected).max() <= 2e-5 * size  # log-probs are fp32
    assert tokens.max() > 100_000
