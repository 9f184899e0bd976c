r"""Records the loss's inputs of one real GRPO step, mask and advantages, as the batch `recorded` of `kernels.bench`.

    python -m tests.campaigns.record_batch --grid ablations/smollm2.yaml \
        --out kernels/token_logprob/data/grpo_batch.npz

Samples, rewards and advantages come from the untrained model of the grid's first cell; nothing is updated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.data.mix import build_mix
from harness.data.order import step_problems
from harness.data.prompts import PromptEncoder
from harness.models.catalog import resolve_model
from harness.models.device import choose_device
from harness.models.loading import load_model
from harness.rewards.composite import CompositeReward, has_own_functions
from harness.rollout.build import build_engine
from harness.rollout.engine import Request, Sampling
from harness.rollout.texts import completion_texts
from harness.spec.errors import SpecError
from harness.spec.grid import load_grid
from harness.spec.recipe import Recipe
from harness.spec.seeds import derive_seed
from harness.training.advantages import group_advantages
from harness.training.groups import reward_inputs, rewards_of


def record(recipe: Recipe, *, seed: int, prompts: int, completions: int, cap: int) -> dict[str, np.ndarray]:
    """Mask uint8 [B, T] and advantages fp32 [B] of the first step, B = `prompts` · `completions`, T = `cap` tokens.

    The mask is 1 on completion tokens; truncated completions are masked whole, as DAPO's overlong filtering does
    (arXiv 2503.14476, section 3.4).
    """
    loaded = load_model(resolve_model(recipe.model), recipe.model, device=choose_device("cpu"))
    problems = build_mix(recipe.data, extra=has_own_functions(recipe.reward)).problems
    chosen = step_problems(len(problems), seed=seed, step=0, prompts_per_step=prompts)
    asked = [problems[index] for index in chosen]
    encoder = PromptEncoder(loaded.tokenizer, recipe.prompt, rows=loaded.special.vocabulary)
    requests = [
        Request(tuple(encoder.encode(problem.question)), derive_seed(seed, "rollout", 0, slot, number))
        for slot, problem in enumerate(asked)
        for number in range(completions)
    ]
    engine = build_engine(recipe, loaded)
    sampled = engine.generate(requests, Sampling(cap, recipe.rollout.temperature, recipe.rollout.top_p))
    engine.close()
    texts = completion_texts(loaded.tokenizer, sampled, loaded.special.end_ids)
    opened = [encoder.opened(request.prompt_ids) for request in requests[::completions]]
    with CompositeReward(recipe.reward) as rewards:
        scores = rewards.score(reward_inputs(asked, sampled, texts, cap=cap, opened=opened))
    total = rewards_of(scores, completions)
    mask = np.zeros((len(sampled), cap), dtype=np.uint8)
    for row, completion in enumerate(sampled):
        if not completion.truncated:
            mask[row, : len(completion.token_ids)] = 1
    advantages = group_advantages(total, recipe.advantage).flatten().float().numpy()
    return {"mask": mask, "advantages": advantages}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file and prints what is in it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.record_batch", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--grid", type=Path, required=True, help="its first cell is the recipe")
    parser.add_argument("--out", type=Path, required=True, help=".npz file to write")
    parser.add_argument("--prompts", type=int, default=8, help="prompts of the step; default %(default)s")
    parser.add_argument("--completions", type=int, default=4, help="per prompt; default %(default)s")
    parser.add_argument("--cap", type=int, default=64, help="tokens of a completion; default %(default)s")
    options = parser.parse_args(argv)
    try:
        grid = load_grid(options.grid)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cell = grid.cells[0]
    found = record(
        cell.recipe, seed=cell.seed, prompts=options.prompts, completions=options.completions, cap=options.cap
    )
    mask, advantages = found["mask"], found["advantages"]
    truncated = int((mask.sum(1) == 0).sum())
    idle = int((advantages.reshape(options.prompts, -1) == 0).all(1).sum())
    counted = mask.astype(bool) & (advantages != 0)[:, None]
    how = (
        f"first step of {cell.recipe.model.name}, seed {cell.seed}: {options.prompts} prompts x "
        f"{options.completions} completions of at most {options.cap} tokens at temperature "
        f"{cell.recipe.rollout.temperature}; {truncated} truncated and masked, {idle} of {options.prompts} groups "
        f"without reward spread, {counted.sum()} of {mask.size} positions with a gradient; "
        f"python -m tests.campaigns.record_batch --grid {options.grid}"
    )
    np.savez_compressed(options.out, mask=mask, advantages=advantages, recorded=np.array(how))
    print(how)
    return 0


if __name__ == "__main__":
    sys.exit(main())
