"""Rules on rewards, found by asking the functions themselves over their whole range of lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from string import ascii_lowercase

from harness.rewards.builtin import REWARDS
from harness.rewards.composite import Composite
from harness.rewards.errors import RewardFailed, UnknownReward
from harness.rewards.own import ColumnsWanted, NoColumns, OwnRewards
from harness.rewards.registry import Direction
from harness.rewards.types import Check, RewardContext, RewardInput
from harness.spec.lint.finding import Finding, Place
from harness.spec.lint.run_settings import RunSettings
from harness.spec.recipe import RewardFunctionSpec, RewardSpec

CHARACTERS_PER_TOKEN = 3.584
"""Of English reasoning under the tokenizer of R1-Distill-Qwen: Open-RS's cap of 3,584 is 1,000 tokens of text."""
POINTS = 97
"""Lengths at which a reward is asked."""
TOLERANCE = 1e-6

RIGHT = Check(True, "1", True)
WRONG = Check(False, "2", True, "wrong")
UNPARSABLE = Check(False, "2", False, "unparsable reference")


@dataclass(frozen=True)
class Curve:
    """A reward over the length of a completion.

    Attributes:
        tokens: the lengths, rising up to the cap.
        right: reward of a right answer in good layout.
        wrong: reward of a wrong one in the same layout.
        unlaid: reward of a right answer in no layout at all.
    """

    tokens: list[int]
    right: list[float]
    wrong: list[float]
    unlaid: list[float]


