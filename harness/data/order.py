"""Which problems a training step sees: a pure function of seed and step, so that resuming needs no state."""

from __future__ import annotations

from harness.data.seeding import seeded_rng


def step_problems(count: int, *, seed: int, step: int, prompts_per_step: int) -> list[int]:
    """Indices of the problems of a step.

    Problems are drawn without replacement within an epoch; each epoch has its own permutation, derived from the
    seed. A step that straddles two epochs takes the rest of one and the start of the next.

    Args:
        count: number of problems.
        seed: the run's seed.
        step: 0-based training step.
        prompts_per_step: problems per step.

    Raises:
        ValueError: `count` or `prompts_per_step` is < 1, or `step` is < 0.
    """
    _require(count, step, prompts_per_step)
    return problems_from(count, seed=seed, first=step * prompts_per_step, number=prompts_per_step)


def problems_from(count: int, *, seed: int, first: int, number: int) -> list[int]:
    """Indices of the problems at positions `first` to `first + number` of the endless order that a seed gives.

    Args:
        count: number of problems.
        seed: the run's seed.
        first: 0-based position, which is how many problems were drawn before.
        number: problems to draw.

    Raises:
        ValueError: `count` or `number` is < 1, or `first` is < 0.
    """
    _require(count, first, number)
    permutations: dict[int, list[int]] = {}
    indices = []
    for position in range(first, first + number):
        epoch, offset = divmod(position, count)
        if epoch not in permutations:
            permutations[epoch] = _permutation(count, seed, epoch)
        indices.append(permutations[epoch][offset])
    return indices


def epoch_of(count: int, *, step: int, prompts_per_step: int) -> float:
    """Epochs begun or completed once `step` steps are done, as a fraction.

    Raises:
        ValueError: as for `step_problems`.
    """
    _require(count, step, prompts_per_step)
    return step * prompts_per_step / count


def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    indices = list(range(count))
    seeded_rng("order", seed, epoch).shuffle(indices)
    return indices


def _require(count: int, step: int, prompts_per_step: int) -> None:
    if count < 1:
        raise ValueError(f"`count` must be >= 1, got {count}")
    if step < 0:
        raise ValueError(f"`step` must be >= 0, got {step}")
    if prompts_per_step < 1:
        raise ValueError(f"`prompts_per_step` must be >= 1, got {prompts_per_step}")
