"""A hundred mutated recipes of trl: each is linted, or refused with its place; none ends in a traceback."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from harness.lint import main

ROOT = Path(__file__).resolve().parents[4]
RECIPES = sorted((ROOT / "ablations" / "open_rs" / "published").glob("*.yml"))
VARIANTS = 100
VALUES = r"""null|~|yes|no|off|1e-6|1.0e6|-1|0|0.1|1.5|.nan|.inf|-.inf|1:30|0o17|[]|{}|[[]]|[null]|[1, x]|{a: {b: 1}}
'1'|"no"|${HOME}|2026-01-01|ü|数学|'\0'|!!str 5|!x 5|&a 5|*a|[*a, *a]|>-|none|cosine|true|'{"a": 1}'|'{'|@x|`x`|trl
0x1F|[accuracy, cosine, mine]|[accuracy, accuracy]|{min_lr_rate: 2}
{num_decay_steps: x}|1_000|"\x07"|- x|warmup_stable_decay"""
VALUES = [
    *re.split(r"[|\n]", VALUES),
    "",
    "\x07",
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 20,
    "|\n  text",
]


def mutated(text, rng):
    """The text with one line deleted, doubled, given another value, nested, merged, or torn."""
    lines = text.splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if ":" in line])
    key, _, value = lines[at].partition(":")
    match rng.randrange(10):
        case 0:
            del lines[at]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case 2 | 3 | 4:
            lines[at] = f"{key}: {rng.choice(VALUES)}"
        case 5:
            lines[at] = f"{key}:\n  nested: {value}"
        case 6:
            lines.append(f"<<: {rng.choice(['{max_steps: 7}', '[{seed: 1}, {beta: 0.1}]', '5', '*a', '[]'])}")
        case 7:
            lines[at] = f"{key}: &a {value}"
            lines.append(f"{rng.choice(['save_steps', 'reward_weights', 'new_key'])}: *a")
        case 8:
            lines[at] = rng.choice(["\t", " ", "- ", "? ", "%", "ключ", "\u2028", "#"]) + lines[at]
        case _:
            cut = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:cut] + rng.choice("{}[]:,\"'&*!|>%@`# -\u00a0\ufeff") + lines[at][cut:]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("option", [[], ["--to-grid"]], ids=["lint", "to-grid"])
def test_mutated_recipes(option, tmp_path, capsys):
    rng = random.Random(20260101)
    codes = set()
    file = tmp_path / "recipe.yml"
    for number in range(VARIANTS):
        text = RECIPES[number % len(RECIPES)].read_text()
        for _ in range(rng.choice((1, 1, 2, 4))):
            text = mutated(text, rng)
        file.write_text(text)
        code = main([str(file), *option])
        said = capsys.readouterr()
        codes.add(code)
        assert code in (0, 1, 2), text
        assert "Traceback" not in said.out + said.err, text
        if code == 2:
            assert 1 <= len(said.err.splitlines()) <= 3, said.err
            assert len(said.err) < 1000, said.err
    assert 2 in codes
    assert codes & {0, 1}