class _Asked:
    """A checker that notes what it is asked, and says that everything is wrong."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def check_many(self, pairs: Sequence[tuple[str, str]]) -> list[Check]:
        self.pairs += pairs
        return [WRONG] * len(pairs)


def curve(spec: RewardSpec, cap: int, own: OwnRewards | None = None) -> Curve:
    """The sum of a recipe's rewards over the lengths up to its cap, without normalisation.

    Args:
        spec: the rewards.
        cap: the length cap, in tokens.
        own: calls rewards of the user's own; a process for this curve alone unless given.

    Raises:
        UnknownReward: a function isn't there or rejects its parameters.
        RewardFailed: a function fails, or gives something else than a finite number for every completion.
    """
    if own is None:
        with OwnRewards() as started:
            return curve(spec, cap, started)
    tokens = sorted({max(1, round(cap * i / (POINTS - 1))) for i in range(POINTS)})
    # One group: a reward relative to the group sees all the lengths at once.
    plain = Composite(spec.model_copy(update={"normalization": "none"}), own.resolve)
    right = [_completion(count, cap, "1") for count in tokens]
    wrong = [_completion(count, cap, "2") for count in tokens]
    unlaid = [_completion(count, cap, "1", laid=False) for count in tokens]
    return Curve(
        tokens,
        _scores(plain, right, RIGHT),
        _scores(plain, wrong, WRONG),
        _scores(plain, unlaid, RIGHT),
    )


def _scores(composite: Composite, batch: list[RewardInput], check: Check) -> list[float]:
    return composite.score(batch, RewardContext(checks=[check] * len(batch))).total


def _completion(
    tokens: int, cap: int, answer: str, *, laid: bool = True, characters: int | None = None
) -> RewardInput:
    """A completion of so many tokens that says nothing twice, in the layout that every format reward likes."""
    size = round(tokens * CHARACTERS_PER_TOKEN) if characters is None else characters
    opening, closing = (
        ("<think>\n", f"\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>") if laid else ("", "")
    )
    room = max(0, size - len(opening) - len(closing))
    text = (opening + _filler(room) + closing)[: max(size, len(opening) + len(closing))]
    return RewardInput(
        text=text,
        answer="1",
        tokens=tokens,
        cap=cap,
        truncated=False,
        question="1 = ?",
        columns=NoColumns(),
    )


def _filler(characters: int) -> str:
    return _prose(1 << max(12, characters.bit_length()))[:characters]


@cache  # asked for powers of two: all of them together are twice the longest
def _prose(characters: int) -> str:
    """Words of which none comes twice: `aaa`, `baa`, …, and of five letters where those of three are used up."""
    count = characters // 4 + 1
    short, endings = _words(3), _words(2)
    long = (short[number % 26**3] + endings[number // 26**3 % 26**2] for number in range(26**3, count))
    return " ".join([*short[:count], *long])


def _words(length: int) -> list[str]:
    """All of so many letters, in the order of numbers whose first digit is the lowest."""
    return ["".join(reversed(letters)) for letters in product(ascii_lowercase, repeat=length)]


def findings(runs: Sequence[RunSettings]) -> list[Finding]:
    """What is wrong with the rewards of these runs; the same reward under the same cap is reported once."""
    found: list[Finding] = []
    seen: set[tuple[str, int, tuple[Place, ...]]] = set()
    with OwnRewards() as own:
        for run in runs:
            if run.reward is None:
                continue
            key = (run.reward.model_dump_json(), run.cap, run.reward_places)
            if key not in seen:
                seen.add(key)
                found += _of_reward(run, run.reward, own)
    return found


def _of_reward(run: RunSettings, spec: RewardSpec, own_rewards: OwnRewards) -> Iterator[Finding]:
    shape_found = False
    for function, place in zip(spec.functions, _places(run, spec), strict=True):
        try:
            own = list(_of_function(run, function, place, own_rewards))
        except UnknownReward:
            return  # an error of the grid, reported elsewhere
        except RewardFailed as error:
            if isinstance(error.__cause__, ColumnsWanted):
                yield run.finding(
                    "reward-columns",
                    "info",
                    place,
                    f"`{function.name}` looks at the questions' columns: neither it nor its sum is judged",
                    "nothing: it is told so that nobody takes silence for approval",
                )
            else:
                yield run.finding(
                    "reward-failing", "error", place, str(error), "mend it: a run would die of it"
                )
            return
        shape_found = shape_found or any(f.rule in ("reward-inverted", "reward-not-monotone") for f in own)
        yield from own
    if run.reward_complete:
        yield from _of_sum(run, spec, curve(spec, run.cap, own_rewards), shape_found=shape_found)


def _places(run: RunSettings, spec: RewardSpec) -> Sequence[Place]:
    return run.reward_places or [run.place("reward")] * len(spec.functions)


def _of_function(
    run: RunSettings, function: RewardFunctionSpec, place: Place, own: OwnRewards
) -> Iterator[Finding]:
    alone = RewardSpec(functions=(function.model_copy(update={"weight": 1.0}),))
    shape = curve(alone, run.cap, own)
    name = function.name
    characters = _counts_characters(alone, run.cap, own)
    yield from _of_direction(run, name, shape, place)
    if characters and _direction(name) is not None:
        yield run.finding(
            "reward-characters",
            "error",
            place,
            f"`{name}` counts characters, while the cap counts tokens: {_defect(shape)}",
            "a reward of the same shape in tokens: `cosine`, with `max_tokens` left to follow the cap",
        )
    yield from _of_credit(run, alone, name, place, own)


def _of_direction(run: RunSettings, name: str, shape: Curve, place: Place) -> Iterator[Finding]:
    """A reward against the direction in which it is said to move."""
    if (direction := _direction(name)) is None:
        return
    for kind, values, sign in zip(("right", "wrong"), (shape.right, shape.wrong), direction, strict=True):
        falls = "fall" if sign < 0 else "rise"
        against = _worst(values, -sign)
        # A reward that is to rise starts at its lowest value, one that is to fall at its highest.
        if against is not None and sign * values[0] >= sign * max(values, key=lambda v: sign * v) - TOLERANCE:
            turned = values.index(min(values, key=lambda v: sign * v))
            yield run.finding(
                "reward-inverted",
                "error",
                place,
                f"`{name}` is to {falls} with the length of a {kind} answer, but its range is inverted: the shortest "
                f"{kind} answer earns {values[0]:+.2f}, one of {shape.tokens[turned]} tokens {values[turned]:+.2f}",
                "a minimum below its maximum: `cosine` refuses any other",
            )
        if against is not None and _worst(values, sign) is not None:
            first, last = against
            yield run.finding(
                "reward-not-monotone",
                "error",
                place,
                f"`{name}` is to {falls} with the length of a {kind} answer, but {shape.tokens[first]} tokens earn "
                f"{values[first]:+.2f} and {shape.tokens[last]} earn {values[last]:+.2f}",
                "`cosine`, whose length is counted in tokens and clamped",
            )


def _direction(name: str) -> Direction | None:
    """What a reward is said to do with length; None for one that does not look at it, or is the user's own."""
    return REWARDS[name].direction if name in REWARDS else None


def _worst(values: Sequence[float], sign: int) -> tuple[int, int] | None:
    """The pair of places between which the values move most in the direction of `sign`; None if they never do."""
    best, low, found = TOLERANCE, 0, None
    for i, value in enumerate(values):
        if sign * (value - values[low]) > best:
            best, found = sign * (value - values[low]), (low, i)
        if sign * (value - values[low]) < 0:
            low = i
    return found


