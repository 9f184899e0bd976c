"""The vLLM engine on a CPU, against transformers and against itself."""

import copy
import mmap
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from scipy import stats

from harness.models.catalog import resolve_model
from harness.models.loading import load_model
from harness.rollout.engine import Request, Sampling
from harness.rollout.transformers_engine import TransformersEngine
from harness.rollout.vllm_core import vllm_available
from harness.rollout.vllm_engine import EngineFailed, VllmEngine
from harness.spec.recipe import ModelSpec, VllmSpec
from harness.spec.seeds import derive_seed
from tests.harness.models import folders

pytestmark = pytest.mark.skipif(not vllm_available(), reason="vLLM is not installed")


class Setup:
    """A policy, an engine over it, and requests."""

    def __init__(self):
        spec = ModelSpec(name="tiny")
        self.loaded = load_model(resolve_model(spec), spec)
        self.policy = self.loaded.model
        self.untrained = copy.deepcopy(self.policy.state_dict())
        self.end_ids = self.loaded.special.end_ids
        self.events = []
        self.engine = self.build(VllmSpec(cache_gib=0.25))
        encode = self.loaded.tokenizer.encode
        # Longer than a block of the cache, so that prompts of a group share one.
        questions = ["12+7=", "3+4+5=", "88+19+40+27=", "+".join("73481562" * 2) + "="]
        self.requests = [
            Request(tuple(encode(question)), derive_seed("vllm", i, j))
            for i, question in enumerate(questions)
            for j in range(6)
        ]

    def build(self, spec, **options):
        return VllmEngine(
            self.policy,
            end_ids=self.end_ids,
            spec=spec,
            bf16=False,
            context_tokens=128,
            on_event=lambda kind, message: self.events.append((kind, message)),
            **options,
        )

    def truth(self, request, completion, temperature):
        """Log-probs of a completion by a plain forward pass."""
        ids = torch.tensor([request.prompt_ids + completion.token_ids])
        with torch.no_grad():
            logits = self.policy(ids).logits[0, len(request.prompt_ids) - 1 : -1]
        logprobs = torch.log_softmax(logits / temperature, -1)
        return logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]


@pytest.fixture(scope="module")
def setup():
    held = Setup()
    yield held
    held.engine.close()


@pytest.fixture(autouse=True)
def _untrained(setup):
    yield
    setup.policy.load_state_dict(setup.untrained)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.3, 0.8)])
def test_logprobs_are_the_trainers_at_the_sampling_temperature(setup, temperature, top_p):
    completions = setup.engine.generate(setup.requests, Sampling(40, temperature, top_p))
    assert {c.truncated for c in completions} <= {True, False}
    for request, completion in zip(setup.requests, completions):
        truth = setup.truth(request, completion, temperature)
        torch.testing.assert_close(torch.tensor(completion.logprobs), truth, rtol=1e-4, atol=1e-4)


def test_more_prompts_than_one_batch_of_vllm_holds(setup):
    """With a part of a prompt in a batch, vLLM would set back the request's generator, which fails on a CPU."""
    core = setup.engine.awake().llm.llm_engine.vllm_config.scheduler_config
    # Each begins in its own way, so that none finds its blocks in the cache; the last ones do not fit whole.
    length, encode = 64, setup.loaded.tokenizer.encode
    count = core.max_num_batched_tokens // length + 2
    prompts = ["+".join(f"{derive_seed('prompt', i):020d}"[-20:]) * 3 for i in range(count)]
    requests = [
        Request(tuple(encode(prompt))[: length - 1], derive_seed("many", i))
        for i, prompt in enumerate(prompts)
    ]
    assert count <= core.max_num_seqs
    assert len({r.prompt_ids[:32] for r in requests}) == count
    assert sum(len(r.prompt_ids) for r in requests) > core.max_num_batched_tokens
    completions = setup.engine.generate(requests, Sampling(3, 1.0, 1.0))
    for request, completion in list(zip(requests, completions))[-3:]:
        truth = setup.truth(request, completion, 1.0)
        torch.testing.assert_close(torch.tensor(completion.logprobs), truth, rtol=1e-4, atol=1e-4)


