"""The GRPO training step: prompts → rollouts → rewards → advantages → update, and the step's record."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from harness.data.order import problems_from
from harness.data.problem import Problem
from harness.data.prompts import PromptEncoder
from harness.meters.clock import PhaseClock
from harness.meters.energy import EnergyMeter, visible_gpus
from harness.meters.flops import FlopsModel
from harness.meters.load import LoadMeter
from harness.meters.memory import PeakMemory
from harness.models.loading import LoadedModel
from harness.models.lora import adapter_tensors, add_adapters, set_adapters
from harness.rewards.composite import CompositeReward, Scores
from harness.rollout.engine import Completion, Engine, Request, Sampling
from harness.rollout.texts import completion_texts
from harness.spec.recipe import Recipe
from harness.spec.schedule import learning_rate
from harness.spec.seeds import derive_seed
from harness.store.records import Alarm, Energy, StepFigures, StepTiming, StepTokens
from harness.training.advantages import group_advantages
from harness.training.batch import Sample
from harness.training.checkpoints import Checkpoints, optimizer_tensors
from harness.training.data_parallel import Parallelism, SingleProcess
from harness.training.detectors import Detectors, foreign_share, loop_share, scripts_of
from harness.training.generators import seed_generators
from harness.training.groups import SampledGroups, reward_inputs
from harness.training.optimizer import build_optimizer
from harness.training.policy import logit_divisor
from harness.training.step_record import (
    completion_figures,
    detector_figures,
    finite,
    reward_figures,
    token_figures,
)
from harness.training.update import Updater, UpdateResult


class Trainer:
    """Trains one policy; `step` counts the finished training steps.

    Args:
        recipe: the run's recipe.
        seed: the run's seed.
        loaded: the untrained model. It becomes the policy, or, in several processes, this rank's replica of it.
        engine: samples from the policy (from the replica).
        rewards: the composite reward.
        problems: training questions; those whose prompt is too long are left out.
        peak_flops: peak FLOP/s of all devices together, the denominator of MFU; None where it is not known.
        devices: number of devices that the run is billed for.
        parallel: how training is spread over processes; a single one unless given.

    Raises:
        ValueError: every question's prompt is too long.
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
        peak_flops: float | None,
        devices: int = 1,
        parallel: Parallelism | None = None,
    ) -> None:
        self._parallel = parallel or SingleProcess()
        self.recipe = recipe
        self.rollbacks = 0
        self._groups_sampled = 0
        self._detectors = Detectors(recipe.stability)
        self.alarms: list[Alarm] = []
        self._devices = devices
        self.step = 0
        self._seed = seed
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._special = loaded.special
        self._engine = engine
        self._rewards = rewards
        self.peak_flops = peak_flops
        self.flops = flops_model(loaded)
        cuda = self._model.device.type == "cuda"
        memory = PeakMemory(self._model.device.index or 0 if cuda else None)
        self.clock = PhaseClock(memory, torch.cuda.synchronize if cuda else None)
        self._energy = EnergyMeter(visible_gpus(devices) if cuda else ())
        self._load = LoadMeter()
        reference = None
        if recipe.model.lora is not None:
            # The reference policy is the model with its adapters switched off, so it needs no copy.
            add_adapters(self._model, recipe.model.lora, seed=derive_seed(seed, "lora"))
        elif recipe.objective.beta > 0:
            reference = self._parallel.shard(copy.deepcopy(self._model).eval().requires_grad_(False))
        self._untrained_adapters = {k: v.clone() for k, v in adapter_tensors(self._model).items()}
        divisor = logit_divisor(self._model)
        self._policy = self._parallel.shard(self._model)
        self._optimizer = build_optimizer(self._policy, recipe.optimizer)
        self._updater = Updater(
            self._policy,
            reference,
            self._optimizer,
            recipe,
            self.clock,
            self._parallel,
            divisor,
            self._special.vocabulary,
        )
        self._problems, self._prompts = self._encode(problems)
        self._scripts = scripts_of(p.question for p in self._problems)

    def _encode(self, problems: Sequence[Problem]) -> tuple[list[Problem], list[tuple[int, ...]]]:
        encoder = PromptEncoder(self._tokenizer, self.recipe.prompt, rows=self._special.vocabulary)
        encoded = [(p, tuple(encoder.encode(p.question))) for p in problems]
        kept = [(p, ids) for p, ids in encoded if len(ids) <= self.recipe.prompt.max_tokens]
        self.dropped_prompts = len(encoded) - len(kept)
        if not kept:
            raise ValueError(
                f"no training question has a prompt of at most {self.recipe.prompt.max_tokens} tokens"
            )
        self._opened = [encoder.opened(ids) for _, ids in kept]
        return [p for p, _ in kept], [ids for _, ids in kept]

    def save(self, checkpoints: Checkpoints) -> None:
        """Writes a checkpoint of the current step; every rank must call this."""
        position = {
            "drawn": self._groups_sampled,
            "rollbacks": self.rollbacks,
            "detectors": self._detectors.state(),
        }
        moments = optimizer_tensors(self._policy, self._optimizer)
        self._parallel.on_rank0(
            lambda: checkpoints.save(self.step, self._model, self._tokenizer, moments, position)
        )

    def restore(self, checkpoints: Checkpoints, step: int) -> None:
        """Resumes from the checkpoint of `step`; every rank must call this.

        Raises:
            DamagedCheckpoint: the checkpoint is damaged; the trainer's state is then undefined until the next
                successful `restore` or `reset`.
        """
        checkpoints.load_weights(step, self._model)
        self._parallel.load_replica(self._policy, self._model)
        checkpoints.load_optimizer(step, self._policy, self._optimizer)
        position = checkpoints.position(step)
        self._engine.update_weights()
        self.step = step
        self._groups_sampled = position.get("drawn", step * self.recipe.rollout.prompts_per_step)
        self.rollbacks = position.get("rollbacks", 0)
        self._detectors.restore(position.get("detectors", {}))

    def reset(self, untrained: PreTrainedModel) -> None:
        """Goes back to step 0 with the weights of `untrained`; every rank must call this."""
        if self._untrained_adapters:
            set_adapters(self._model, self._untrained_adapters)
        else:
            self._model.load_state_dict(untrained.state_dict())
        self._parallel.load_replica(self._policy, self._model)
        self._optimizer.state.clear()
        self._engine.update_weights()
        self.step = self._groups_sampled = self.rollbacks = 0
        self._detectors.restore({})

    @contextmanager
    def rolling_back(self) -> Iterator[None]:
        """Wrap a `restore` or `reset` in this to roll back instead of resuming.

        The position in the data and the count of rollbacks carry on, so that training continues with other questions
        and other samples. The optimiser's state is cleared first, since the checkpoint may hold none.
        """
        drawn, rollbacks = self._groups_sampled, self.rollbacks + 1
        self._optimizer.state.clear()
        yield
        self._groups_sampled, self.rollbacks = drawn, rollbacks

    def train_step(self) -> StepFigures:
        """Does one training step; every rank must call this.

        Returns:
            The step's figures. `alarms` and their `events` hold the alarms of the stability detectors.
        """
        self.clock.reset()
        self._energy.reset()
        self._load.reset()
        seed_generators(self._seed, self.step)
        waited = self._parallel.waited_seconds
        groups = self._parallel.on_rank0(self._sample_groups)
        self.clock.move("rollout", "idle", self._parallel.waited_seconds - waited)
        with self.clock.phase("sync"):
            self._engine.sleep()
        with self.clock.phase("reward"):
            rewards = groups.rewards()
            advantages = group_advantages(rewards[groups.kept], self.recipe.advantage).flatten().tolist()
        rate = learning_rate(self.recipe.optimizer, step=self.step + 1, steps=self.recipe.training.steps)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        group = self.recipe.rollout.completions_per_prompt
        rows = [i * group + k for i in groups.kept for k in range(group)]
        samples = [
            Sample(self._prompts[groups.chosen[i // group]], c.token_ids, c.logprobs, 0.0, c.truncated)
            for i, c in enumerate(groups.completions)
        ]
        batch = [replace(samples[row], advantage=advantage) for row, advantage in zip(rows, advantages)]
        result = self._updater.update(batch)
        with self.clock.phase("sync"):
            self._parallel.sync_replica(self._policy, self._model)
            self._engine.update_weights()
            waited = self._parallel.waited_seconds
            self._parallel.wait_for_all(None)  # another rank's engine may have to restart
        self.clock.move("sync", "idle", self._parallel.waited_seconds - waited)
        self.step += 1
        self._groups_sampled += len(groups.chosen)
        texts = self._text_figures(groups)
        completion = completion_figures(groups.completions, **texts)
        tokens = token_figures(samples, batch, result)
        self.alarms = self._detectors.check(detector_figures(completion, result))
        return StepFigures(
            step=self.step,
            reward=reward_figures(rewards, groups.scores),
            accuracy=statistics.fmean(map(float, groups.scores.correct)),
            completion=completion,
            objective={**finite(result.metrics), "learning_rate": rate},
            tokens=tokens,
            samples_seen=self._groups_sampled * group,
            epoch=self._groups_sampled / len(self._problems),
            drawing=groups.figures(self.recipe.rollout.zero_spread),
            rollbacks=self.rollbacks,
            events=tuple(self.alarms),
            timing=self._timing(samples, batch, result, tokens, groups),
            memory=self.clock.memory(),
            energy=Energy(**self._energy.read()),
            load=self._load.read(),
        )

    def first_bad_step(self, alarm: Alarm) -> int:
        """The first of the consecutive steps that led to an alarm of the last step."""
        return self.step + 1 - self._detectors.bad_steps(alarm)

    def _sample_groups(self) -> SampledGroups:
        """Samples and scores the step's groups, in rounds under dynamic sampling."""
        rollout = self.recipe.rollout
        groups = SampledGroups(rollout.completions_per_prompt)
        while groups.needs_another_round(rollout):
            before = sum(self.clock.seconds.values())
            chosen = problems_from(
                len(self._problems),
                seed=self._seed,
                first=self._groups_sampled + len(groups.chosen),
                number=rollout.prompts_per_step - len(groups.kept),
            )
            with self.clock.phase("rollout"):
                completions = self._sample(chosen, first_slot=len(groups.chosen))
            with self.clock.phase("reward"):
                texts = self._texts(completions)
                scores = self._score(chosen, completions, texts)
                groups.add(chosen, completions, texts, scores, rollout)
            if groups.rounds > 1:
                groups.resample_seconds += sum(self.clock.seconds.values()) - before
        return groups

    def _sample(self, chosen: Sequence[int], *, first_slot: int) -> list[Completion]:
        rollout = self.recipe.rollout
        # After a rollback, the same step samples with other seeds.
        again = ("rollback", self.rollbacks) if self.rollbacks else ()
        requests = [
            Request(self._prompts[index], derive_seed(self._seed, "rollout", self.step, slot, number, *again))
            for slot, index in enumerate(chosen, start=first_slot)
            for number in range(rollout.completions_per_prompt)
        ]
        sampling = Sampling(rollout.max_completion_tokens, rollout.temperature, rollout.top_p)
        return self._engine.generate(requests, sampling)

    def _texts(self, completions: Sequence[Completion]) -> list[str]:
        return completion_texts(self._tokenizer, completions, self._special.end_ids)

    def _text_figures(self, groups: SampledGroups) -> dict[str, float]:
        size = self.recipe.stability.repetition.ngram_tokens
        return {
            "loop_share": loop_share((c.token_ids for c in groups.completions), size),
            "foreign_script_share": foreign_share(groups.texts, self._scripts),
        }

    def _score(
        self, chosen: Sequence[int], completions: Sequence[Completion], texts: Sequence[str]
    ) -> Scores:
        problems = [self._problems[index] for index in chosen]
        opened = [self._opened[index] for index in chosen]
        cap = self.recipe.rollout.max_completion_tokens
        return self._rewards.score(reward_inputs(problems, completions, texts, cap=cap, opened=opened))

    def _forward_flops(self, samples: Sequence[Sample]) -> float:
        """FLOPs of one forward pass over the samples in the updater's layout."""
        if self._updater.packing != "shared":
            return self.flops.forward([s.length for s in samples])
        prompts = self.flops.forward([len(ids) for ids in {s.prompt_ids for s in samples}])
        return prompts + self.flops.forward(
            [s.length for s in samples], prefix=[len(s.prompt_ids) for s in samples]
        )

    def _timing(
        self,
        samples: Sequence[Sample],
        batch: Sequence[Sample],
        result: UpdateResult,
        tokens: StepTokens,
        groups: SampledGroups,
    ) -> StepTiming:
        seconds = self.clock.with_other()
        total = sum(seconds.values())
        prompts = samples[:: self.recipe.rollout.completions_per_prompt]
        flops = self.flops.forward([len(s.prompt_ids) for s in prompts])
        flops += self.flops.forward([s.length for s in samples], prefix=[len(s.prompt_ids) for s in samples])
        flops += sum(self._forward_flops([batch[i] for i in rows]) for rows in result.measured)
        # A backward pass is two forward passes.
        flops += (
            3 * self.recipe.training.inner_epochs * self._forward_flops([batch[i] for i in result.trained])
        )
        training_seconds = sum(seconds.get(name, 0.0) for name in ("logprob", "update", "optimizer"))
        sampled = tokens.prompt + tokens.completion
        return StepTiming(
            total_seconds=total,
            seconds=seconds,
            tokens=self._phase_tokens(batch, result, tokens),
            tokens_per_second=sampled / total,
            tokens_per_second_per_device=sampled / total / self._devices,
            # Of several ranks, rank 0 alone times the rollouts.
            rollout_tokens_per_second=tokens.completion / seconds["rollout"]
            if "rollout" in seconds
            else None,
            train_tokens_per_second=tokens.trained / training_seconds if training_seconds else None,
            flops=flops,
            mfu=None if self.peak_flops is None else flops / total / self.peak_flops,
            resample_seconds=groups.resample_seconds if groups.rounds > 1 else None,
        )

    def _phase_tokens(
        self, batch: Sequence[Sample], result: UpdateResult, tokens: StepTokens
    ) -> dict[str, int]:
        """Tokens that each phase processed, by phase."""
        return {
            "rollout": tokens.completion,
            "reward": tokens.completion,
            "logprob": sum(batch[i].length for rows in result.measured for i in rows),
            "update": self.recipe.training.inner_epochs * tokens.trained,
        }


def flops_model(loaded: LoadedModel) -> FlopsModel:
    """The FLOPs model of a loaded model: the weight matrices of its layers, and its head."""
    model = loaded.model
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    body = sum(p.numel() for p in model.parameters() if p.dim() >= 2 and p is not embedding and p is not head)
    return FlopsModel(weights=body + head.numel(), hidden=config.hidden_size, layers=config.num_hidden_layers)