def _counts_characters(spec: RewardSpec, cap: int, own: OwnRewards) -> bool:
    """Whether a reward changes with the characters of a completion, and not with its tokens."""
    composite = Composite(spec, own.resolve)
    half, full = round(cap * CHARACTERS_PER_TOKEN / 2) + 80, round(cap * CHARACTERS_PER_TOKEN) + 160
    texts = [_completion(cap, cap, "1", characters=count) for count in (half, full, full * 2)]
    counts = [
        _completion(count, cap, "1", characters=full) for count in (max(1, cap // 4), cap // 2 or 1, cap)
    ]
    by_text, by_tokens = _scores(composite, texts, RIGHT), _scores(composite, counts, RIGHT)
    return _moves(by_text) and not _moves(by_tokens)


def _moves(values: Sequence[float]) -> bool:
    return max(values) - min(values) > TOLERANCE


def _defect(shape: Curve) -> str:
    """The reward of a right answer at a few lengths."""
    marks = [m for m in (1000, 2000, 3000) if m <= shape.tokens[-1]] or [
        shape.tokens[-1] // 2,
        shape.tokens[-1],
    ]
    near = [min(range(len(shape.tokens)), key=lambda i: abs(shape.tokens[i] - mark)) for mark in marks]
    pairs = ", ".join(f"{shape.tokens[i]} tokens earn {shape.right[i]:.2f}" for i in near)
    return f"for a right answer {pairs}"


def _of_credit(
    run: RunSettings, spec: RewardSpec, name: str, place: Place, own: OwnRewards
) -> Iterator[Finding]:
    """Who is asked about what: the reference as an answer, and references that cannot be parsed."""
    composite, asked = Composite(spec, own.resolve), _Asked()
    item = _completion(run.cap // 2 or 1, run.cap, "2")
    value = {}
    for kind, check in (("wrong", WRONG), ("unparsable", UNPARSABLE)):
        value[kind] = composite.score([item], RewardContext(checks=[check], checker=asked)).total[0]
    if any("1" in text and "2" not in text for text, _ in asked.pairs):
        yield run.finding(
            "reward-swapped",
            "error",
            place,
            f"`{name}` asks whether the reference equals the answer, not the other way round: the comparison is not "
            "symmetric, so answers such as `x = 5` to a reference of `5` are judged otherwise",
            "`accuracy`, which gives the reference first",
        )
    if value["unparsable"] > value["wrong"] + TOLERANCE:
        yield run.finding(
            "reward-unparsable",
            "error",
            place,
            f"`{name}` gives {value['unparsable']:.2f} to any answer where the reference cannot be parsed, "
            f"{value['wrong']:.2f} to a wrong one elsewhere",
            "`accuracy`, which gives 0 and says why; drop such questions from the data",
        )


def _of_sum(run: RunSettings, spec: RewardSpec, shape: Curve, *, shape_found: bool) -> Iterator[Finding]:
    """What the weighted sum prefers."""
    place = run.place("reward")
    for tokens, right, wrong in zip(shape.tokens, shape.right, shape.wrong, strict=True):
        if wrong >= right - TOLERANCE:
            yield run.finding(
                "reward-prefers-wrong",
                "error",
                place,
                f"at {tokens} tokens a wrong answer earns {wrong:.2f} and a right one {right:.2f}",
                "a weight for accuracy above what the other functions can give or take",
            )
            return
    best, worst = max(shape.wrong), min(shape.right)
    if best >= worst - TOLERANCE:
        short, long = shape.tokens[shape.wrong.index(best)], shape.tokens[shape.right.index(worst)]
        yield run.finding(
            "reward-prefers-wrong",
            "warning",
            place,
            f"a wrong answer of {short} tokens earns {best:.2f}, a right one of {long} tokens {worst:.2f}",
            "a weight for accuracy above the range of the functions that look at length",
        )
    if best >= min(shape.unlaid) - TOLERANCE:
        yield run.finding(
            "reward-prefers-wrong",
            "info",
            place,
            f"a wrong answer in the layout asked for earns {best:.2f}, a right one out of it {min(shape.unlaid):.2f}",
            "a weight for accuracy above those of the layout",
        )
    turns = _worst(shape.right, 1) is not None and _worst(shape.right, -1) is not None
    if turns and not shape_found:
        low, high = _worst(shape.right, 1) or (0, 0)
        yield run.finding(
            "reward-not-monotone",
            "warning",
            place,
            f"the reward of a right answer rises and falls with its length: {shape.tokens[low]} tokens earn "
            f"{shape.right[low]:.2f}, {shape.tokens[high]} earn {shape.right[high]:.2f}",
            "a function of length that is monotone up to the cap",
        )
