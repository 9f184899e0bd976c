"""Rules on what only a trl recipe has: its keys, its values as trl reads them, its batch and its checkpoints."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import replace

from harness.spec.errors import SpecError
from harness.spec.lint import reward_rules, rules, trl_keys
from harness.spec.lint.finding import Finding, Place
from harness.spec.lint.trl_choices import choices
from harness.spec.lint.trl_recipes import TrlRecipe
from harness.spec.lint.trl_settings import (
    POOLED_SINCE,
    batch_of,
    checkpoints_of,
    optimizer_of,
    settings_of,
    steps_of,
    warmup_of,
)
from harness.spec.source import dotted

LOUD_SINCE = (0, 19, 0)
"""trl's parser refuses unknown keys of the file from this release on."""
RENAMED = {
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup_steps: 0.1, a fraction",
    "evaluation_strategy": "eval_strategy",
    "max_prompt_length": "",
    "vllm_max_model_len": "vllm_max_model_length",
    "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
    "use_liger_loss": "use_liger_kernel",
    "vllm_device": "vllm_mode",
}
"""What became of keys of older versions; empty where nothing took their place."""


def trl_findings(recipe: TrlRecipe) -> list[Finding]:
    """What the recipe shows, before waivers. What depends on a version that the file does not say is a warning at
    most; and where the newest trl is ruled out, what only some of the versions that fit show is a warning too.

    Raises:
        SpecError: a setting has another type than trl wants.
    """
    found = _under(recipe)
    if recipe.stated:
        return found
    under = {}
    for version in _versions_to_compare(recipe, found):
        with contextlib.suppress(SpecError):  # a version that stops at a value is not the recipe's
            under[version] = _under(replace(recipe, version=version))
    places = {v: {(f.rule, f.place) for f in findings} for v, findings in under.items()}
    found = [
        replace(f, severity="warning")
        if f.severity == "error" and not all((f.rule, f.place) in other for other in places.values())
        else f
        for f in found
    ]
    if recipe.version == list(trl_keys.known())[-1]:
        return found
    seen = {(f.rule, f.place) for f in found}
    for version in reversed(recipe.fitting):
        for f in under.get(version, ()):
            if (f.rule, f.place) not in seen:
                seen.add((f.rule, f.place))
                found.append(
                    replace(
                        f,
                        severity="warning" if f.severity == "error" else f.severity,
                        effect=f"under trl {version}, which fits as well: {f.effect}",
                    )
                )
    return found


def _versions_to_compare(recipe: TrlRecipe, found: list[Finding]) -> list[str]:
    """All versions where an error may depend on it, else those that fit as well as the one that is assumed."""
    if any(f.severity == "error" for f in found):
        return list(trl_keys.known())
    newest = recipe.version == list(trl_keys.known())[-1]
    return [] if newest else [v for v in recipe.fitting if v != recipe.version]


def _under(recipe: TrlRecipe) -> list[Finding]:
    """What the recipe shows under its version."""
    run = settings_of(recipe)
    own = (_keys, _duplicates, _values, choices, _unread, _weights, _schedule, _batch, _selection, _rewards)
    found = [finding for rule in own for finding in rule(recipe)]
    return [*found, *rules.findings([run]), *reward_rules.findings([run])]


def notes_on(recipe: TrlRecipe) -> list[str]:
    """What was converted on reading, and what could not be looked at."""
    notes = list(recipe.values.notes)
    if steps_of(recipe) < 0:
        notes.append(
            "`max_steps` is not given: the number of steps depends on the data's size, so schedule, warm-up and "
            "checkpoints were not looked at"
        )
    if not optimizer_of(recipe)[1]:
        notes.append(
            f"the schedule {recipe.get('lr_scheduler_type')} is none of this harness's; it was not looked at"
        )
    if not recipe.stated:
        notes.append(
            f"read as a recipe for trl {recipe.version}, the newest of {len(recipe.fitting)} versions whose keys fit "
            "best: what depends on it is a warning; to say it: `# lint: trl=VERSION`"
        )
    if recipe.processes is None:
        notes.append(
            "batches were not looked at: `# lint: processes=N` in the file says how many processes train"
        )
    return notes


def _trl_keys(recipe: TrlRecipe) -> frozenset[str]:
    """Keys of the known versions next to the recipe's, between which keys come and go; of all if it is a guess."""
    releases = {version: trl_keys.release(version) for version in trl_keys.known()}
    own = trl_keys.release(recipe.version)
    older = max((r for r in releases.values() if r <= own), default=own)
    newer = min((r for r in releases.values() if r >= own), default=own)
    admitted = [v for v, release in releases.items() if not recipe.stated or release in (older, newer)]
    return frozenset[str]().union(*(trl_keys.known()[version] for version in admitted))


