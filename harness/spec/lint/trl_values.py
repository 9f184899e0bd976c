"""Values of a recipe as trl's own parser hands them on.

trl reads a recipe with PyYAML and makes its values the defaults of an argparse parser (`TrlParser`,
`HfArgumentParser`). Of these, argparse converts text by the setting's type and leaves everything else as it is: the
text `1e-6` becomes a number, the number 8.0 stays a float where a whole number is wanted, and nothing inside a list
or a mapping is converted. Held against trl 1.16.0 by a test.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.spec.lint.finding import Severity
from harness.spec.lint.trl_keys import Setting
from harness.spec.source import Located, Path_, dotted, is_finite

_BOOLEANS = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}
"""What `string_to_bool` of transformers understands."""
_LARGEST = 2**63 - 1
_VARIABLE = re.compile(r"\$\{\w+\}|\$[A-Za-z_]\w*")
_BOOLEAN_TOO = frozenset({"scale_rewards"})
"""Settings declared as text that take true and false as well."""
_TEXT_TOO = frozenset({"lora_target_modules", "lora_modules_to_save", "lora_target_parameters"})
"""Settings declared as lists whose text peft understands."""
_NUMBERS_IN = ("reward_weights", "lr_scheduler_kwargs")
"""Lists and mappings of numbers."""
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
}

PROGRAM_SETTINGS: dict[str, Setting] = {
    "reward_funcs": Setting(("list",), False, None),
    "system_prompt": Setting(("str",), True, None),
    "dataset_prompt_column": Setting(("str",), False, "prompt"),
    "repetition_n_grams": Setting(("int",), False, 3),
    "repetition_max_penalty": Setting(("float",), False, -1.0),
    "cosine_max_len": Setting(("int",), False, 1000),
    "cosine_min_value_correct": Setting(("float",), False, 0.5),
    "cosine_max_value_correct": Setting(("float",), False, 1.0),
    "cosine_min_value_wrong": Setting(("float",), False, 0.0),
    "cosine_max_value_wrong": Setting(("float",), False, -0.5),
    "max_completion_len": Setting(("int",), False, 16384),
    "soft_punish_cache": Setting(("int",), False, 4096),
}
"""Settings that open-r1 and Open-RS add to trl's, with their defaults (their `configs.py`)."""


@dataclass(frozen=True)
class Problem:
    """A value that trl takes for something else than its author.

    Attributes:
        rule: the rule of the finding.
        severity: its severity.
        path: where the value stands.
        effect: what trl makes of it.
        instead: what to write.
    """

    rule: str
    severity: Severity
    path: Path_
    effect: str
    instead: str


@dataclass(frozen=True)
class Values:
    """The settings of a recipe under one version of trl.

    Attributes:
        data: value by key, without those that are None.
        problems: values that mean something else to trl than they seem to.
        notes: values that trl's parser converts without a loss.
    """

    data: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parsed(located: Located, settings: Mapping[str, Setting]) -> Values:
    """The values of a recipe's settings; those of unknown keys stay as they are.

    Raises:
        SpecError: a value at which trl's parser or trainer stops, because it cannot be what its setting wants.
    """
    values = Values({})
    for key, value in located.data.items():
        setting = settings.get(key) if isinstance(key, str) else None
        if setting is None:
            taken = value
        elif value is None:
            taken = None
            values.problems.extend(_null(key, setting))
        else:
            taken = _Parser(located, key, setting, values).value(value)
        if taken is not None:
            values.data[key] = taken
        if isinstance(value, str) and _VARIABLE.search(value):
            values.problems.append(_variable(key, value))
    return values


def _null(key: str, setting: Setting) -> Iterator[Problem]:
    if setting.optional and setting.default is None:
        return
    default = "its default" if setting.default is None else f"its default, {setting.default!r}"
    yield Problem(
        "setting-type",
        "warning" if setting.optional else "error",
        (key,),
        f"null is not {default}: trl is handed None"
        + ("" if setting.optional else f", where it wants {_wanted(setting)}"),
        "remove the line for the default, or give a value",
    )


def _variable(key: str, value: str) -> Problem:
    return Problem(
        "unexpanded-variable",
        "warning",
        (key,),
        f"nothing expands variables in a recipe: the value is the text {value[:60]!r} as it stands",
        f"write the value, or give `--{key}` on the command line, where the shell expands it",
    )


def _wanted(setting: Setting) -> str:
    return " or ".join(_WANTED[kind] for kind in setting.kinds)