def test_greedy_ends_and_caps_are_those_of_the_transformers_engine(setup):
    other = TransformersEngine(
        setup.policy, end_ids=setup.end_ids, pad_id=setup.loaded.tokenizer.pad_token_id
    )
    for cap in (1, 3, 60):
        sampling = Sampling(cap, temperature=0.0)
        mine, theirs = (engine.generate(setup.requests[::6], sampling) for engine in (setup.engine, other))
        assert [(c.token_ids, c.truncated) for c in mine] == [(c.token_ids, c.truncated) for c in theirs]
        for a, b in zip(mine, theirs):
            np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=1e-4, atol=1e-4)
    assert not any(c.truncated for c in mine)


def test_samples_follow_the_distribution_within_top_p(setup):
    prompt = setup.requests[-1].prompt_ids
    with torch.no_grad():
        setup.policy.get_input_embeddings().weight.mul_(0.3)  # flat enough for many likely tokens
        setup.engine.update_weights()
        logits = setup.policy(torch.tensor([prompt])).logits[0, -1].double()
    expected = torch.softmax(logits / 1.5, -1)
    ordered, order = expected.sort(descending=True)
    kept = order[(ordered.cumsum(0) - ordered) < 0.9]
    count = 2000
    requests = [Request(prompt, derive_seed("chi2", i)) for i in range(count)]
    drawn = [c.token_ids[0] for c in setup.engine.generate(requests, Sampling(1, 1.5, 0.9))]
    observed = np.bincount(drawn, minlength=len(expected))
    assert observed[kept.numpy()].sum() == count
    share = (expected[kept] / expected[kept].sum()).numpy() * count
    likely = share > 5
    chi2 = ((observed[kept.numpy()] - share)[likely] ** 2 / share[likely]).sum()
    assert likely.sum() > 3
    assert chi2 < stats.chi2.ppf(0.9999, likely.sum() - 1)


def test_a_call_repeats_itself_whatever_came_before(setup):
    sampling = Sampling(40, 1.0)
    first = setup.engine.generate(setup.requests, sampling)
    setup.engine.generate(setup.requests[3:9], Sampling(7, 0.5))
    assert setup.engine.generate(setup.requests, sampling) == first
    assert len({c.token_ids for c in first[-6:]}) > 1
    # Draws belong to the request, so neither its place nor its company changes what is sampled.
    assert [c.token_ids for c in setup.engine.generate(setup.requests[::-1], sampling)] == [
        c.token_ids for c in first[::-1]
    ]
    assert [c.token_ids for c in setup.engine.generate(setup.requests[7:9], sampling)] == [
        c.token_ids for c in first[7:9]
    ]


def test_sync_brings_every_weight_over(setup):
    setup.engine.update_weights()
    before = setup.engine.scores()
    torch.testing.assert_close(before, setup.engine.policy_scores(), rtol=1e-4, atol=1e-4)
    generator = torch.Generator().manual_seed(5)
    # Each tensor by itself: the tied head, norms and biases are loaded in different ways.
    for name, parameter in setup.policy.named_parameters():
        if "layers.1" in name or "layers.2" in name:
            continue
        with torch.no_grad():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
        stale = (setup.engine.scores() - setup.engine.policy_scores()).abs().max()
        setup.engine.update_weights()
        fresh = (setup.engine.scores() - setup.engine.policy_scores()).abs().max()
        assert fresh < 1e-3 * max(1.0, float(setup.engine.policy_scores().abs().max())), name
        if parameter.abs().max() > 0 and "k_proj.bias" not in name:  # softmax is blind to a key's bias
            assert stale > fresh, name
    assert setup.engine.mismatch < 1e-4
    assert (setup.engine.scores() - before).abs().max() > 0.1


def test_weights_that_do_not_arrive_are_told(setup, monkeypatch):
    core = setup.engine.core
    with torch.no_grad():
        setup.policy.get_input_embeddings().weight.mul_(2)
    monkeypatch.setattr(core, "load_weights", lambda weights, shared: None)
    with pytest.raises(EngineFailed, match="after the weights were loaded"):
        setup.engine.update_weights()
    monkeypatch.undo()
    setup.policy.load_state_dict(setup.untrained)
    setup.engine.update_weights()