def _keys(recipe: TrlRecipe) -> Iterator[Finding]:
    """Keys that neither trl nor the program knows."""
    admitted = _trl_keys(recipe) | trl_keys.of_program(recipe.program) | {"env"}
    for key in recipe.located.data:
        if key in admitted:
            continue
        silent = recipe.before(LOUD_SINCE)
        yield recipe.finding(
            "unknown-key",
            "error",
            key,
            f"no part of trl {recipe.version} or {recipe.program} reads this key; "
            + ("its parser drops it without a word" if silent else "its parser stops, or drops it"),
            _instead_of(str(key), admitted),
        )


def _instead_of(key: str, admitted: frozenset[str]) -> str:
    now = RENAMED.get(key)
    span = trl_keys.span(key)
    if now is not None and (not now or now.partition(":")[0] in admitted):
        instead = f"`{now}` took its place" if now else "remove it: nothing took its place"
    else:
        close = difflib.get_close_matches(key, admitted, n=1, cutoff=0.5)
        instead = f'did you mean "{close[0]}"?' if close else "remove it"
    return f"{instead} (trl {span} knows it)" if span else instead


def _duplicates(recipe: TrlRecipe) -> Iterator[Finding]:
    for path in recipe.located.duplicates:
        place = Place(key=dotted(path), line=recipe.located.line(path))
        yield recipe.finding(
            "duplicate-key",
            "warning",
            place,
            "the key stands twice: PyYAML takes the last without a word",
            "remove one of them",
        )


def _values(recipe: TrlRecipe) -> Iterator[Finding]:
    """Values that trl takes for something else."""
    for problem in recipe.values.problems:
        place = Place(key=dotted(problem.path), line=recipe.located.line(problem.path))
        yield recipe.finding(problem.rule, problem.severity, place, problem.effect, problem.instead)


def _unread(recipe: TrlRecipe) -> Iterator[Finding]:
    """Keys that nothing reads under these settings."""
    functions = recipe.values.data.get("reward_funcs") or []
    functions = functions if isinstance(functions, list) else [functions]
    idle: list[tuple[str, str, str, bool]] = [
        (f"{name}_", f"`{function}` is not among `reward_funcs`", f"add `{function}` to `reward_funcs`, or remove it",
         function not in functions)
        for function, name in (("cosine", "cosine"), ("repetition_penalty", "repetition"))
    ]  # fmt: skip
    use_vllm, use_peft = bool(recipe.get("use_vllm", False)), bool(recipe.get("use_peft", False))
    idle.append(("vllm_", "`use_vllm` is false", "`use_vllm: true`", not use_vllm))
    idle.append(("lora_", "`use_peft` is false", "`use_peft: true`, or remove it", not use_peft))
    for key in recipe.located.data:
        for prefix, reason, instead, applies in idle:
            # trl's own `repetition_penalty` is a setting of sampling.
            if applies and str(key).startswith(prefix) and key != "repetition_penalty":
                yield recipe.finding(
                    "unread-key", "warning", key, f"{reason}, so nothing reads this", instead
                )
    if steps_of(recipe) > 0 and recipe.stated_key("num_train_epochs"):
        yield recipe.finding(
            "unread-key",
            "info",
            "num_train_epochs",
            f"`max_steps` is given, so training ends after {steps_of(recipe)} steps whatever this says",
            "remove one of the two",
        )


def _weights(recipe: TrlRecipe) -> Iterator[Finding]:
    weights, functions = recipe.get("reward_weights"), recipe.get("reward_funcs", [])
    count = len(functions) if isinstance(functions, list) else 1
    count += recipe.stated_key("reward_model_name_or_path")
    if isinstance(weights, list) and len(weights) != count:
        yield recipe.finding(
            "unread-key",
            "error",
            "reward_weights",
            f"{len(weights)} weights for {count} reward functions",
            "a weight for each function",
        )


def _schedule(recipe: TrlRecipe) -> Iterator[Finding]:
    """A warm-up that the schedule has no room for, and a floor that is missing."""
    name, kwargs = str(recipe.get("lr_scheduler_type", "linear")), recipe.get("lr_scheduler_kwargs", {})
    if name == "constant" and warmup_of(recipe) > 0:
        yield recipe.finding(
            "unread-key",
            "warning",
            "warmup_ratio" if "warmup_ratio" in recipe.located.data else "warmup_steps",
            "the schedule `constant` has no warm-up in transformers: the first step has the full rate",
            "`lr_scheduler_type: constant_with_warmup`",
        )
    given = kwargs if isinstance(kwargs, dict) else {}
    if name == "cosine_with_min_lr" and given.get("min_lr") is None and given.get("min_lr_rate") is None:
        yield recipe.finding(
            "setting-value",
            "error",
            "lr_scheduler_type",
            "`cosine_with_min_lr` wants `min_lr` or `min_lr_rate`: transformers stops",
            "`lr_scheduler_kwargs: {min_lr_rate: 0.1}`, or `lr_scheduler_type: cosine`",
        )


