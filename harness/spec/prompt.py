"""How a question becomes a prompt: through a chat template, or as plain text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from harness.spec.section import Added, PositiveInt, Section


class PromptSpec(Section):
    """How a question becomes a prompt."""

    format: Annotated[Literal["chat", "raw"], Added(before="chat")] = "chat"
    """`chat`: `template` is the user's message in a chat template. `raw`: `template` itself is the prompt, for base
    models; the tokenizer's beginning-of-text token goes before it where the tokenizer puts one before plain text, and
    nothing else is added."""
    chat_template: Annotated[str | None, Added(before=None)] = None
    """With `chat`: a chat template in place of the model's own, as text in jinja2's language or as a file that holds
    one. A file is read with the recipe; its content counts, not its path. Null for the model's own."""
    template_args: Annotated[dict[str, Any], Added(before={})] = {}
    """With `chat`: variables for the chat template, such as `{enable_thinking: false}`."""
    system: str | None = None
    """With `chat`: system message; none if null."""
    template: str = "{question}"
    """The user's message or, if `raw`, the prompt; `{question}` stands for the question."""
    max_tokens: PositiveInt = 512
    """Training questions whose prompt is longer are dropped, and counted."""

    @field_validator("template")
    @classmethod
    def _has_question(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError(f"must contain {{question}}, got {value!r}")
        return value

    @field_validator("chat_template")
    @classmethod
    def _template_text(cls, value: str | None) -> str | None:
        if value is None or _is_template(value):
            return value
        return _template_of(value)

    @field_validator("template_args")
    @classmethod
    def _free_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name.isidentifier() or name in TEMPLATE_NAMES:
                raise ValueError(
                    f"{name!r} cannot be given: it is no variable name, or one that is set for every template"
                )
        return value

    @model_validator(mode="after")
    def _raw_has_no_chat(self) -> PromptSpec:
        if self.format == "raw":
            for name in ("system", "chat_template", "template_args"):
                if getattr(self, name):
                    more = ": write the instruction into `template`" if name == "system" else ""
                    raise ValueError(
                        f"`{name}` has no place in a prompt of format raw{more}, or use format chat"
                    )
        return self


TEMPLATE_NAMES = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)
"""What transformers' `apply_chat_template` takes itself and hands to no template, or sets in every one."""


def _is_template(value: str) -> bool:
    return "{{" in value or "{%" in value


def _template_of(path: str) -> str:
    """The text of a template file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(
            f"holds no `{{{{ … }}}}`, and is no file that can be read: {path!r}: {reason}"
        ) from None
    if not _is_template(text):
        raise ValueError(
            f"the file {path!r} holds no `{{{{ … }}}}`: it would give every question the same prompt"
        )
    return text
