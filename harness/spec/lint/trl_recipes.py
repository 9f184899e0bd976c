"""Recipes of trl, and of open-r1 and its descendants, under the rules.

A comment in the recipe may say what the file itself cannot:
`# lint: program=open-rs trl=0.16.0.dev0 processes=3`, and `# lint: waive RULE: reason`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.spec.errors import SpecError
from harness.spec.lint import reward_rules, rules, trl_keys
from harness.spec.lint.finding import Finding, Place, Severity
from harness.spec.lint.programs import FAMILIES, reward_of
from harness.spec.lint.run_settings import RunSettings
from harness.spec.source import Located, Path_, nearest, read_yaml
from harness.spec.validate import dotted

_SIGNS = frozenset({"model_name_or_path", "num_generations", "max_completion_length", "reward_funcs"})
_DIRECTIVE = re.compile(r"^\s*#\s*lint:\s*(.+?)\s*$", re.MULTILINE)
_WAIVER = re.compile(r"waive\s+([\w-]+)\s*:\s*(.+)")
_SETTINGS = ("program", "trl", "processes")
TEMPERED_SINCE = (0, 16, 0)
"""trl divides log-probs by the sampling temperature from this release on (its pull request 3029)."""
POOLED_SINCE = (0, 18, 0)
"""trl generates for all accumulation steps in one call from this release on."""
LOUD_SINCE = (0, 19, 0)
"""trl's parser refuses unknown keys of the file from this release on."""


@dataclass(frozen=True)
class TrlRecipe:
    """A recipe as it stands in its file.

    Attributes:
        located: its settings with their lines.
        program: whose code reads it.
        version: trl's.
        stated: whether the file says the version; else it is the one whose keys fit best.
        processes: training processes; None where the file does not say.
        waivers: reason by rule.
    """

    located: Located
    program: str
    version: str
    stated: bool
    processes: int | None
    waivers: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file's path."""
        return str(self.located.file)

    def get(self, key: str, default: Any = None) -> Any:
        """A setting."""
        value = self.located.data.get(key, default)
        return default if value is None else value

    def place(self, key: str) -> Place:
        """Where a setting stands."""
        return Place(key=key, line=self.located.line((key,)) if key in self.located.data else None)

    def before(self, release: tuple[int, int, int]) -> bool:
        """Whether trl's version comes before a release; a development version does."""
        return _release(self.version) < release

    def finding(self, rule: str, severity: Severity, key: str, effect: str, instead: str) -> Finding:
        """A finding at a key."""
        return Finding(
            rule=rule,
            severity=severity,
            file=self.file,
            place=self.place(key),
            effect=effect,
            instead=instead,
        )


def is_trl_recipe(data: Any) -> bool:
    """Whether a file's data is a trl recipe and not a grid."""
    return isinstance(data, dict) and bool(_SIGNS & data.keys()) and "base" not in data


def load_trl_recipe(file: str | Path) -> TrlRecipe:
    """Reads a trl recipe.

    Raises:
        SpecError: it cannot be read, or a `# lint:` comment in it says something unknown.
    """
    located = read_yaml(file)
    settings, waivers = _directives(Path(file).read_text(encoding="utf-8"), str(file))
    program = settings.get("program") or ("open-r1" if "reward_funcs" in located.data else "trl")
    keys = set(located.data) - trl_keys.of_program(program)
    fits = {version: len(keys - known) for version, known in trl_keys.known().items()}
    guess = min(reversed(list(fits)), key=lambda version: fits[version])
    return TrlRecipe(
        located=located,
        program=program,
        version=settings.get("trl", guess),
        stated="trl" in settings,
        processes=int(settings["processes"]) if "processes" in settings else None,
        waivers=waivers,
    )


def _directives(text: str, file: str) -> tuple[dict[str, str], dict[str, str]]:
    settings: dict[str, str] = {}
    waivers: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(text):
        line = text.count("\n", 0, match.start(1)) + 1
        if waiver := _WAIVER.fullmatch(match[1]):
            waivers[waiver[1]] = waiver[2]
            continue
        for part in match[1].split():
            name, equals, value = part.partition("=")
            if name not in _SETTINGS or not equals or not value:
                hint = "write `program=`, `trl=`, `processes=`, or `waive RULE: reason`"
                raise SpecError(f"# lint: {part!r} is not understood", file=file, line=line, hint=hint)
            settings[name] = value
    if (program := settings.get("program")) and program not in (*FAMILIES, "trl"):
        raise SpecError(
            f"# lint: no program {program!r} is known", file=file, hint=nearest(program, FAMILIES)
        )
    if not settings.get("processes", "1").isdigit():
        raise SpecError(
            f"# lint: `processes` must be a whole number, got {settings['processes']!r}", file=file
        )
    return settings, waivers