def test_a_crash_inside_the_engine_costs_no_completion(setup):
    with torch.no_grad():
        setup.policy.get_input_embeddings().weight.mul_(1.05)
    setup.engine.update_weights()
    sampling = Sampling(40, 1.0)
    first = setup.engine.generate(setup.requests, sampling)
    runner = setup.engine.core.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    forward, calls = runner.execute_model, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError("the device fell over")
        return forward(*args, **kwargs)

    runner.execute_model = failing
    assert setup.engine.generate(setup.requests, sampling) == first
    assert len(calls) == 8
    assert setup.engine.restarts == 1
    assert setup.events.pop() == (
        "engine_restarted",
        "vLLM failed and was started again: the device fell over",
    )


def test_a_temperature_that_vllm_refuses_is_told_at_once(setup):
    with pytest.raises(ValueError, match=r"`temperature` must be at most 2 .*, got 2\.5"):
        setup.engine.generate(setup.requests, Sampling(4, 2.5))


def test_an_engine_that_keeps_failing_gives_up(setup, monkeypatch):
    def broken(options):
        raise RuntimeError("no memory left")

    engine = setup.build(VllmSpec())
    monkeypatch.setattr("harness.rollout.vllm_engine.VllmCore", broken)
    with pytest.raises(EngineFailed, match="3 times in a row: no memory left"):
        engine.generate(setup.requests, Sampling(4))
    assert len(setup.events) == 2
    setup.events.clear()


def assert_alike(found, wanted):
    """Equal but for the order of summation of several threads, whose last bit may, very rarely, tip a draw."""
    same = [(a, b) for a, b in zip(found, wanted, strict=True) if a.token_ids == b.token_ids]
    assert len(same) >= len(wanted) - 2
    for a, b in same:
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_an_engine_of_its_own_survives_a_kill_in_mid_step(setup):
    sampling = Sampling(40, 1.0)
    setup.engine.update_weights()
    here = setup.engine.generate(setup.requests, sampling)
    engine = setup.build(VllmSpec(placement="own", cache_gib=0.25))
    try:
        assert_alike(engine.generate(setup.requests, sampling), here)
        process = engine.core.process
        long = [Request(r.prompt_ids, derive_seed("long", i)) for i, r in enumerate(setup.requests * 5)]
        killer = threading.Thread(target=lambda: (time.sleep(0.3), os.kill(process.pid, signal.SIGKILL)))
        killer.start()
        completions = engine.generate(long, sampling)
        killer.join()
        assert process.wait() == -signal.SIGKILL
        assert engine.restarts == 1
        assert_alike(completions, setup.engine.generate(long, sampling))
    finally:
        engine.close()
    assert engine.core is None


def test_a_resting_engine_holds_neither_cache_nor_packed_weights_and_wakes_as_it_was(setup):
    sampling = Sampling(40, 1.0)
    setup.engine.update_weights()
    first, restarts = setup.engine.generate(setup.requests, sampling), setup.engine.restarts
    runner = setup.engine.core.llm.llm_engine.model_executor.driver_worker.model_runner
    assert all(module.cpu_linear for module in linears(runner))
    caches = runner.kv_caches
    for cache in caches:
        cache.fill_(1.0)
    held = caches[0].untyped_storage().nbytes()
    assert held > 0.2 * 2**30

    resident = psutil.Process().memory_info().rss
    setup.engine.sleep()
    setup.engine.sleep()  # already asleep
    assert resident - psutil.Process().memory_info().rss > 0.9 * held
    # The first and the last page may hold something else too.
    assert sum(int(cache.count_nonzero()) for cache in caches) <= 2 * mmap.PAGESIZE // caches[0].itemsize
    assert not any(module.cpu_linear for module in linears(runner))
    assert setup.engine.generate(setup.requests, sampling) == first

    setup.engine.sleep()
    with torch.no_grad():
        setup.policy.get_input_embeddings().weight.mul_(1.5)
    setup.engine.update_weights()
    assert setup.engine.mismatch < 1e-4
    assert setup.engine.generate(setup.requests, sampling) != first
    assert setup.engine.restarts == restarts


def linears(runner):
    """Modules with a packed weight; the embedding, which is never multiplied with, may have one that is not used."""
    model = runner.get_model()
    return [m for m in model.modules() if hasattr(m, "cpu_linear") and m is not model.model.embed_tokens]


