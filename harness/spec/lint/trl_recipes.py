"""Recipes of trl, and of open-r1 and its descendants: how they are read.

A comment in the recipe may say what the file itself cannot:
`# lint: program=open-rs trl=0.16.0.dev0 processes=3`, and `# lint: waive RULE: reason`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.spec.errors import SpecError
from harness.spec.lint import trl_keys
from harness.spec.lint.finding import Finding, Place, Severity
from harness.spec.lint.programs import FAMILIES, RecipeReward, program_of, reward_of
from harness.spec.lint.trl_values import PROGRAM_SETTINGS, Values, parsed
from harness.spec.source import Located, Path_, dotted, is_finite, nearest, read_pyyaml, read_text

_SIGNS = frozenset({"model_name_or_path", "num_generations", "max_completion_length", "reward_funcs"})
_DIRECTIVE = re.compile(r"^\s*#\s*lint:\s*(.+?)\s*$", re.MULTILINE)
_WAIVER = re.compile(r"waive\s+([\w-]+)\s*:\s*(.+)")
_SETTINGS = ("program", "trl", "processes")
_GRID_KEYS = frozenset({"base", "axes", "evaluate", "question"})


@dataclass(frozen=True)
class TrlRecipe:
    """A recipe as it stands in its file.

    Attributes:
        located: its settings with their lines.
        program: whose code reads it.
        version: trl's.
        stated: whether the file says the version; else it is the newest of those whose keys fit best.
        processes: training processes; None where the file does not say.
        fitting: the known versions whose keys fit best, oldest first.
        waivers: reason by rule.
    """

    located: Located
    program: str
    version: str
    stated: bool
    processes: int | None
    fitting: tuple[str, ...] = ()
    waivers: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file's path."""
        return str(self.located.file)

    @cached_property
    def values(self) -> Values:
        """The settings as trl's parser hands them on.

        Raises:
            SpecError: a value at which it stops.
        """
        return parsed(self.located, {**PROGRAM_SETTINGS, **trl_keys.settings(self.version)})

    @cached_property
    def reward(self) -> RecipeReward:
        """The reward as far as it is known.

        Raises:
            SpecError: a weight is no number.
        """
        return reward_of(self.program, self.located, self.values.data)

    def get(self, key: str, default: Any = None) -> Any:
        """A setting; where the recipe is silent, trl's default, or else `default`."""
        value = self.values.data.get(key)
        if value is None and (setting := trl_keys.settings(self.version).get(key)) is not None:
            value = setting.default
        return default if value is None else value

    def number(self, key: str, default: float, *, least: float = -math.inf) -> float:
        """A numeric setting.

        Raises:
            SpecError: it is no finite number, or below `least`.
        """
        value = finite(self.located, (key,), self.get(key, default))
        if value < least:
            raise self.located.error((key,), f"{key}: must be >= {least:g}, got {value:g}")
        return value

    def count(self, key: str, default: int, *, least: int = 1) -> int:
        """A whole setting, with the errors of `number`."""
        return int(self.number(key, default, least=least))

    def stated_key(self, key: str) -> bool:
        """Whether the recipe gives a value for a key."""
        return self.values.data.get(key) is not None

    def place(self, key: str) -> Place:
        """Where a setting stands."""
        return Place(key=str(key), line=self.located.line((key,)) if key in self.located.data else None)

    def before(self, release: tuple[int, int, int]) -> bool:
        """Whether trl's version comes before a release; a development version does."""
        return trl_keys.release(self.version) < release

    def finding(self, rule: str, severity: Severity, key: str | Place, effect: str, instead: str) -> Finding:
        """A finding at a key."""
        return Finding(
            rule=rule,
            severity=severity,
            file=self.file,
            place=key if isinstance(key, Place) else self.place(key),
            effect=effect,
            instead=instead,
        )


def is_trl_recipe(data: Any) -> bool:
    """Whether a file's data is a trl recipe and not a grid."""
    if not isinstance(data, dict) or "base" in data:
        return False
    if _SIGNS & data.keys():
        return True
    everything = frozenset().union(*trl_keys.known().values())
    return not _GRID_KEYS & data.keys() and 2 * len(everything & data.keys()) > len(data)


def load_trl_recipe(file: str | Path) -> TrlRecipe:
    """Reads a trl recipe, as trl does with PyYAML.

    Raises:
        SpecError: it cannot be read, or a `# lint:` comment in it says something unknown.
    """
    located = read_pyyaml(file)
    if not isinstance(located.data, dict):
        raise located.error((), "must be a mapping of trl's settings")
    settings, waivers = _directives(read_text(file), str(file))
    program = settings.get("program") or program_of(located.data)
    keys = set(located.data) - trl_keys.of_program(program)
    misfits = {version: len(keys - known.keys()) for version, known in trl_keys.known().items()}
    fitting = tuple(version for version, count in misfits.items() if count == min(misfits.values()))
    fitting = tuple(version for version in fitting if _parses(located, version)) or fitting
    return TrlRecipe(
        located=located,
        program=program,
        version=settings.get("trl", fitting[-1]),
        stated="trl" in settings,
        fitting=fitting,
        processes=int(settings["processes"]) if "processes" in settings else None,
        waivers=waivers,
    )


def _parses(located: Located, version: str) -> bool:
    try:
        parsed(located, {**PROGRAM_SETTINGS, **trl_keys.settings(version)})
    except SpecError:
        return False
    return True


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
    if not re.fullmatch("[1-9][0-9]{0,5}", settings.get("processes", "1")):
        raise SpecError(
            f"# lint: `processes` must be a whole number from 1 on, got {settings['processes'][:40]!r}",
            file=file,
        )
    return settings, waivers


def finite(located: Located, path: Path_, value: Any) -> float:
    """A value as a number.

    Raises:
        SpecError: it is none, or not finite.
    """
    if is_finite(value):
        return float(value)
    raise located.error(path, f"{dotted(path)}: must be a finite number, got {str(value)[:80]!r}")