def _release(version: str) -> tuple[int, int, int]:
    numbers = [int(n) for n in re.findall(r"\d+", version)[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    # A development version comes before the release that it is named after.
    return (major, minor, patch - 1) if "dev" in version else (major, minor, patch)


def trl_findings(recipe: TrlRecipe) -> list[Finding]:
    """What the recipe shows, before waivers. What depends on a version that the file does not say is a warning at
    most.

    Raises:
        SpecError: a setting has another type than trl wants.
    """
    found = _under(recipe)
    if recipe.stated:
        return found
    others = [{(f.rule, f.place) for f in _under(replace(recipe, version=v))} for v in trl_keys.known()]
    return [
        replace(f, severity="warning")
        if f.severity == "error" and not all((f.rule, f.place) in other for other in others)
        else f
        for f in found
    ]


def _under(recipe: TrlRecipe) -> list[Finding]:
    """What the recipe shows under its version."""
    run = settings_of(recipe)
    found = [*_keys(recipe), *_unread(recipe), *_batch(recipe), *_selection(recipe)]
    return [*found, *rules.findings([run]), *reward_rules.findings([run])]


def settings_of(recipe: TrlRecipe) -> RunSettings:
    """The recipe as the rules see it, with the defaults of its trl.

    Raises:
        SpecError: a setting has another type than trl wants.
    """
    old = recipe.before(TEMPERED_SINCE)
    steps = int(_number(recipe, "max_steps", -1))
    warmup = int(_number(recipe, "warmup_steps", 0)) or math.ceil(
        _number(recipe, "warmup_ratio", 0.0) * max(steps, 0)
    )
    temperature = _number(recipe, "temperature", 0.9 if old else 1.0)
    accumulation = _accumulation(recipe)
    per_generation = _number(recipe, "steps_per_generation", accumulation)
    names = {
        "checkpoints": "save_steps",
        "warmup": "warmup_ratio" if "warmup_ratio" in recipe.located.data else "warmup_steps",
        "inner": "num_iterations",
        "beta": "beta",
        "group": "num_generations",
        "cap": "max_completion_length",
        "logprob_temperature": "temperature",
        "top_p": "top_p",
        "reward": "reward_funcs",
        "clip": "epsilon",
        "kl": "sync_ref_model",
        "fix_temperature": "trl 0.16.0 or later, which divides by the temperature; or `temperature: 1.0`",
    }
    rewards = reward_of(recipe.program, recipe.located)
    return RunSettings(
        file=recipe.file,
        places={concept: recipe.place(key) for concept, key in names.items() if concept != "fix_temperature"},
        names=names,
        steps=steps,
        horizon=steps,
        schedule=str(recipe.get("lr_scheduler_type", "linear")),
        warmup_steps=warmup,
        floor=_floor(recipe),
        checkpoints=_checkpoints(recipe, steps),
        updates=int(_number(recipe, "num_iterations", 1) * max(1.0, per_generation / accumulation)),
        loss=str(recipe.get("loss_type", "grpo" if old else "dapo")),
        beta=_number(recipe, "beta", 0.04 if old else 0.0),
        group=int(_number(recipe, "num_generations", 8)),
        cap=int(_number(recipe, "max_completion_length", 256)),
        prompt_cap=int(_number(recipe, "max_prompt_length", 512)),
        model=str(recipe.get("model_name_or_path", "")),
        temperature=temperature,
        logprob_temperature=1.0 if old else temperature,
        top_p=_number(recipe, "top_p", 1.0),
        reward=None if rewards is None else rewards[0],
        reward_places=() if rewards is None else rewards[1],
        stated=frozenset(
            concept
            for concept, keys in (
                ("clip", ("epsilon", "epsilon_high", "delta")),
                ("kl", ("sync_ref_model", "ref_model_mixup_alpha")),
            )
            if any(key in recipe.located.data for key in keys)
        ),
    )


def _number(recipe: TrlRecipe, key: str, default: float) -> float:
    return _finite(recipe, (key,), recipe.get(key, default))


def _accumulation(recipe: TrlRecipe) -> float:
    key = "gradient_accumulation_steps"
    if (value := _number(recipe, key, 1)) < 1:
        raise recipe.located.error((key,), f"{key}: must be >= 1, got {value:g}")
    return value


def _floor(recipe: TrlRecipe) -> float:
    """Rate at the schedule's end, as a share of the peak."""
    settings = recipe.get("lr_scheduler_kwargs", {})
    value = settings.get("min_lr_rate") if isinstance(settings, dict) else None
    return 0.0 if value is None else _finite(recipe, ("lr_scheduler_kwargs", "min_lr_rate"), value)


def _finite(recipe: TrlRecipe, path: Path_, value: Any) -> float:
    try:
        if not isinstance(value, bool) and math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError):
        pass
    raise recipe.located.error(path, f"{dotted(path)}: must be a finite number, got {value!r}")


def _checkpoints(recipe: TrlRecipe, steps: int) -> tuple[int, ...]:
    every = _number(recipe, "save_steps", 500)
    if str(recipe.get("save_strategy", "steps")) != "steps" or steps < 1 or every < 1:
        return (steps,) if steps > 0 else ()
    return tuple(sorted({*range(int(every), steps + 1, int(every)), steps}))


def _trl_keys(recipe: TrlRecipe) -> frozenset[str]:
    """Keys of the known versions next to the recipe's, between which keys come and go; of all if it is a guess."""
    releases = {version: _release(version) for version in trl_keys.known()}
    own = _release(recipe.version)
    older = max((r for r in releases.values() if r <= own), default=own)
    newer = min((r for r in releases.values() if r >= own), default=own)
    admitted = [v for v, release in releases.items() if not recipe.stated or release in (older, newer)]
    return frozenset().union(*(trl_keys.known()[version] for version in admitted))


def _keys(recipe: TrlRecipe) -> Iterator[Finding]:
    """Keys that neither trl nor the program knows."""
    admitted = _trl_keys(recipe) | trl_keys.of_program(recipe.program) | {"env"}
    for key in recipe.located.data:
        if key in admitted:
            continue
        later = [v for v, keys in trl_keys.known().items() if key in keys]
        close = difflib.get_close_matches(str(key), admitted, n=1, cutoff=0.5)
        silent = recipe.before(LOUD_SINCE)
        instead = f'did you mean "{close[0]}"?' if close else "remove it"
        if later:
            instead += f" (trl {later[0]} knows it)"
        yield recipe.finding(
            "unknown-key",
            "error",
            str(key),
            f"no part of trl {recipe.version} or {recipe.program} reads this key; "
            + ("its parser drops it without a word" if silent else "its parser stops, or drops it"),
            instead,
        )


def _unread(recipe: TrlRecipe) -> Iterator[Finding]:
    """Keys that nothing reads under these settings."""
    functions = recipe.get("reward_funcs", [])
    functions = functions if isinstance(functions, list) else [functions]
    data = recipe.located.data
    for function, prefix in (("cosine", "cosine_"), ("repetition_penalty", "repetition_")):
        for key in data:
            if str(key).startswith(prefix) and function not in functions:
                yield recipe.finding(
                    "unread-key",
                    "warning",
                    str(key),
                    f"`{function}` is not among `reward_funcs`, so nothing reads this",
                    f"add `{function}` to `reward_funcs`, or remove it",
                )
    if not recipe.get("use_vllm", False):
        for key in data:
            if str(key).startswith("vllm_"):
                yield recipe.finding(
                    "unread-key",
                    "warning",
                    str(key),
                    "`use_vllm` is false, so nothing reads this",
                    "`use_vllm: true`",
                )
    weights = recipe.get("reward_weights")
    if isinstance(weights, list) and len(weights) != len(functions):
        yield recipe.finding(
            "unread-key",
            "error",
            "reward_weights",
            f"{len(weights)} weights for {len(functions)} reward functions",
            "a weight for each function",
        )


def _batch(recipe: TrlRecipe) -> Iterator[Finding]:
    """How the batch falls into groups and into calls of the generator."""
    if recipe.processes is None:
        return
    per_device = int(_number(recipe, "per_device_train_batch_size", 8))
    accumulation = int(_accumulation(recipe))
    group = int(_number(recipe, "num_generations", 8))
    at_once = per_device * recipe.processes
    pooled = not recipe.before(POOLED_SINCE)
    total = at_once * (accumulation if pooled else 1)
    if group > 0 and total % group:
        yield recipe.finding(
            "batch-shape",
            "error",
            "num_generations",
            f"{total} completions at a time do not come out in whole groups of {group}",
            f"a multiple of {group}",
        )
    if accumulation > 1 and not pooled:
        yield recipe.finding(
            "serial-generation",
            "info",
            "gradient_accumulation_steps",
            f"each step generates in {accumulation} calls of {at_once} completions one after the other, each as "
            "long as its longest, while the trainers wait",
            f"trl 0.18.0 or later, or this harness: one call of {at_once * accumulation}",
        )


def _selection(recipe: TrlRecipe) -> Iterator[Finding]:
    """Checkpoints among which the best may be picked."""
    steps = int(_number(recipe, "max_steps", -1))
    saved = _checkpoints(recipe, steps)
    if recipe.get("load_best_model_at_end", False):
        yield recipe.finding(
            "best-of-checkpoints",
            "warning",
            "load_best_model_at_end",
            f"the best of {len(saved)} checkpoints is kept: its score on the questions that chose it is too high",
            "choose on questions that the result is not reported on",
        )
    elif len(saved) > 4 and not recipe.get("do_eval", False):
        yield recipe.finding(
            "best-of-checkpoints",
            "warning",
            "save_steps",
            f"{len(saved)} checkpoints are kept and none is evaluated: choosing among them later by a benchmark's "
            "score reports the best of as many draws",
            "a held-out set to choose on, or a checkpoint named beforehand",
        )
