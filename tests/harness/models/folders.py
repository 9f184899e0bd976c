"""Model folders made from the embedded model, each with something odd, and what is to become of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from harness.models.tiny import FOLDER

EMBEDDING = "model.embed_tokens.weight"


def copy_tiny(target: Path) -> Path:
    """The embedded model as a folder of its own."""
    target.mkdir(parents=True)
    for path in FOLDER.iterdir():
        if path.suffix in (".json", ".safetensors", ".jinja"):
            shutil.copy(path, target)
    return target


def edit(folder: Path, file: str, **fields: object) -> Path:
    """Sets fields of a JSON file; `...` removes one."""
    data = json.loads((folder / file).read_text())
    data |= fields
    (folder / file).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    return folder


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Changes the tensors of the only weights file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def pad_vocabulary(folder: Path, rows: int, *, bias: float = 0.0) -> Path:
    """Gives the embedding rows that no token has; with a bias they would be sampled all the time."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        old = tensors[EMBEDDING]
        extra = torch.zeros(rows - len(old), old.shape[1], dtype=old.dtype) + bias
        tensors[EMBEDDING] = torch.cat([old, extra])

    edit_weights(folder, change)
    return edit(folder, "config.json", vocab_size=rows)


def add_token(folder: Path, text: str, number: int) -> Path:
    """Adds a special token to the tokenizer."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    entry = {"content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append({"id": number, "special": True, **entry})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def template(folder: Path, text: str | None) -> Path:
    """Another chat template, or none."""
    (folder / "chat_template.jinja").unlink()
    if text is not None:
        (folder / "chat_template.jinja").write_text(text)
    return folder


def remote_code(folder: Path, file: str, **fields: object) -> Path:
    """Code that leaves a trace if it is ever run."""
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return edit(folder, file, **fields)


def only(folder: Path, **files: str) -> Path:
    """Nothing but these files."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def nested(folder: Path) -> Path:
    inner = folder.parent / "inner"
    folder.rename(inner)
    folder.mkdir()
    inner.rename(folder / "checkpoint-100")
    return folder


def link_to_itself(folder: Path, file: str) -> Path:
    (folder / file).unlink()
    (folder / file).symlink_to(folder / file)
    return folder


def truncated(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def index(folder: Path, text: str) -> Path:
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def grown(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)


def another_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING] * 2


def same_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING].clone()


LONG = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SHARD = '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'

USED: dict[str, Callable[[Path], Path]] = {
    "copy": lambda f: f,
    "no-generation-config": lambda f: [(f / "generation_config.json").unlink(), f][1],
    "two-ends": lambda f: edit(f, "generation_config.json", eos_token_id=[2, 33]),
    "end-in-generation-config-alone": lambda f: edit(f, "tokenizer_config.json", eos_token=None),
    "end-of-the-class-alone": lambda f: edit(f, "tokenizer_config.json", eos_token=...),
    "end-in-tokenizer-alone": lambda f: edit(f, "generation_config.json", eos_token_id=...),
    "one-end-beyond": lambda f: edit(f, "generation_config.json", eos_token_id=[2, 999]),
    "no-pad": lambda f: edit(f, "tokenizer_config.json", pad_token=None),
    "pad-of-the-class": lambda f: edit(f, "tokenizer_config.json", pad_token=...),
    "pad-beyond": lambda f: edit(f, "tokenizer_config.json", pad_token="<newpad>"),
    "pad-is-end": lambda f: edit(f, "tokenizer_config.json", pad_token="<eos>"),
    "config-pad-beyond": lambda f: edit(f, "config.json", pad_token_id=999),
    "config-pad-negative": lambda f: edit(f, "config.json", pad_token_id=-1),
    "padded-vocabulary": lambda f: pad_vocabulary(f, 288),
    "token-beyond-unused": lambda f: add_token(f, "<never>", 265),
    "head-saved-too": lambda f: edit_weights(f, same_head),
    "tensor-too-many": lambda f: edit_weights(f, lambda t: t.update(x=torch.zeros(2))),
    "template-in-config": lambda f: edit(
        template(f, None), "tokenizer_config.json", chat_template=(FOLDER / "chat_template.jinja").read_text()
    ),
    "several-templates": lambda f: edit(
        template(f, None),
        "tokenizer_config.json",
        chat_template=[
            {"name": "tool_use", "template": "{{ raise_exception('no tools') }}"},
            {"name": "default", "template": (FOLDER / "chat_template.jinja").read_text()},
        ],
    ),
}
"""Folders that are used right."""

REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no-config": (lambda f: [(f / "config.json").unlink(), f][1], "no config.json"),
    "empty-folder": (only, "no config.json"),
    "config-list": (lambda f: [(f / "config.json").write_text("[]"), f][1], "must hold a JSON object"),
    "config-torn": (lambda f: [(f / "config.json").write_text('{"a"'), f][1], "is not JSON"),
    "config-loop": (lambda f: link_to_itself(f, "config.json"), "config.json cannot be read"),
    "no-width": (lambda f: edit(f, "config.json", hidden_size=...), "no 'hidden_size'"),
    "width-zero": (lambda f: edit(f, "config.json", hidden_size=0), "must be >= 1"),
    "heads-true": (lambda f: edit(f, "config.json", num_attention_heads=True), "must be >= 1"),
    "kv-heads-text": (lambda f: edit(f, "config.json", num_key_value_heads="two"), "must be >= 1"),
    "dtype-nonsense": (lambda f: edit(f, "config.json", dtype="float99"), "dtype is 'float99'"),
    "older-dtype-nonsense": (
        lambda f: edit(f, "config.json", dtype=..., torch_dtype=16),
        "torch_dtype is 16",
    ),
    "heads-do-not-divide": (
        lambda f: edit(f, "config.json", num_attention_heads=3, num_key_value_heads=1),
        "hidden_size is 128, no multiple of num_attention_heads, 3",
    ),
    "kv-heads-do-not-divide": (
        lambda f: edit(f, "config.json", num_key_value_heads=3),
        "num_attention_heads is 4, no multiple of num_key_value_heads, 3",
    ),
    "wrong-architecture": (
        lambda f: edit(f, "config.json", architectures=["BertForMaskedLM"]),
        "it is a BertForMaskedLM",
    ),
    "no-weights": (lambda f: [(f / "model.safetensors").unlink(), f][1], "no *.safetensors weights"),
    "weights-loop": (lambda f: link_to_itself(f, "model.safetensors"), "is not a safetensors file"),
    "weights-truncated": (truncated, "it is truncated"),
    "weights-empty": (lambda f: [(f / "model.safetensors").write_bytes(b""), f][1], "shorter than a header"),
    "weights-shape": (lambda f: edit_weights(f, grown), "has the shape [3, 3]"),
    "weights-missing": (
        lambda f: edit_weights(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        "is missing in its weights",
    ),
    "vocabulary-of-another": (
        lambda f: edit(f, "config.json", vocab_size=300),
        "its config.json says [300, 128]",
    ),
    "head-missing": (lambda f: edit(f, "config.json", tie_word_embeddings=False), "does not tie it"),
    "head-of-its-own": (lambda f: edit_weights(f, another_head), "the weights hold another one"),
    "index-names-a-missing-file": (lambda f: index(f, SHARD), "model-2.safetensors is missing"),
    "index-torn": (lambda f: index(f, "{"), "index.json is not JSON"),
    "index-without-map": (lambda f: index(f, '{"a": 1}'), "has no `weight_map`"),
    "no-tokenizer": (lambda f: [(f / "tokenizer.json").unlink(), f][1], "no tokenizer in"),
    "tokenizer-torn": (
        lambda f: [(f / "tokenizer.json").write_text("{"), f][1],
        "tokenizer.json is not JSON",
    ),
    "tokenizer-config-list": (
        lambda f: [(f / "tokenizer_config.json").write_text("[]"), f][1],
        "tokenizer_config.json must hold a JSON object",
    ),
    "no-end-at-all": (
        lambda f: edit(
            edit(f, "tokenizer_config.json", eos_token=None), "generation_config.json", eos_token_id=None
        ),
        "no token ends a completion",
    ),
    "every-end-beyond": (
        lambda f: edit(
            edit(f, "tokenizer_config.json", eos_token=None), "generation_config.json", eos_token_id=[265, -1]
        ),
        "none is within the 265 tokens",
    ),
    "end-no-number": (
        lambda f: edit(f, "generation_config.json", eos_token_id="</s>"),
        "eos_token_id must be a token id",
    ),
    "no-template": (lambda f: template(f, None), "has no chat template"),
    "template-syntax": (lambda f: template(f, "{% for m in messages %}"), "fails: line 1"),
    "template-long": (lambda f: template(f, LONG), "does not end within"),
    "template-without-question": (lambda f: template(f, "{{ bos_token }}"), "leaves the question out"),
    "template-with-token-beyond": (
        lambda f: add_token(template(f, "<|user|>{{ messages[-1].content }}<new>"), "<new>", 265),
        "'<new>', whose id is beyond",
    ),
    "nested": (nested, "checkpoint-100"),
    "adapter": (lambda f: only(f, adapter_config__json='{"peft_type": "LORA"}'), "holds an adapter"),
    "adapter-beside-a-model": (
        lambda f: [(f / "adapter_config.json").write_text("{}"), f][1],
        "holds an adapter",
    ),
    "gguf": (lambda f: only(f, model__gguf="GGUF"), "holds a GGUF file"),
    "remote-model": (
        lambda f: remote_code(f, "config.json", auto_map={"AutoModelForCausalLM": "code.Model"}),
        "never run here",
    ),
    "remote-config": (
        lambda f: remote_code(f, "config.json", model_type="new", auto_map={"AutoConfig": "code.Config"}),
        "never run here",
    ),
    "remote-tokenizer": (
        lambda f: remote_code(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tok", None]}),
        "never run here",
    ),
    "quantised": (
        lambda f: edit(f, "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantised (gptq)",
    ),
}
"""Folders that are refused, with words of the message."""

LOADED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown-type": (lambda f: edit(f, "config.json", model_type="nonsense"), "model type `nonsense`"),
    "tokenizer-of-no-kind": (
        lambda f: [(f / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "<eos>": 2}}}'), f][1],
        "its tokenizer cannot be loaded",
    ),
}
"""Folders whose fault shows when transformers loads them."""
