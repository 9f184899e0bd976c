"""What can be wrong with a reward: it isn't there, or it fails on a completion."""

from __future__ import annotations

from harness.spec.errors import SpecError


class UnknownReward(SpecError):
    """A reward function that isn't there, or parameters that it does not take.

    Args:
        message: what is wrong, with the offending name or value.
        hint: how to mend it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


class RewardFailed(ValueError):
    """A reward raised an exception, or gave something else than a finite number for every completion.

    Args:
        reward: its name.
        what: what it did, with the exception's or the value's own words.
        place: where in the user's code, as file, line and function; empty where it is no exception.
        question: the question of the completion on which it failed; None where it is no single one.
        completion: that completion.
    """

    def __init__(
        self,
        reward: str,
        what: str,
        *,
        place: str = "",
        question: str | None = None,
        completion: str | None = None,
    ) -> None:
        self.reward, self.what, self.place = reward, what, place
        self.question, self.completion = question, completion
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        on = ""
        if self.question is not None and self.completion is not None:
            on = f"; question: {shown(self.question)}; completion: {shown(self.completion)}"
        return f"reward {self.reward!r} {self.what}{where}{on}"

    @property
    def kind(self) -> str:
        """What is the same wherever this failure occurs: the reward and what it did, without the completion."""
        return f"{self.reward} {self.place or self.what}"


def shown(text: str, most: int = 120) -> str:
    """A text in quotes, on one line, its middle left out where it is long."""
    quoted = repr(text)
    half = most // 2
    return quoted if len(quoted) <= most else f"{quoted[:half]} … {quoted[-half:]}"
