"""The GRPO step: prompts → rollouts → rewards → advantages → update, and the record it leaves."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from harness.data.order import epoch_of, step_problems
from harness.data.problem import Problem
from harness.data.prompts import encode_prompt
from harness.meters.clock import PhaseClock
from harness.meters.energy import EnergyMeter, visible_gpus
from harness.meters.flops import FlopsModel
from harness.meters.memory import PeakMemory
from harness.models.loading import LoadedModel
from harness.rewards.composite import CompositeReward, Scores
from harness.rewards.types import Scored
from harness.rollout.engine import Completion, Engine, Request, Sampling
from harness.spec.recipe import Recipe
from harness.spec.seeds import derive_seed
from harness.training.advantages import group_advantages, zero_spread
from harness.training.batch import Sample
from harness.training.checkpoints import Checkpoints
from harness.training.generators import seed_generators
from harness.training.optimizer import build_optimizer, learning_rate
from harness.training.update import Updater, UpdateResult


class Trainer:
    """Trains one policy; `step` counts the finished training steps.

    Args:
        recipe: what to train.
        seed: the run's seed.
        loaded: the untrained model, which becomes the policy.
        engine: samples from the policy.
        rewards: the composite reward.
        problems: training questions.
        peak_flops: FLOP/s that utilisation refers to, of all devices together.
        devices: devices that the run holds, as they are billed.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        loaded: LoadedModel,
        engine: Engine,
        rewards: CompositeReward,
        problems: Sequence[Problem],
        *,
        peak_flops: float,
        devices: int = 1,
    ) -> None:
        self.recipe = recipe
        self._devices = devices
        self.step = 0
        self._seed = seed
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._engine = engine
        self._rewards = rewards
        self.peak_flops = peak_flops
        self.flops = flops_model(loaded)
        cuda = self._model.device.type == "cuda"
        memory = PeakMemory(self._model.device.index or 0 if cuda else None)
        self.clock = PhaseClock(memory, torch.cuda.synchronize if cuda else None)
        self._energy = EnergyMeter(visible_gpus(devices) if cuda else ())
        reference = (
            copy.deepcopy(self._model).eval().requires_grad_(False) if recipe.objective.beta > 0 else None
        )
        self._optimizer = build_optimizer(self._model, recipe.optimizer)
        self._updater = Updater(self._model, reference, self._optimizer, recipe, self.clock)
        self._problems, self._prompts = self._encode(problems)

    def _encode(self, problems: Sequence[Problem]) -> tuple[list[Problem], list[tuple[int, ...]]]:
        encoded = [(p, tuple(encode_prompt(self._tokenizer, self.recipe.prompt, p))) for p in problems]
        kept = [(p, ids) for p, ids in encoded if len(ids) <= self.recipe.prompt.max_tokens]
        self.dropped_prompts = len(encoded) - len(kept)
        if not kept:
            raise ValueError(
                f"no training question has a prompt of at most {self.recipe.prompt.max_tokens} tokens"
            )
        return [p for p, _ in kept], [ids for _, ids in kept]

    def save(self, checkpoints: Checkpoints, keep: frozenset[int]) -> None:
        """Writes a checkpoint of the current step."""
        checkpoints.save(self.step, self._model, self._tokenizer, self._optimizer, keep)

    def restore(self, checkpoints: Checkpoints, step: int) -> None:
        """Goes on from a checkpoint; raises `DamagedCheckpoint`."""
        checkpoints.load_weights(step, self._model)
        checkpoints.load_optimizer(step, self._model, self._optimizer)
        self._engine.sync()
        self.step = step

    def reset(self, untrained: PreTrainedModel) -> None:
        """Starts again from the weights of `untrained`."""
        self._model.load_state_dict(untrained.state_dict())
        self._optimizer.state.clear()
        self._engine.sync()
        self.step = 0

    def train_step(self) -> dict[str, Any]:
        """One training step; returns its record.

        Raises:
            Diverged: the gradient is not finite.
        """
        rollout = self.recipe.rollout
        self.clock.reset()
        self._energy.reset()
        seed_generators(self._seed, self.step)
        chosen = step_problems(
            len(self._problems), seed=self._seed, step=self.step, prompts_per_step=rollout.prompts_per_step
        )
        with self.clock.phase("rollout"):
            completions = self._sample(chosen)
        with self.clock.phase("reward"):
            scores = self._score(chosen, completions)
            rewards = torch.tensor(scores.total, dtype=torch.float64).view(len(chosen), -1)
            advantages = group_advantages(rewards, self.recipe.advantage).flatten().tolist()
        group = rollout.completions_per_prompt
        samples = [
            Sample(self._prompts[chosen[i // group]], c.token_ids, c.logprobs, advantage, c.truncated)
            for i, (c, advantage) in enumerate(zip(completions, advantages))
        ]
        rate = learning_rate(self.recipe.optimizer, step=self.step + 1, steps=self.recipe.training.steps)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        result = self._updater.update(samples)
        with self.clock.phase("sync"):
            self._engine.sync()
        self.step += 1
        record = {
            "step": self.step,
            **_reward_record(rewards, scores),
            "completion": _completion_record(completions),
            "objective": {**_finite(result.metrics), "learning_rate": rate},
            "tokens": _token_record(samples, result, group),
            "samples_seen": self.step * len(samples),
            "epoch": epoch_of(len(self._problems), step=self.step, prompts_per_step=rollout.prompts_per_step),
        }
        record["timing"] = self._timing(samples, result, record["tokens"])
        record["memory"] = self.clock.peaks
        record["energy"] = self._energy.read()
        return record

    def _sample(self, chosen: Sequence[int]) -> list[Completion]:
        rollout = self.recipe.rollout
        requests = [
            Request(self._prompts[index], derive_seed(self._seed, "rollout", self.step, slot, number))
            for slot, index in enumerate(chosen)
            for number in range(rollout.completions_per_prompt)
        ]
        sampling = Sampling(rollout.max_completion_tokens, rollout.temperature, rollout.top_p)
        return self._engine.generate(requests, sampling)

    def _score(self, chosen: Sequence[int], completions: Sequence[Completion]) -> Scores:
        texts = self._tokenizer.batch_decode(
            [list(c.token_ids) for c in completions], skip_special_tokens=True
        )
        group = self.recipe.rollout.completions_per_prompt
        batch = [
            Scored(
                text=text,
                answer=self._problems[chosen[i // group]].answer,
                tokens=len(completion.token_ids),
                cap=self.recipe.rollout.max_completion_tokens,
                truncated=completion.truncated,
                question=self._problems[chosen[i // group]].question,
                group=i // group,
            )
            for i, (text, completion) in enumerate(zip(texts, completions))
        ]
        return self._rewards.score(batch)

    def _timing(
        self, samples: Sequence[Sample], result: UpdateResult, tokens: dict[str, int]
    ) -> dict[str, Any]:
        seconds = self.clock.with_other()
        total = sum(seconds.values())
        prompts = samples[:: self.recipe.rollout.completions_per_prompt]
        flops = self.flops.forward([len(s.prompt_ids) for s in prompts])
        flops += self.flops.forward([s.length for s in samples], prefix=[len(s.prompt_ids) for s in samples])
        flops += result.forward_passes * self.flops.forward([s.length for s in samples])
        trained = [samples[i].length for i in result.trained]
        flops += self.recipe.training.inner_epochs * self.flops.train(trained)
        training_seconds = sum(seconds.get(name, 0.0) for name in ("logprob", "update", "optimizer"))
        return {
            "total_seconds": total,
            "seconds": seconds,
            "tokens": self._phase_tokens(samples, result, tokens),
            "tokens_per_second": (tokens["prompt"] + tokens["completion"]) / total,
            "tokens_per_second_per_device": (tokens["prompt"] + tokens["completion"]) / total / self._devices,
            "rollout_tokens_per_second": tokens["completion"] / seconds["rollout"],
            "train_tokens_per_second": tokens["trained"] / training_seconds if training_seconds else None,
            "flops": flops,
            "mfu": flops / total / self.peak_flops,
        }

    def _phase_tokens(
        self, samples: Sequence[Sample], result: UpdateResult, tokens: dict[str, int]
    ) -> dict[str, int]:
        """Tokens that each phase worked on: sampled, judged, passed forward, passed forward and backward."""
        return {
            "rollout": tokens["completion"],
            "reward": tokens["completion"],
            "logprob": result.forward_passes * sum(s.length for s in samples),
            "update": self.recipe.training.inner_epochs * tokens["trained"],
        }


def flops_model(loaded: LoadedModel) -> FlopsModel:
    """The FLOPs model of a loaded model: matrices of its layers, and its head."""
    model = loaded.model
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    body = sum(p.numel() for p in model.parameters() if p.dim() >= 2 and p is not embedding and p is not head)
    return FlopsModel(weights=body + head.numel(), hidden=config.hidden_size, layers=config.num_hidden_layers)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.pstdev(values)}


def _zero_spread_share(values: Sequence[float], groups: int) -> float:
    """Share of the groups whose completions all have the same value."""
    return float(zero_spread(torch.tensor(values, dtype=torch.float64).view(groups, -1)).double().mean())


def _reward_record(rewards: torch.Tensor, scores: Scores) -> dict[str, Any]:
    return {
        "reward": {
            **_spread(scores.total),
            "zero_spread_share": _zero_spread_share(scores.total, len(rewards)),
            "functions": {
                name: {**_spread(values), "zero_spread_share": _zero_spread_share(values, len(rewards))}
                for name, values in scores.by_function.items()
            },
        },
        "accuracy": statistics.fmean(map(float, scores.correct)),
    }


def _completion_record(completions: Sequence[Completion]) -> dict[str, float]:
    lengths = np.array([len(c.token_ids) for c in completions])
    logprobs = [value for c in completions for value in c.logprobs]
    return {
        "mean_tokens": float(lengths.mean()),
        "p10": float(np.quantile(lengths, 0.1)),
        "p25": float(np.quantile(lengths, 0.25)),
        "median_tokens": float(np.median(lengths)),
        "p75": float(np.quantile(lengths, 0.75)),
        "p90": float(np.quantile(lengths, 0.9)),
        "max_tokens": int(lengths.max()),
        "truncated_share": statistics.fmean(float(c.truncated) for c in completions),
        # The mean of −log p over sampled tokens estimates the policy's entropy over all completions, trained or not.
        "sampled_entropy": -statistics.fmean(logprobs),
    }


def _token_record(samples: Sequence[Sample], result: UpdateResult, group: int) -> dict[str, int]:
    return {
        "prompt": sum(len(s.prompt_ids) for s in samples),
        "completion": sum(len(s.completion_ids) for s in samples),
        "trained": sum(samples[i].length for i in result.trained),
        "skipped_samples": len(samples) - len(result.trained),
    }


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN; a mean over nothing is null."""
    return {k: v if math.isfinite(v) else None for k, v in metrics.items()}
