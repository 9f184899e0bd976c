"""What a model's chat template does with a prompt, found by rendering one; needs neither torch nor transformers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from harness.models.catalog import ModelSource
from harness.models.chat_template import ChatTemplate, TemplateError
from harness.models.token_files import read_token_files
from harness.spec.errors import SpecError
from harness.spec.prompt import PromptSpec

_QUESTION, _SYSTEM, _REPLY = "question7f3a9c", "system5b1e8d", "reply2c6d4e"
"""Stand for the texts of a conversation. Letters and digits alone: templates may trim and escape the rest."""

_DAYS = (datetime.datetime(2021, 3, 4, 5, 6), datetime.datetime(2023, 11, 22, 17, 38))

_OPENED = re.compile(r"<think>\s*\Z")


class PromptRefused(SpecError):
    """A prompt that a model's chat template does not render as it was meant.

    Args:
        message: what is wrong.
        hint: how to mend it.
        field: the field of `prompt` that it is about.
    """

    def __init__(self, message: str, hint: str | None = None, *, field: str = "format") -> None:
        super().__init__(message, hint=hint)
        self.field = field


@dataclass(frozen=True)
class PromptFacts:
    """What a prompt looks like to the model.

    Attributes:
        opened: what the prompt opens of the thought that the completion goes on with, such as `<think>` and a line
            feed; empty where it opens nothing.
        closed: the prompt holds a thought and closes it, as templates do that switch thinking off.
        system_moved: the system message stands inside the user's turn.
        dated: the prompt holds the date at which it is made.
    """

    opened: str = ""
    closed: bool = False
    system_moved: bool = False
    dated: bool = False


def opened_thought(prompt: str) -> str:
    """The end of a prompt that begins the thought: `<think>` and white space after it; empty where it has none."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def _facts(text: str) -> PromptFacts:
    return PromptFacts(opened=opened_thought(text), closed=text.rstrip().endswith("</think>"))


def prompt_facts(prompt: PromptSpec, source: ModelSource) -> PromptFacts | None:
    """`check_prompt` of a model that was found; None where its tokenizer is not here yet, and the prompt needs it.

    Raises:
        PromptRefused: as `check_prompt`.
    """
    if source.small_files is None:
        needed = prompt.format == "chat" and prompt.chat_template is None
        return None if needed else check_prompt(prompt, None, source.name)
    files = read_token_files(source.small_files)
    unreachable = files.beyond(source.vocabulary)
    return check_prompt(prompt, files.template, source.name, unreachable=unreachable)


def check_prompt(
    prompt: PromptSpec, template: ChatTemplate | None, model: str, *, unreachable: Collection[str] = ()
) -> PromptFacts:
    """Renders a prompt with marks in place of its texts, and looks where these come out.

    Args:
        prompt: the recipe's prompt; its own chat template goes before the model's.
        template: the model's chat template; None where it has none.
        model: the model's name, for messages.
        unreachable: tokens whose ids are beyond the model's embedding.

    Raises:
        PromptRefused: there is no template, it fails, drops a text or opens no turn for the answer, or writes a token
            that the model has no embedding of.
    """
    if prompt.format == "raw":
        return _facts(prompt.template)
    if prompt.chat_template is not None:
        template = ChatTemplate(prompt.chat_template, template.tokens if template else ())
        where, field = "prompt.chat_template", "chat_template"
    else:
        where, field = f"the chat template of {model!r}", "format"
    if template is None:
        raise PromptRefused(
            f"model {model!r} has no chat template",
            "set `prompt.format: raw`, with which `prompt.template` is the whole prompt, or give a template of your "
            "own with `prompt.chat_template`, a file or its text",
        )
    return _Look(prompt, template, where, field, unreachable).facts()


