"""300 malformed variants of the shipped grids: the command refuses each with a place and exit code 2, or plans it."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness.plan import main
from harness.spec.errors import SpecError
from harness.spec.grid import load_grid

ABLATIONS = sorted((Path(__file__).resolve().parents[3] / "ablations").rglob("*.yaml"))
VARIANTS = 300 // max(1, len(ABLATIONS))
SCALARS = [
    None,
    -1,
    0,
    1.5,
    "",
    "x",
    True,
    [],
    {},
    [[]],
    {"a": {"b": 1}},
    "1e-6",
    float("inf"),
    10**400,
    "2026-01-01",
]


def paths(node, path=()):
    """Paths of everything below `node`."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def holder(data, path):
    for key in path[:-1]:
        data = data[key]
    return data


def mutated(data, rng):
    """Changes one thing in the data, in place."""
    path = rng.choice(list(paths(data)))
    where, key = holder(data, path), path[-1]
    kind = rng.randrange(5)
    if kind == 0:
        del where[key]
    elif kind == 1 and isinstance(where, dict):
        where[f"{key}{rng.choice('xyz_ ')}"] = where.pop(key)
    elif kind == 2 and isinstance(where, list):
        where.append(where[key])
    elif kind == 3:
        other = rng.choice(list(paths(data)))
        where[key] = copy.deepcopy(holder(data, other)[other[-1]])
    else:
        where[key] = rng.choice(SCALARS)


def torn(text, rng):
    """Changes the text itself: a cut, a swapped character, a lost or doubled line."""
    at = rng.randrange(len(text))
    lines = text.splitlines(keepends=True)
    line = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + rng.choice("{}[]:,\"'&*!|>%@`\t\x00\n- ") + text[at + 1 :]
        case 2:
            return "".join(lines[:line] + lines[line + 1 :])
        case 3:
            return "".join(lines[:line] + lines[line : line + 1] + lines[line:])
        case _:
            return "".join([*lines[:line], " " + lines[line], *lines[line + 1 :]])


def check(error, file):
    """What a user may expect of a refusal: the place, briefly."""
    told = str(error)
    assert len(told.splitlines()) <= 3, told
    assert len(told) < 1000, told
    assert error.line is not None, told
    assert told.startswith(f"{file}:{error.line}: "), told
    assert 1 <= error.line <= file.read_text().count("\n") + 1, told


@pytest.mark.parametrize("grid", ABLATIONS, ids=lambda p: p.stem)
def test_mutations(grid, tmp_path, capsys):
    rng = random.Random(grid.stem)
    text, refused = grid.read_text(), 0
    original = YAML(typ="safe", pure=True).load(text)
    file = tmp_path / "grid.yaml"
    for number in range(VARIANTS):
        if number % 2:
            file.write_text(torn(text, rng))
        else:
            data = copy.deepcopy(original)
            mutated(data, rng)
            file.write_text(json.dumps(data, indent=1))
        code, malformed = main(["--grid", str(file), "--out", str(tmp_path / "out")]), False
        said = capsys.readouterr().err
        assert code in (0, 2), said
        assert "Traceback" not in said
        try:
            load_grid(file)
        except SpecError as error:
            malformed = True
            check(error, file)
        # What is a grid may still name what is not there, or does not fit this machine.
        assert code == 2 or not malformed
        if code == 2:
            refused += 1
            assert 1 <= len(said.splitlines()) <= 3, said
    assert refused > VARIANTS // 3, "most mutations break a grid"
