"""A grid of this harness from a trl recipe: every setting with a counterpart, and a list of those without one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from harness.spec.lint.kept_defects import kept_defects
from harness.spec.lint.programs import FAMILIES
from harness.spec.lint.trl_recipes import TrlRecipe
from harness.spec.lint.trl_settings import (
    POOLED_SINCE,
    TEMPERED_SINCE,
    Batch,
    batch_of,
    checkpoints_of,
    loss_of,
    optimizer_of,
    steps_of,
)
from harness.spec.recipe import LoraSpec, OptimizerSpec, TrainingSpec
from kernels.grpo_loss.objective import VARIANTS

_COLUMNS = {
    "open-rs": ("problem", "answer"),
    "open-r1": ("prompt", "solution"),
    "trl": ("prompt", "solution"),
}
"""Columns of question and reference answer that a program reads."""
_EVERY_QUESTION = 1_000_000


@dataclass
class _Draft:
    """The grid under construction: values by dotted path, each with where it comes from."""

    recipe: TrlRecipe
    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)

    def take(self, key: str, default: Any = None) -> Any:
        """A setting of the recipe, which then counts as mapped."""
        self.read.add(key)
        return self.recipe.get(key, default)

    def put(self, path: str, value: Any, *keys: str, remark: str = "") -> None:
        """Sets a field of the grid from settings of the recipe."""
        self.read.update(keys)
        stated = [key for key in keys if self.recipe.stated_key(key)]
        silent = f"trl {self.recipe.version}'s default" if keys else ""
        origin = ", ".join(stated) or silent
        self.values[path] = (value, "; ".join(filter(None, [origin, remark])))

    def leave(self, key: str, reason: str) -> None:
        """Names a setting that has no counterpart."""
        self.read.add(key)
        self.left_out.append(f"{key}: {_short(self.recipe.get(key))} ({reason})")


def to_grid(recipe: TrlRecipe) -> tuple[str, list[str]]:
    """The grid as YAML 1.2, and what of the recipe has no counterpart in it.

    Raises:
        SpecError: the recipe names no model, no data, or no reward that this harness has too; or its settings do
            not go together.
    """
    draft = _Draft(recipe)
    for part in (_model, _data, _rewards, _rollout, _objective, _optimizer, _training):
        part(draft)
    for key in recipe.located.data:
        if key not in draft.read and recipe.values.data.get(key) is not None:
            draft.left_out.append(f"{key}: {_short(recipe.values.data[key])}")
    return _written(draft), draft.left_out


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 70 else text[:70] + "…"


def _model(draft: _Draft) -> None:
    recipe = draft.recipe
    if not recipe.stated_key("model_name_or_path"):
        raise recipe.located.error((), "model_name_or_path: missing", "a grid needs a model")
    draft.put("base.model.name", str(recipe.get("model_name_or_path")), "model_name_or_path")
    if (revision := draft.take("model_revision")) not in (None, "main"):
        draft.put("base.model.revision", str(revision), "model_revision")
    dtype = "dtype" if recipe.stated_key("dtype") or not recipe.stated_key("torch_dtype") else "torch_dtype"
    half = str(draft.take(dtype)).removeprefix("torch.") in ("bfloat16", "float16", "auto")
    mixed = recipe.get("bf16")
    if mixed is None:  # trl sets it unless fp16 is asked for
        mixed = not recipe.get("fp16", False)
    draft.put("base.model.dtype", "bfloat16" if half or mixed else "float32", "bf16", dtype)
    attention = draft.take("attn_implementation")
    if attention in ("sdpa", "eager", "flash_attention_2"):
        draft.put("base.model.attention", attention, "attn_implementation")
    elif attention is not None:
        draft.leave("attn_implementation", "sdpa instead")
    if draft.take("use_liger_kernel", False):
        draft.put("base.model.liger", True, "use_liger_kernel")
    if draft.take("use_peft", False):
        _lora(draft)


def _lora(draft: _Draft) -> None:
    recipe = draft.recipe
    draft.put("base.model.lora.r", recipe.count("lora_r", 16), "lora_r")
    draft.put("base.model.lora.alpha", recipe.number("lora_alpha", 32), "lora_alpha")
    targets = draft.take("lora_target_modules")
    if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        draft.put("base.model.lora.targets", targets, "lora_target_modules")
    elif targets == "all-linear":
        draft.put("base.model.lora.targets", list(LoraSpec().targets), "lora_target_modules")
    elif targets is None:
        remark = "peft's own choice for Qwen2 and Llama"
        draft.put("base.model.lora.targets", ["q_proj", "v_proj"], "lora_target_modules", remark=remark)
    else:
        draft.leave("lora_target_modules", "a pattern; the linear layers of the body instead")
    if draft.take("lora_dropout", 0.0):
        draft.leave("lora_dropout", "0 here")


def _data(draft: _Draft) -> None:
    recipe = draft.recipe
    question, answer = _COLUMNS[recipe.program]
    if recipe.program == "open-r1":
        question = str(draft.take("dataset_prompt_column", question))
    if not recipe.stated_key("dataset_name"):
        raise recipe.located.error(
            (), "dataset_name: missing", "a grid needs questions: name a dataset of the hub"
        )
    source = {"source": "hub", "dataset": str(recipe.get("dataset_name"))}
    if (config := draft.take("dataset_config")) is not None:
        source["config"] = str(config)
    if (split := draft.take("dataset_train_split", "train")) != "train":
        source["split"] = str(split)
    source |= {"question": question, "answer": answer}
    draft.put("base.data.sources", [source], "dataset_name", remark=f"columns as {recipe.program} reads them")
    draft.put("base.data.size", _EVERY_QUESTION, remark="every question, up to so many")
    if (system := draft.take("system_prompt")) is not None:
        draft.put("base.prompt.system", str(system), "system_prompt")
    if recipe.get("max_prompt_length") is not None:
        draft.put("base.prompt.max_tokens", recipe.count("max_prompt_length", 512), "max_prompt_length")


def _rewards(draft: _Draft) -> None:
    recipe, reward = draft.recipe, draft.recipe.reward
    draft.read |= {"reward_funcs", "reward_weights"}
    if reward.spec is None:
        known = ", ".join(FAMILIES[recipe.program])
        raise recipe.located.error(
            ("reward_funcs",), "reward_funcs: none of them has a counterpart here", f"one of {known}"
        )
    functions = [function.model_dump(mode="json") for function in reward.spec.functions]
    for function in functions:
        if not function["params"]:
            del function["params"]
        elif function["name"] == "cosine_characters":
            draft.read |= {key for key in recipe.located.data if str(key).startswith("cosine_")}
        elif function["name"] == "repetition":
            draft.read |= {"repetition_n_grams", "repetition_max_penalty"}
        elif function["name"] == "soft_overlong":
            draft.read |= {"max_completion_len", "soft_punish_cache"}
    draft.put("base.reward.functions", functions, "reward_funcs", "reward_weights")
    if draft.take("multi_objective_aggregation") == "normalize_then_sum":
        draft.put("base.reward.normalization", "group", "multi_objective_aggregation")
    for place, name, weight in reward.unknown:
        draft.left_out.append(
            f"{place.key}: {name}, weight {weight:g} (no reward of this harness is like it)"
        )


def _rollout(draft: _Draft) -> None:
    recipe, batch = draft.recipe, batch_of(draft.recipe)
    completions = _completions(recipe, batch)
    if batch.group < 2 or completions % batch.group:
        raise recipe.located.error(
            ("num_generations",),
            f"num_generations: {completions:g} completions do not come out in groups of {batch.group}",
            "`# lint: processes=N` in the file says how many processes train"
            if recipe.processes is None
            else None,
        )
    sizes = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "steps_per_generation",
        "generation_batch_size",
    )
    assumed = "" if recipe.processes else ", one process assumed: `# lint: processes=N` says otherwise"
    remark = f"{completions:g} completions a step / {batch.group}{assumed}"
    draft.put("base.rollout.prompts_per_step", int(completions // batch.group), *sizes, remark=remark)
    draft.put("base.rollout.completions_per_prompt", batch.group, "num_generations")
    cap = recipe.count("max_completion_length", 256)
    draft.put("base.rollout.max_completion_tokens", cap, "max_completion_length")
    draft.put("base.rollout.temperature", recipe.number("temperature", 1.0), "temperature")
    draft.put("base.rollout.top_p", recipe.number("top_p", 1.0), "top_p")
    if recipe.get("top_k") not in (None, 0, -1):
        draft.leave("top_k", f"no truncation here; trl {recipe.version} draws from so many tokens")
    if recipe.before(TEMPERED_SINCE) and recipe.number("temperature", 1.0) != 1:
        remark = f"trl {recipe.version} does not divide by the temperature"
        draft.put("base.training.logprob_temperature", 1.0, remark=remark)
    if draft.take("use_vllm", False):
        draft.put("base.rollout.engine", "vllm", "use_vllm")
        share = draft.take("vllm_gpu_memory_utilization")
        if share is not None:
            draft.put("base.rollout.vllm.memory_utilization", float(share), "vllm_gpu_memory_utilization")
        if draft.take("vllm_mode", "server") == "server":
            draft.put(
                "base.rollout.vllm.placement",
                "own",
                "vllm_mode",
                remark="a device of its own, after the trainers'",
            )
            draft.put("base.rollout.vllm.devices", [batch.processes])


def _completions(recipe: TrlRecipe, batch: Batch) -> float:
    """Completions of one step here: those of a call of the generator, or of an update where calls are smaller."""
    per_update = batch.per_device * batch.processes * batch.accumulation
    return per_update if recipe.before(POOLED_SINCE) else max(batch.completions, float(per_update))


def _objective(draft: _Draft) -> None:
    recipe, loss = draft.recipe, loss_of(draft.recipe)
    if loss not in VARIANTS:
        raise recipe.located.error(("loss_type",), f"loss_type: {loss!r} is no loss of this harness")
    draft.put("base.objective.loss", loss, "loss_type")
    surrogate = VARIANTS[loss].surrogate
    low, high = recipe.number("epsilon", 0.2), recipe.get("epsilon_high")
    draft.read |= {"epsilon", "epsilon_high"}
    if surrogate == "clip":
        draft.put("base.objective.clip_low", low, "epsilon")
        draft.put("base.objective.clip_high", low if high is None else float(high), "epsilon", "epsilon_high")
        if draft.take("delta") is not None:
            draft.put("base.objective.delta", recipe.number("delta", 0), "delta")
    elif surrogate == "cispo":
        draft.put("base.objective.cispo_max", low if high is None else float(high), "epsilon", "epsilon_high")
    elif surrogate == "sapo":
        for ours, theirs in (
            ("sapo_tau_pos", "sapo_temperature_pos"),
            ("sapo_tau_neg", "sapo_temperature_neg"),
        ):
            draft.put(f"base.objective.{ours}", recipe.number(theirs, 1.0), theirs)
    elif surrogate == "vespo":
        for name in ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"):
            draft.put(f"base.objective.{name}", recipe.number(name, 1.0), name)
    if surrogate == "clip":
        level = str(draft.take("importance_sampling_level", "token"))
        draft.put("base.objective.ratio_level", level, "importance_sampling_level")
    if recipe.get("use_vllm", False) and draft.take("vllm_importance_sampling_correction", False):
        _importance(draft, loss)
    beta = recipe.number("beta", 0.0)
    draft.put("base.objective.beta", beta, "beta")
    if beta and (ratio := draft.take("use_bias_correction_kl")) is not None:
        draft.put("base.objective.kl_ratio", bool(ratio), "use_bias_correction_kl")
    if draft.take("mask_truncated_completions", False):
        draft.put("base.objective.mask_truncated", True, "mask_truncated_completions")
    quantile = recipe.number("top_entropy_quantile", 1.0)
    draft.read.add("top_entropy_quantile")
    if quantile < 1:
        draft.put("base.objective.top_entropy_quantile", quantile, "top_entropy_quantile")
    if bonus := recipe.number("entropy_coef", 0.0):
        draft.put("base.objective.entropy_bonus", bonus, "entropy_coef")
    scale = recipe.get("scale_rewards", True)
    scale = {True: "group", False: "none"}.get(scale, scale)
    draft.put("base.advantage.scale", scale, "scale_rewards")


def _importance(draft: _Draft, loss: str) -> None:
    """The correction by the ratio of the trainer's to vLLM's probabilities, which vespo has within its own weight."""
    if loss == "vespo":
        return
    mode, cap = "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max"
    old = "vllm_importance_sampling_cap"
    draft.put("base.objective.importance", str(draft.take(mode, "token_truncate")), mode)
    value = draft.recipe.get(old)
    value = draft.recipe.get(cap) if value is None else value
    if value is not None:
        draft.put("base.objective.importance_cap", float(value), cap, old)
    if draft.take("vllm_importance_sampling_clip_min") is not None:
        draft.leave("vllm_importance_sampling_clip_min", "no lower bound here")


def _optimizer(draft: _Draft) -> None:
    recipe = draft.recipe
    spec, known = optimizer_of(recipe)
    updates = batch_of(recipe).updates
    draft.read |= {"lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"}
    draft.put("base.optimizer.learning_rate", spec.learning_rate, "learning_rate")
    draft.put("base.optimizer.schedule", spec.schedule, "lr_scheduler_type", "lr_scheduler_kwargs")
    if not known:
        draft.leave("lr_scheduler_type", f"{spec.schedule} instead; with lr_scheduler_kwargs as they are")
    share = next((k for k in ("warmup_ratio", "warmup_steps") if 0 < recipe.number(k, 0) < 1), None)
    if share is not None and steps_of(recipe) < 0:
        draft.leave(share, "a share of steps whose number is not known: set `optimizer.warmup_steps`")
    else:
        warmup = math.ceil(spec.warmup_steps / updates)
        draft.put("base.optimizer.warmup_steps", warmup, "warmup_steps", "warmup_ratio")
    default = OptimizerSpec()
    for name in ("min_learning_rate_ratio", "decay_fraction"):
        if getattr(spec, name) != getattr(default, name):
            draft.put(f"base.optimizer.{name}", getattr(spec, name), "lr_scheduler_kwargs")
    betas = [recipe.number("adam_beta1", 0.9), recipe.number("adam_beta2", 0.999)]
    draft.put("base.optimizer.betas", betas, "adam_beta1", "adam_beta2")
    draft.put("base.optimizer.epsilon", recipe.number("adam_epsilon", 1e-8), "adam_epsilon")
    draft.put("base.optimizer.weight_decay", recipe.number("weight_decay", 0.0), "weight_decay")
    norm = recipe.number("max_grad_norm", 1.0)
    draft.put("base.optimizer.max_grad_norm", norm or None, "max_grad_norm")
    if "8bit" in str(draft.take("optim", "")):
        draft.put("base.optimizer.name", "adamw_8bit", "optim")


def _training(draft: _Draft) -> None:
    recipe, batch = draft.recipe, batch_of(draft.recipe)
    minibatches = max(1.0, batch.per_generation / batch.accumulation)
    if minibatches != int(minibatches):
        raise recipe.located.error(
            ("steps_per_generation",),
            f"steps_per_generation: {batch.per_generation:g} is no multiple of `gradient_accumulation_steps`",
            "updates across two batches of completions have no counterpart here",
        )
    updates, steps = int(minibatches * batch.iterations), steps_of(recipe)
    if steps > 0:
        remark = f"{steps} updates / {updates} a step" if updates > 1 else ""
        draft.put("base.training.steps", math.ceil(steps / updates), "max_steps", remark=remark)
        draft.read.add("num_train_epochs")
    else:
        remark = "this harness's default: the recipe counts epochs, and how many steps they are depends on the data"
        draft.put("base.training.steps", TrainingSpec().steps, remark=remark)
        draft.leave("num_train_epochs", "set `training.steps`")
    draft.put("base.training.inner_epochs", batch.iterations, "num_iterations")
    draft.put("base.training.minibatches", int(minibatches), "steps_per_generation", "generation_batch_size")
    checkpointing = bool(recipe.get("gradient_checkpointing", False))
    draft.put("base.training.gradient_checkpointing", checkpointing, "gradient_checkpointing")
    saved = checkpoints_of(recipe)
    draft.read |= {"save_steps", "save_strategy"}
    if len(saved) > 1:
        draft.put("base.training.checkpoint_every", max(1, saved[0] // updates), "save_steps")
    draft.put("seeds", [recipe.count("seed", 42, least=0)], "seed")


def _written(draft: _Draft) -> str:
    recipe = draft.recipe
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(recipe.file).stem).strip("-._") or "recipe"
    cap = draft.values["base.rollout.max_completion_tokens"][0]
    document = CommentedMap({"name": name})
    document["question"] = (
        f"What does the recipe {name} of {recipe.program}, for trl {recipe.version}, reach?"
    )
    for path, (value, remark) in draft.values.items():
        _insert(document, path.split("."), value, remark)
    source = {"source": "hub", "dataset": "HuggingFaceH4/MATH-500", "split": "test"}
    document["evaluate"] = {
        "samples": 4,
        "max_completion_tokens": cap,
        "temperature": 0.6,
        "top_p": 0.95,
        "benchmarks": [{"name": "math500", "questions": 500, "source": source}],
    }
    document.yaml_set_comment_before_after_key(
        "evaluate", before="the recipe names no benchmark: this one is a choice"
    )
    processes = batch_of(recipe).processes
    own = "base.rollout.vllm.devices" in draft.values
    if own or processes > 1:
        hardware = {"devices_per_run": processes + own, **({"training_devices": processes} if own else {})}
        document["hardware"] = {"device": "cuda", **hardware}
    if waivers := {**kept_defects(recipe), **recipe.waivers}:
        document["lint"] = {"waive": waivers}
    head = [f"From {Path(recipe.file).name}, read as a recipe of {recipe.program} for trl {recipe.version}."]
    if draft.left_out:
        head += ["Without a counterpart here:", *(f"  {line}" for line in draft.left_out)]
    document.yaml_set_start_comment("\n".join(head))
    yaml, text = YAML(), StringIO()
    yaml.width = 110
    yaml.dump(document, text)
    return text.getvalue()


def _insert(document: CommentedMap, path: list[str], value: Any, remark: str) -> None:
    *parents, last = path
    for parent in parents:
        document = document.setdefault(parent, CommentedMap())
    document[last] = value
    if remark and not isinstance(value, list | dict):
        document.yaml_add_eol_comment(remark, last)
    elif remark:
        document.yaml_set_comment_before_after_key(last, before=remark, indent=2 * len(parents))