class _Look:
    """The checks of one prompt under one template."""

    def __init__(
        self, prompt: PromptSpec, template: ChatTemplate, where: str, field: str, unreachable: Collection[str]
    ) -> None:
        self._prompt, self._template = prompt, template
        self._where, self._field, self._unreachable = where, field, unreachable
        self._user = {"role": "user", "content": _QUESTION}
        self._system = [{"role": "system", "content": _SYSTEM}] if prompt.system is not None else []

    def facts(self) -> PromptFacts:
        bare = self._bare()
        self._check_arguments()
        text = self._with_system()
        if _QUESTION not in text:
            raise PromptRefused(f"{self._where} leaves the question out", self._own(), field=self._field)
        if self._system and _SYSTEM not in text:
            raise PromptRefused(
                f"{self._where} drops the system message without a word: the model would never see it",
                self._system_hint(),
                field="system",
            )
        self._check_turn(text)
        if met := [token for token in self._unreachable if token in text]:
            raise PromptRefused(
                f"{self._where} writes {met[0]!r}, whose id is beyond the model's embedding",
                "take the tokenizer that the model was trained with, or give a `prompt.chat_template` without it",
                field=self._field,
            )
        days = {self._rendered([*self._system, self._user], today=day) for day in _DAYS}
        moved = bool(self._system) and self._moved(bare, text)
        return replace(_facts(text), system_moved=moved, dated=len(days) > 1)

    def _rendered(
        self, messages: list[dict[str, str]], *, open_turn: bool = True, today: datetime.datetime = _DAYS[0]
    ) -> str:
        return self._template.render(
            messages, open_turn=open_turn, arguments=self._prompt.template_args, today=today
        )

    def _bare(self) -> str | None:
        """The prompt without a system message; None where the template fails on that and there is one to try with."""
        try:
            return self._rendered([self._user])
        except TemplateError as error:
            if self._system:
                return None
            raise PromptRefused(f"{self._where} fails: {error}", self._own(), field=self._field) from None

    def _with_system(self) -> str:
        try:
            return self._rendered([*self._system, self._user])
        except TemplateError as error:
            if self._bare() is None:
                raise PromptRefused(f"{self._where} fails: {error}", self._own(), field=self._field) from None
            raise PromptRefused(
                f"{self._where} refuses a system message: {error}", self._system_hint(), field="system"
            ) from None

    def _check_arguments(self) -> None:
        read = self._template.variables()
        for name in self._prompt.template_args:
            if name not in read:
                others = sorted(read - {"messages", "tools", "documents", "add_generation_prompt"})
                raise PromptRefused(
                    f"{self._where} reads no `{name}`",
                    f"it reads {', '.join(others)}"
                    if others
                    else "it reads no variables of the kind: leave it out",
                    field="template_args",
                )

    def _check_turn(self, text: str) -> None:
        """A prompt after which the model would have to write the header of its own turn."""
        try:
            if text != self._rendered([*self._system, self._user], open_turn=False):
                return
            whole = self._rendered([*self._system, self._user, {"role": "assistant", "content": _REPLY}])
        except TemplateError:
            return
        header = whole[len(text) :].partition(_REPLY)[0] if whole.startswith(text) else ""
        if header.strip():
            raise PromptRefused(
                f"{self._where} does not open the assistant's turn ({header.strip()!r}): it takes no notice of "
                "add_generation_prompt",
                "give a `prompt.chat_template` that writes it `{% if add_generation_prompt %}`",
                field=self._field,
            )

    @staticmethod
    def _moved(bare: str | None, text: str) -> bool:
        """Whether the system message stands after what opens the user's turn."""
        if bare is None:
            return False
        turn = bare.partition(_QUESTION)[0]
        return bool(turn.strip()) and text.partition(_SYSTEM)[0].startswith(turn.rstrip())

    def _system_hint(self) -> str:
        return "write it into `prompt.template` before {question}, or give a `prompt.chat_template` that keeps it"

    def _own(self) -> str:
        if self._field == "chat_template":
            return "mend it"
        return "give a template of your own with `prompt.chat_template`, or use `prompt.format: raw`"
