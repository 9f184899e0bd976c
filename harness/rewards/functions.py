"""Rewards for what a completion says and how it is laid out, and the table of all built-in rewards."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

from harness.rewards.boxed import final_answer
from harness.rewards.lengths import cosine, cosine_characters, length, soft_overlong
from harness.rewards.published import published_credit
from harness.rewards.types import RewardContext, RewardInput


def accuracy(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for a right final answer, else 0."""
    return [float(check.correct) for check in context.checks]


def accuracy_open_rs(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """Accuracy as Open-RS ran it (arXiv 2503.16219), kept to reproduce the study.

    It differs from `accuracy` in two ways, both defects: answer and reference change places in the comparison,
    which is not symmetric, and a reference that cannot be parsed earns 1 whatever the answer.
    """
    return [
        credit.value if credit.value is not None else float(credit.correct)
        for credit in published_credit(batch, context)
    ]


def boxed(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for a completion with a closed `\\boxed{…}` after its thought, else 0."""
    return [float(final_answer(item.text) is not None) for item in batch]


def format_think(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for exactly one end of thought on a line of its own, else 0 (Open-RS, arXiv 2503.16219).

    The opening `<think>` is part of the prompt in the chat templates of reasoning models, hence not asked for.
    """
    return [float(item.text.count("\n</think>\n") == 1) for item in batch]


def format_strict(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for a match of `^<think>\\n.*?\\n</think>\\n<answer>\\n.*?\\n</answer>$`, else 0 (open-r1).

    As there, `.` matches newlines and `$` the end of any line, so text may follow on further lines. Decided in
    linear time, which the expression itself is not. A `<think>` that the prompt opened counts as the completion's:
    no completion could earn anything otherwise.
    """
    return [float(_strictly_formatted(item.opened + item.text)) for item in batch]


def _strictly_formatted(text: str) -> bool:
    opening, middle, closing = "<think>\n", "\n</think>\n<answer>\n", "\n</answer>"
    if not text.startswith(opening):
        return False
    turn = text.find(middle, len(opening))
    if turn < 0:
        return False
    answer = turn + len(middle)
    return text.find(closing + "\n", answer) >= 0 or (
        text.endswith(closing) and len(text) - len(closing) >= answer
    )


def tag_count(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """A quarter for each tag that occurs exactly once in its place (open-r1), one that the prompt opened included."""
    tags = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
    return [sum(0.25 for tag in tags if (item.opened + item.text).count(tag) == 1) for item in batch]


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
@lru_cache(maxsize=8192)
def script_of(character: str) -> str:
    """The first word of a letter's Unicode name, such as LATIN, CYRILLIC or CJK; empty for what is no letter."""
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


@lru_cache(maxsize=1)
def _scripts() -> frozenset[str]:
    return frozenset(map(script_of.__wrapped__, map(chr, range(0x20000)))) - {""}


FUNCTIONS: dict[str, Callable[..., list[float]]] = {
    "accuracy": accuracy,
    "accuracy_open_rs": accuracy_open_rs,
    "boxed": boxed,
    "cosine": cosine,
    "cosine_characters": cosine_characters,
    "format": format_think,
    "format_strict": format_strict,
    "length": length,
    "repetition": repetition,
    "single_language": single_language,
    "soft_overlong": soft_overlong,
    "tag_count": tag_count,
}
"""Built-in rewards by the name that recipes use."""

READ_OPENED = frozenset({"format_strict", "tag_count"})
"""Rewards that read what the prompt opened together with the completion."""

WANT_THOUGHT = frozenset({"format", *READ_OPENED})
"""Rewards for a completion that ends its thought in words."""

DIRECTIONS: dict[str, tuple[int, int]] = {
    "cosine": (-1, 1),
    "cosine_characters": (-1, 1),
    "length": (-1, -1),
    "soft_overlong": (-1, -1),
}
"""What a function that looks at length is said to do as a right and as a wrong answer gets longer: −1 falls, 1
rises. `cosine_characters` is said to do so and does not; `harness.lint` compares."""