def _batch(recipe: TrlRecipe) -> Iterator[Finding]:
    """How the batch falls into groups and into calls of the generator."""

    def shape(key: str, effect: str, instead: str) -> Finding:
        return recipe.finding("batch-shape", "error", key, effect, instead)

    pooled = not recipe.before(POOLED_SINCE)
    batch = batch_of(recipe)
    both = [key for key in ("generation_batch_size", "steps_per_generation") if recipe.stated_key(key)]
    if pooled and len(both) == 2:
        yield shape(
            both[0], f"trl takes one of `{both[0]}` and `{both[1]}`, not both: it stops", "remove one of them"
        )
        return
    if pooled and both == ["generation_batch_size"]:
        total = recipe.count("generation_batch_size", 1)
        at_once = batch.per_device * batch.processes
        # Without a number of processes, what one process alone does not divide is wrong with any.
        if total % at_once:
            yield shape(
                both[0],
                f"{total} completions do not fall into batches of {at_once}",
                f"a multiple of {at_once}",
            )
            return
        if batch.group > 0 and total % batch.group:
            yield shape(
                "num_generations",
                f"{total} completions at a time do not come out in whole groups of {batch.group}",
                f"a divisor of {total}",
            )
            return
    if recipe.processes is None:
        return
    total = round(batch.completions) if pooled else batch.per_device * batch.processes
    if batch.group > 0 and total % batch.group:
        yield shape(
            "num_generations",
            f"{total} completions at a time do not come out in whole groups of {batch.group}",
            f"a divisor of {total}, or another batch size",
        )
    group = recipe.count("num_generations_eval", batch.group, least=0)
    evaluated = recipe.count("per_device_eval_batch_size", 8) * batch.processes
    if str(recipe.get("eval_strategy", "no")) != "no" and group > 0 and evaluated % group:
        yield shape(
            "per_device_eval_batch_size",
            f"{evaluated} completions of an evaluation batch do not come out in whole groups of {group}",
            f"a multiple of {group} over all processes",
        )
    yield from _serial(recipe, pooled=pooled)


def _serial(recipe: TrlRecipe, *, pooled: bool) -> Iterator[Finding]:
    """Generation in several small calls for one update."""
    batch = batch_of(recipe)
    calls = batch.accumulation / (batch.per_generation if pooled else 1)
    if calls <= 1:
        return
    at_once = batch.per_device * batch.processes
    size = round(at_once * (batch.per_generation if pooled else 1))
    yield recipe.finding(
        "serial-generation",
        "info",
        "steps_per_generation"
        if pooled and recipe.stated_key("steps_per_generation")
        else "gradient_accumulation_steps",
        f"each step generates in {calls:g} calls of {size} completions one after the other, each as "
        "long as its longest, while the trainers wait",
        ("leave `steps_per_generation` out" if pooled else "trl 0.18.0 or later, or this harness")
        + f": one call of {at_once * batch.accumulation}",
    )


def _selection(recipe: TrlRecipe) -> Iterator[Finding]:
    """Checkpoints among which the best may be picked."""
    saved = checkpoints_of(recipe)
    evaluated = bool(recipe.get("do_eval", False)) or str(recipe.get("eval_strategy", "no")) != "no"
    if recipe.get("load_best_model_at_end", False):
        among = f"{len(saved)} checkpoints" if steps_of(recipe) > 0 else "all checkpoints"
        yield recipe.finding(
            "best-of-checkpoints",
            "warning",
            "load_best_model_at_end",
            f"the best of {among} is kept: its score on the questions that chose it is too high",
            "choose on questions that the result is not reported on",
        )
    elif len(saved) > 4 and not evaluated:
        yield recipe.finding(
            "best-of-checkpoints",
            "warning",
            "save_steps",
            f"{len(saved)} checkpoints are kept and none is evaluated: choosing among them later by a benchmark's "
            "score reports the best of as many draws",
            "a held-out set to choose on, or a checkpoint named beforehand",
        )


def _rewards(recipe: TrlRecipe) -> Iterator[Finding]:
    """Rewards that this harness does not know, so that neither they nor the sum can be judged."""
    for place, name, weight in recipe.reward.unknown:
        whole = "" if weight == 0 else ", and with it the sum of the rewards"
        yield recipe.finding(
            "reward-unknown",
            "info",
            place,
            f"`{name}` is not one of {recipe.program}'s rewards that are known here: it was not judged{whole}",
            "nothing, if it is a reward of your own; look at its values for right and wrong answers yourself",
        )