@dataclass(frozen=True)
class _Parser:
    """One setting's value through argparse."""

    located: Located
    key: str
    setting: Setting
    values: Values

    def value(self, value: Any) -> Any:
        """The value as trl gets it, or nearly so; what differs from what was meant is noted."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bool):
            return self._bool(value)
        if isinstance(value, int | float):
            return self._number(value)
        if isinstance(value, list | dict):
            return self._container(value)
        # A date, say, which PyYAML makes of 2026-01-01.
        if self._admits("str"):
            self._problem("warning", f"PyYAML reads a {type(value).__name__} here, not text", "quote it")
            return str(value)
        raise self._refused(value)

    def _admits(self, *kinds: str) -> bool:
        return any(kind in self.setting.kinds for kind in kinds)

    def _text(self, value: str) -> Any:
        if self._admits("dict") and value.startswith("{"):
            try:
                return json.loads(value)
            except ValueError as error:
                raise self._refused(value, f"is not valid JSON: {error}") from None
        if self._admits("str") or self.key in _TEXT_TOO:
            return value
        if self.setting.optional and value.lower() in ("none", "null"):
            return None
        if self._admits("bool"):
            if value.lower() not in _BOOLEANS:
                raise self._refused(value)
            return self._converted(value, _BOOLEANS[value.lower()])
        for kind, convert in (("int", int), ("float", float)):
            if self._admits(kind):
                try:
                    number = convert(value)
                except ValueError:
                    continue
                self._converted(value, number)
                return self._number(number)
        if self._admits("list") and not value.replace(".", "").isdigit():
            self._problem(
                "error",
                f"text where trl wants a list: it goes through {value[:40]!r} letter by letter, and stops",
                f"`{self.key}: [{value[:40]}]`",
            )
            return [value]
        raise self._refused(value)

    def _converted(self, text: str, value: Any) -> Any:
        plain = self.located.plain_text.get((self.key,)) == text
        reason = "is text to PyYAML (YAML 1.1)" if plain else "is quoted, hence text"
        self.values.notes.append(f"{self.key}: `{text}` {reason}; trl's parser makes it {value!r}")
        return value

    def _bool(self, value: bool) -> Any:
        if self._admits("bool") or self.key in _BOOLEAN_TOO:
            return value
        written = self.located.plain_text.get((self.key,), str(value).lower())
        if self._admits("str", "list"):
            self._problem(
                "error",
                f"PyYAML reads `{written}` as {str(value).lower()}, and trl wants {_wanted(self.setting)}: it stops",
                f'quote it: `{self.key}: "{written}"`',
            )
            return written
        raise self._refused(
            value, "" if written in ("true", "false") else f"(PyYAML's reading of `{written}`)"
        )

    def _number(self, value: float) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise self.located.error((self.key,), f"{self.key}: must be a finite number, got {value!r}")
        if abs(value) > _LARGEST:
            raise self.located.error((self.key,), f"{self.key}: must be a number of at most 64 bits")
        if self._admits("float") or (self._admits("int") and isinstance(value, int)):
            return value
        if self._admits("bool"):
            if value not in (0, 1):
                raise self._refused(value)
            return bool(value)
        if self._admits("str"):
            self._problem("warning", f"a number, {value!r}, where trl wants text", "quote it")
            return str(value)
        if not self._admits("int"):
            raise self._refused(value)
        return self._float_for_int(float(value))

    def _float_for_int(self, value: float) -> Any:
        if self.key == "warmup_steps" and 0 < value < 1:
            self._problem(
                "error",
                f"the transformers of this trl reads no fraction here: {value:g} steps of warm-up are none",
                "`warmup_ratio`, or a number of steps",
            )
            return 0
        if value != int(value):
            raise self._refused(value)
        self._problem(
            "warning", f"trl is handed the float {value!r} where it wants a whole number", f"{int(value)}"
        )
        return int(value)

    def _container(self, value: list[Any] | dict[Any, Any]) -> Any:
        if not self._admits("list" if isinstance(value, list) else "dict"):
            raise self._refused(value)
        if self.key in _NUMBERS_IN:
            for path, item in _leaves(value, (self.key,)):
                if isinstance(item, str) and _is_number(item):
                    message = (
                        f"{dotted(path)}: {item!r} is text, and nothing in a list or mapping is converted"
                    )
                    raise self.located.error(
                        path, message, f"write {_as_number(item)}, unquoted and with a point"
                    )
        return value

    def _problem(self, severity: Severity, effect: str, instead: str) -> None:
        self.values.problems.append(Problem("setting-type", severity, (self.key,), effect, instead))

    def _refused(self, value: Any, remark: str = "") -> Exception:
        message = f"{self.key}: must be {_wanted(self.setting)}, got {_short(value)} {remark}".strip()
        hint = None
        if isinstance(value, str) and _VARIABLE.search(value):
            hint = "nothing expands variables in a recipe"
        elif isinstance(value, str) and self.setting.kinds == ("int",) and _is_number(value):
            hint = (
                f"PyYAML hands on {value!r} as text, which Python's `int` refuses: write {_as_number(value)}"
            )
        return self.located.error((self.key,), message, hint)


def _leaves(value: Any, path: Path_) -> Iterator[tuple[Path_, Any]]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        yield path, value
        return
    for key, item in items:
        yield from _leaves(item, (*path, key))


def _is_number(text: str) -> bool:
    return _as_number(text) is not None


def _as_number(text: str) -> str | None:
    """The number that was meant, as both YAML 1.1 and 1.2 read it."""
    try:
        number = int(text, 0) if re.fullmatch(r"0[xXoObB]\w+", text) else float(text)
    except ValueError:
        return None
    if not is_finite(number):
        return None
    if number == int(number) and abs(number) < 1e15:
        return str(int(number))
    mantissa, _, exponent = repr(float(number)).partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}" if exponent else mantissa


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
