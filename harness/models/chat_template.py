"""Chat templates rendered as transformers renders them, without transformers and within a time limit."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

RENDER_SECONDS = 2.0
"""How long a template may take for one short conversation."""
_FILE = "<template>"
"""What jinja2 calls the code of a template that comes from a string."""


class TemplateError(Exception):
    """A template that cannot be compiled, or that fails on a conversation; the message is one line."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template.

    Attributes:
        text: in jinja2's language.
        tokens: special tokens that it may name, such as `("bos_token", "<s>")`.
    """

    text: str
    tokens: tuple[tuple[str, str], ...] = ()

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        open_turn: bool = True,
        arguments: Mapping[str, Any] | None = None,
        today: datetime.datetime | None = None,
    ) -> str:
        """The conversation as text.

        Args:
            messages: role and content of each.
            open_turn: transformers' `add_generation_prompt`: open the assistant's turn at the end.
            arguments: further variables, such as `enable_thinking`.
            today: what `strftime_now` tells; None for now.

        Raises:
            TemplateError: it does not compile, raises, or takes longer than `RENDER_SECONDS`.
        """
        compiled, clock = _compiled(self.text)
        clock.append(today or datetime.datetime.now())
        try:
            with _limited(RENDER_SECONDS):
                return str(
                    compiled.render(
                        messages=[dict(message) for message in messages],
                        tools=None,
                        documents=None,
                        add_generation_prompt=open_turn,
                        **{**dict(self.tokens), **(arguments or {})},
                    )
                )
        except _TooLong:
            raise TemplateError(f"it does not end within {RENDER_SECONDS:g} s") from None
        except Exception as error:  # whatever the template's own code raises
            raise TemplateError(_one_line(error)) from None
        finally:
            clock.pop()

    def variables(self) -> frozenset[str]:
        """Names that the template reads and does not set itself."""
        from jinja2 import meta

        environment = _environment([])
        return frozenset(meta.find_undeclared_variables(environment.parse(self.text))) - frozenset(
            environment.globals
        )


class _TooLong(BaseException):
    """Not an `Exception`: a template's code cannot catch it."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Ends the template's code, whatever it loops over; jinja2 has no limit of its own."""
    end = time.monotonic() + seconds

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if time.monotonic() > end:
            raise _TooLong
        return trace if frame.f_code.co_filename == _FILE else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@lru_cache(maxsize=64)
def _compiled(text: str) -> tuple[Any, list[datetime.datetime]]:
    clock: list[datetime.datetime] = []
    try:
        return _environment(clock).from_string(text), clock
    except Exception as error:  # a syntax error, or one of the compiler's own
        line = getattr(error, "lineno", None)
        raise TemplateError((f"line {line}: " if line else "") + _one_line(error)) from None


def _environment(clock: list[datetime.datetime]) -> Any:
    """The environment that transformers makes (`utils/chat_template_utils.py`); tests compare."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant wrote, and renders as its content."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: clock[-1].strftime(form)
    return environment


def _one_line(error: BaseException) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return text if len(text) <= 200 else text[:200] + "…"
