"""Loading through AutoModel, saving as a plain folder, and the conversion of packaged models."""

from __future__ import annotations

import copy
import dataclasses
import errno
import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.models import loading
from harness.models.catalog import ModelNotFound, resolve_model
from harness.models.converted import check_convertible
from harness.models.loading import load_model, save_model
from harness.spec.recipe import ModelSpec

SPEC = ModelSpec(name="tiny")


@pytest.fixture(scope="module")
def tiny():
    return load_model(resolve_model(SPEC), SPEC, device="cpu")


def test_weights_are_float32_in_evaluation_mode(tiny):
    assert {parameter.dtype for parameter in tiny.model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in tiny.model.parameters())
    assert not tiny.model.training
    assert sum(parameter.numel() for parameter in tiny.model.parameters()) == tiny.source.parameters
    assert tiny.model.get_output_embeddings().weight is tiny.model.get_input_embeddings().weight


def test_the_tokenizer_pads_on_the_left(tiny):
    assert tiny.tokenizer.padding_side == "left"
    assert tiny.tokenizer.pad_token_id not in (None, tiny.tokenizer.eos_token_id)


def test_saved_and_loaded_again_it_says_the_same(tiny, tmp_path):
    save_model(tiny.model, tiny.tokenizer, tmp_path / "saved")
    spec = ModelSpec(name=str(tmp_path / "saved"))
    again = load_model(resolve_model(spec), spec, device="cpu")
    tokens = torch.tensor([tiny.tokenizer("12+7=", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(again.model(tokens).logits, tiny.model(tokens).logits, rtol=0, atol=0)
    assert again.tokenizer.chat_template == tiny.tokenizer.chat_template


def test_dropout_is_off_in_every_module(tiny, tmp_path):
    model = copy.deepcopy(tiny.model)
    model.config.attention_dropout = 0.3
    save_model(model, tiny.tokenizer, tmp_path / "dropping")
    spec = ModelSpec(name=str(tmp_path / "dropping"))
    loaded = load_model(resolve_model(spec), spec, device="cpu").model.train()
    layers = [module for module in loaded.modules() if hasattr(module, "attention_dropout")]
    assert layers
    assert all(module.attention_dropout == 0 for module in layers)
    tokens = torch.tensor([tiny.tokenizer("12+7=", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, loaded(tokens).logits)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(tiny, attention):
    model = load_model(tiny.source, ModelSpec(name="tiny", attention=attention), device="cpu").model
    tokens = torch.tensor([tiny.tokenizer("12+7+35=", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, tiny.model(tokens).logits, rtol=1e-4, atol=1e-4)


def test_what_transformers_rejects_is_told():
    spec = ModelSpec(name="tiny", attention="flash_attention_2")
    with pytest.raises(ModelNotFound, match="model 'tiny' cannot be loaded: "):
        load_model(resolve_model(SPEC), spec, device="cpu")


@pytest.fixture
def packaged(tiny, tmp_path, monkeypatch):
    """A packaged model whose conversion gives `tiny`'s weights, and a count of conversions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    conversions = []

    def convert(folder, gguf_file):
        conversions.append(gguf_file)
        model = AutoModelForCausalLM.from_pretrained(tiny.source.path, dtype=torch.bfloat16)
        return model, AutoTokenizer.from_pretrained(tiny.source.path)

    monkeypatch.setattr(loading, "_from_gguf", convert)
    source = dataclasses.replace(tiny.source, kind="packaged", gguf_file="model.gguf", fingerprint="f" * 64)
    return source, conversions


def test_a_packaged_model_is_converted_once(packaged, tmp_path):
    source, conversions = packaged
    first = load_model(source, SPEC, device="cpu")
    second = load_model(source, SPEC, device="cpu")
    assert conversions == ["model.gguf"]
    assert {parameter.dtype for parameter in second.model.parameters()} == {torch.float32}
    for one, two in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)
    folder = tmp_path / "cache" / "grpo-ablation-harness" / "models" / ("f" * 16)
    assert resolve_model(ModelSpec(name=str(folder))).parameters == source.parameters


def test_a_conversion_that_fails_leaves_nothing_behind(packaged, tmp_path, monkeypatch):
    source, _ = packaged

    def interrupted(model, tokenizer, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loading, "save_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_model(source, SPEC, device="cpu")
    models = tmp_path / "cache" / "grpo-ablation-harness" / "models"
    assert [path.name for path in models.iterdir() if path.is_dir()] == []
    assert load_model(source, SPEC, device="cpu").model is not None


def test_a_half_written_copy_of_a_killed_process_is_made_anew(packaged, tmp_path):
    source, conversions = packaged
    target = tmp_path / "cache" / "grpo-ablation-harness" / "models" / ("f" * 16)
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    stray = target.with_name(target.name + ".dead")
    stray.mkdir()
    (stray / "model.safetensors").write_bytes(b"x")
    assert load_model(source, SPEC, device="cpu").model is not None
    assert not stray.exists()
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    load_model(source, SPEC, device="cpu")
    (target / "tokenizer.json").write_text("{")
    load_model(source, SPEC, device="cpu")
    load_model(source, SPEC, device="cpu")
    assert len(conversions) == 3


@pytest.mark.parametrize("place", ["a file", "a file above", "/proc/nowhere", "a loop"])
def test_a_cache_that_cannot_be_written_is_named(packaged, tmp_path, monkeypatch, place):
    source, conversions = packaged
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {"a file": "file", "a file above": "file/below", "a loop": "loop"}
    cache = tmp_path / places[place] if place in places else place
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for work in (check_convertible, lambda s: load_model(s, SPEC, device="cpu")):
        with pytest.raises(ModelNotFound, match="its converted copy cannot be written in") as told:
            work(source)
        assert str(cache) in told.value.message
        assert "XDG_CACHE_HOME" in told.value.hint
    assert conversions == []


def test_without_a_home_there_is_no_cache(packaged, monkeypatch):
    source, _ = packaged

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", nobody)
    with pytest.raises(ModelNotFound, match="set XDG_CACHE_HOME"):
        check_convertible(source)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_while_converting(packaged, tmp_path, monkeypatch, error):
    source, _ = packaged

    def full(model, tokenizer, folder):
        (folder / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(loading, "save_model", full)
    with pytest.raises(ModelNotFound, match="no space left on device\n  set XDG_CACHE_HOME"):
        load_model(source, SPEC, device="cpu")
    models = tmp_path / "cache" / "grpo-ablation-harness" / "models"
    assert [path.name for path in models.iterdir() if path.is_dir()] == []


def test_a_disk_without_room_is_told_before_converting(packaged, monkeypatch):
    source, _ = packaged
    check_convertible(source)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(ModelNotFound, match=r"it takes 0\.00 GiB, 0\.00 are free"):
        check_convertible(source)


def test_other_errors_of_a_conversion_are_not_the_caches(packaged, monkeypatch):
    source, _ = packaged
    monkeypatch.setattr(loading, "save_model", lambda *a: (_ for _ in ()).throw(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        load_model(source, SPEC, device="cpu")


def _folder(source, results):
    results.put(str(loading.model_folder(source)))


def test_two_processes_may_convert_at_once(packaged):
    source, conversions = packaged
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_folder, args=(source, results)) for _ in range(2)]
    for process in processes:
        process.start()
    folders = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(folders) == 1
    assert load_model(source, SPEC, device="cpu").model is not None
    assert conversions == []


@pytest.mark.slow
def test_the_real_packaged_model_answers(tmp_path):
    spec = ModelSpec(name="HuggingFaceTB/SmolLM2-135M-Instruct")
    loaded = load_model(resolve_model(spec), spec, device="cpu")
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = loaded.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(output[0], skip_special_tokens=True)
