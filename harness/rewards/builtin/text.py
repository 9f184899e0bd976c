"""Rewards for what a completion is written in: words that repeat, and the script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from harness.rewards.registry import reward
from harness.rewards.types import RewardContext, RewardInput

_LONGEST_WORD = 64
"""Characters. A longer stretch without a space is no word: a formula, digits without end, text in a loop."""

# Scripts written without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana and Han.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_PIECE = re.compile(rf"[{_UNSPACED}]|\\[a-z]+|(?:(?![{_UNSPACED}\d_])\w)+|\d+|.", re.DOTALL)


def _units(text: str) -> list[str]:
    """What n-grams of a lower-case text are made of: words, and where there are no spaces pieces of them."""
    units: list[str] = []
    for word in text.split():
        if len(word) <= _LONGEST_WORD and _HAS_UNSPACED.search(word) is None:
            units.append(word)
            continue
        for piece in _PIECE.findall(word):
            units.extend([piece] if len(piece) <= _LONGEST_WORD else piece)
    return units


@reward("repetition")
def repetition(
    batch: Sequence[RewardInput], context: RewardContext, *, ngram_size: int = 3, max_penalty: float = -1.0
) -> list[float]:
    """(1 − distinct/all n-grams) · max_penalty, in (max_penalty, 0] (arXiv 2502.03373, appendix C.2).

    As open-r1's `get_repetition_penalty_reward`, n-grams are of the words between spaces, in lower case. open-r1
    asks for the language and cuts Chinese into words by a dictionary; here every text decides for itself. A word with
    characters of a script without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan), and one of more
    than 64 characters, is cut into single characters of such a script, LaTeX commands, runs of letters or digits, and
    symbols; a run of more than 64 into its characters.

    Args:
        batch: the completions.
        context: unused.
        ngram_size: words, or pieces of them, in an n-gram.
        max_penalty: for a completion that says one thing over and over.

    Raises:
        ValueError: `ngram_size` is < 1 or `max_penalty` is > 0.
    """
    if ngram_size < 1:
        raise ValueError(f"`ngram_size` must be >= 1, got {ngram_size}")
    if max_penalty > 0:
        raise ValueError(f"`max_penalty` must be <= 0, got {max_penalty}")
    rewards = []
    for item in batch:
        units = _units(item.text.lower())
        total = len(units) - ngram_size + 1
        if total < 1:
            rewards.append(0.0)
            continue
        distinct = len({tuple(units[i : i + ngram_size]) for i in range(total)})
        rewards.append((total - distinct) / total * max_penalty + 0.0)
    return rewards


@reward("single_language")
def single_language(
    batch: Sequence[RewardInput], context: RewardContext, *, script: str = "latin"
) -> list[float]:
    """Share of letters in one script, in [0, 1] (after the language consistency of DeepSeek-R1, arXiv 2501.12948).

    Greek letters are mathematics and do not count; a completion without letters earns 1.

    Args:
        batch: the completions.
        context: unused.
        script: first word of the letters' Unicode names: `latin`, `cyrillic`, `cjk`, `hangul`, …

    Raises:
        ValueError: no letter has that script.
    """
    wanted = script.upper()
    if wanted not in _scripts():
        raise ValueError(f"`script` must be one of Unicode's, such as latin or cjk, got {script!r}")
    rewards = []
    for item in batch:
        letters = [s for s in map(script_of, item.text) if s not in ("", "GREEK")]
        rewards.append(sum(s == wanted for s in letters) / len(letters) if letters else 1.0)
    return rewards


@lru_cache(maxsize=65536)
def script_of(character: str) -> str:
    """The first word of a letter's Unicode name, such as LATIN, CYRILLIC or CJK; empty for what is no letter."""
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


@lru_cache(maxsize=1)
def _scripts() -> frozenset[str]:
    return frozenset(map(script_of.__wrapped__, map(chr, range(0x20000)))) - {""}
