"""Sequence packing: sequences end to end in one row, without padding, and the attention for it.

Two layouts. `shared`: the completions of a prompt follow a single copy of it, and each attends to that copy and to
itself, so a group's prompt goes through the model once; runs on any device. `varlen`: every sequence with its own
copy of the prompt, for flash-attention's variable-length kernels. Outside attention the model sees one long row whose
position ids restart at each sequence.

Shapes: N packed tokens, h heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from harness.models.architecture import packing_pays
from kernels.device_choice import device_type

Mode = Literal["padded", "shared", "varlen"]
_ATTENTION = "harness_shared_prompts"
"""Name under which the attention of the `shared` layout is registered with transformers."""


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `start + length` of the packed row, the end excluded."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """`start + length`."""
        return self.start + self.length


@dataclass(frozen=True)
class Group:
    """A prompt and the completions that share it, contiguous in the row."""

    prompt: Span
    completions: tuple[Span, ...]


@dataclass(frozen=True)
class SharedPrompts:
    """The layout `shared`: groups, each a prompt followed by its completions.

    Attributes:
        groups: the groups, contiguous from the start of the row.
        masks: cache of additive masks by dtype.
    """

    groups: tuple[Group, ...]
    masks: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False)

    def mask(self, prompt: int, completion: int, like: Tensor) -> Tensor:
        """Additive mask [completion, prompt + completion]: full attention to the prompt, causal to the completion.

        A view of one cached mask for the longest prompt and completion, in the dtype and on the device of `like`.
        """
        widest = max(g.prompt.length for g in self.groups)
        if like.dtype not in self.masks:
            longest = max((c.length for g in self.groups for c in g.completions), default=0)
            room = torch.zeros((longest, widest + longest), dtype=like.dtype, device=like.device)
            later = torch.ones((longest, longest), dtype=torch.bool, device=like.device).triu(1)
            room[:, widest:].masked_fill_(later, -torch.inf)
            self.masks[like.dtype] = room
        return self.masks[like.dtype][:completion, widest - prompt : widest + completion]


@dataclass(frozen=True)
class Varlen:
    """The layout `varlen`: B independent sequences.

    Attributes:
        bounds: int32 [B + 1], cumulative lengths (flash-attention's `cu_seqlens`).
        longest: length of the longest sequence (`max_seqlen`).
    """

    bounds: Tensor
    longest: int


Layout = SharedPrompts | Varlen


def choose_packing(model: PreTrainedModel, wanted: Literal["auto", "padded", "packed"]) -> Mode:
    """Chooses the layout of micro-batches for `training.packing`.

    `auto` packs where that is faster: under flash-attention, and on a CPU for models so wide that the padding saved
    costs more than one attention call per sequence.

    Raises:
        ValueError: `packed` for a model whose attention cannot be packed.
    """
    if wanted == "padded":
        return "padded"
    config = model.config.get_text_config()
    if config._attn_implementation == "flash_attention_2":
        return "varlen"
    reason = _obstacle(model)
    if wanted == "packed":
        if reason:
            raise ValueError(f"`training.packing` must be auto or padded for this model: {reason}")
        return "shared"
    pays = packing_pays(config.hidden_size, on_cpu=device_type(model.device) == "cpu")
    return "shared" if pays and not reason else "padded"


def _obstacle(model: PreTrainedModel) -> str | None:
    """Why `shared` attention would differ from the model's own; None if it would not."""
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} has an attention of its own"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "it has layers with a sliding window"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    return None


@contextmanager
def packed_attention(model: PreTrainedModel, layout: Layout | None) -> Iterator[dict[str, Any]]:
    """Switches the model's attention to the layout's inside the block.

    Yields:
        Keyword arguments to pass to the model's body.
    """
    if layout is None:
        yield {}
    elif isinstance(layout, Varlen):
        bounds, longest = layout.bounds, layout.longest
        yield {
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    else:
        config = model.config.get_text_config()
        before = config._attn_implementation
        config._attn_implementation = _ATTENTION
        try:
            yield {"shared_prompts": layout}
        finally:
            config._attn_implementation = before


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prompts: SharedPrompts,
    scaling: float | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Attention in the layout `shared`: query [1, h, N, d], key and value [1, h_kv, N, d] → [1, N, h, d]."""
    options: dict[str, Any] = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    rows = []
    for group in shared_prompts.groups:
        prompt = slice(group.prompt.start, group.prompt.end)
        k, v = key[:, :, prompt], value[:, :, prompt]
        rows.append(scaled_dot_product_attention(query[:, :, prompt], k, v, is_causal=True, **options))
        for span in group.completions:
            if not span.length:  # a completion of one token: the prompt's last position predicts it
                continue
            own = slice(span.start, span.end)
            rows.append(
                scaled_dot_product_attention(
                    query[:, :, own],
                    torch.cat([k, key[:, :, own]], 2),
                    torch.cat([v, value[:, :, own]], 2),
                    attn_mask=shared_prompts.mask(group.prompt.length, span.length, query),
                    **options,
                )
            )
    return torch.cat(rows, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)