def test_an_embedding_as_vllm_lays_it_is_the_policys_own(setup):
    config = copy.deepcopy(setup.policy.config)
    config.vocab_size = 320  # vLLM pads a vocabulary to a multiple of 64
    torch.manual_seed(0)
    policy = type(setup.policy)(config).eval()
    engine = VllmEngine(policy, end_ids=(0,), spec=VllmSpec(cache_gib=0.1), bf16=False, context_tokens=128)
    try:
        embedding = policy.get_input_embeddings().weight
        for _ in range(2):
            with torch.no_grad():
                embedding.mul_(3.0)
            before = embedding.detach().clone()
            engine.update_weights()
            assert engine.mismatch < 1e-4
            runner = engine.core.llm.llm_engine.model_executor.driver_worker.model_runner
            assert runner.get_model().model.embed_tokens.weight.data_ptr() == embedding.data_ptr()
            engine.generate(setup.requests, Sampling(4))
            assert torch.equal(embedding, before)
    finally:
        engine.close()


def test_padded_rows_are_masked_and_every_end_token_ends(setup, tmp_path):
    """Rows that are no tokens would be sampled nearly always. Greedy decoding and the probe are masked too."""
    folder = folders.pad_vocabulary(folders.copy_tiny(tmp_path / "m"), 288, bias=3.0)
    folders.edit(folder, "generation_config.json", eos_token_id=[2, 33])
    spec = ModelSpec(name=str(folder))
    loaded = load_model(resolve_model(spec), spec)
    special = loaded.special
    engine = VllmEngine(
        loaded.model,
        end_ids=special.end_ids,
        vocabulary=special.vocabulary,
        spec=VllmSpec(cache_gib=0.1),
        bf16=False,
        context_tokens=128,
    )
    other = TransformersEngine(
        loaded.model, end_ids=special.end_ids, pad_id=special.pad_id, vocabulary=special.vocabulary
    )
    try:
        engine.update_weights()
        assert engine.mismatch < 1e-4
        sampled = engine.generate(setup.requests, Sampling(40, 1.0, 0.9))
        assert all(token < 265 for c in sampled for token in c.token_ids)
        assert {c.token_ids[-1] for c in sampled if not c.truncated} == {2, 33}
        for request, completion in zip(setup.requests, sampled):
            # The model without the padding says what the log-probs are.
            truth = setup.truth(request, completion, 1.0)
            torch.testing.assert_close(torch.tensor(completion.logprobs), truth, rtol=1e-4, atol=1e-4)
        greedy = Sampling(40, temperature=0.0)
        mine, theirs = (e.generate(setup.requests[::6], greedy) for e in (engine, other))
        assert [(c.token_ids, c.truncated) for c in mine] == [(c.token_ids, c.truncated) for c in theirs]
    finally:
        engine.close()


def test_an_engine_that_fails_to_rest_is_built_anew(setup, monkeypatch):
    sampling = Sampling(8, 1.0)
    setup.events.clear()
    engine = setup.build(VllmSpec(cache_gib=0.1))
    try:
        first = engine.generate(setup.requests, sampling)
        monkeypatch.setattr(engine.core, "sleep", lambda level: 1 / 0)
        engine.sleep()
        assert engine.restarts == 1
        assert engine.generate(setup.requests, sampling) == first
        assert [kind for kind, _ in setup.events] == ["engine_restarted"]
    finally:
        engine.close()
        setup.events.clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("level", [1, 2])
def test_a_colocated_engine_on_a_gpu_rests_and_wakes_with_its_weights(level):
    spec = ModelSpec(name="tiny", dtype="bfloat16")
    loaded = load_model(resolve_model(spec), spec, device="cuda")
    engine = VllmEngine(
        loaded.model,
        end_ids=loaded.special.end_ids,
        spec=VllmSpec(sleep_level=level, memory_utilization=0.2, cuda_graphs=False),
        bf16=True,
        context_tokens=128,
    )
    try:
        ids = tuple(loaded.tokenizer.encode("12+7="))
        requests = [Request(ids, derive_seed("sleep", i)) for i in range(16)]
        first = engine.generate(requests, Sampling(24, 1.0))
        engine.sleep()
        asleep, total = torch.cuda.mem_get_info()
        assert engine.generate(requests, Sampling(24, 1.0)) == first
        assert total - asleep < 0.1 * total
        with torch.no_grad():
            loaded.model.get_input_embeddings().weight.mul_(1.5)
        engine.update_weights()
        assert engine.mismatch < 0.3
        assert engine.generate(requests, Sampling(24, 1.0)) != first
    finally:
        engine.close()
