"""vLLM in this process: building it, sampling, scoring, loading weights, sleeping. Knows nothing of the policy.

B requests, V vocabulary.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import mmap
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.rollout.engine import Completion, Request, Sampling

BLOCK_TOKENS = 32
"""Tokens in a block of the key-value cache on a CPU: a prompt's whole blocks are computed once for its group."""

_TRIM_FROM_BYTES = 64 * 2**20
"""Weights from which handing freed memory back is worth the page faults that follow."""


def vllm_available() -> bool:
    """Whether vLLM is installed; imports nothing."""
    return importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True, kw_only=True)
class CoreOptions:
    """What a core is built from; plain data, so that it can be sent to another process.

    Attributes:
        folder: holds the model's `config.json`; weights come through `load_weights`.
        dtype: of weights and computation.
        device: where it runs.
        context_tokens: longest prompt and completion together.
        max_sequences: sequences decoded together.
        cache_gib: room for keys and values on a CPU, in GiB.
        memory_utilization: share of a GPU's memory that vLLM takes.
        cuda_graphs: capture CUDA graphs.
        sleep: whether the core may be put to sleep.
        end_ids: tokens that end a completion.
        vocabulary: rows of the head that are tokens; those from there on are padding and are never sampled.
    """

    folder: str
    dtype: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    context_tokens: int
    max_sequences: int
    cache_gib: float
    memory_utilization: float
    cuda_graphs: bool
    sleep: bool
    end_ids: tuple[int, ...]
    vocabulary: int


class VllmCore:
    """One vLLM engine.

    The log-probs that it returns are of the tempered distribution before top-p, as `Completion` wants them: vLLM's
    own are either untempered (`raw_logprobs`) or after the filters (`processed_logprobs`), so the log-softmax is
    taken between temperature and filters.
    """

    def __init__(self, options: CoreOptions) -> None:
        self._options = options
        self._weight_bytes = 0
        with _quiet_start():
            from vllm import LLM

            _register_classes(options.folder)
            placed: dict[str, Any] = (
                {
                    "block_size": BLOCK_TOKENS,
                    "kv_cache_memory_bytes": int(options.cache_gib * 2**30),
                    "enforce_eager": True,
                    # After a part of a prompt vLLM takes back the draw of a request's own generator, which a CPU
                    # generator cannot.
                    "enable_chunked_prefill": False,
                }
                if options.device == "cpu"
                else {
                    "gpu_memory_utilization": options.memory_utilization,
                    "enforce_eager": not options.cuda_graphs,
                    "enable_sleep_mode": options.sleep,
                }
            )
            self.llm = LLM(
                model=options.folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=options.dtype,
                max_model_len=options.context_tokens,
                max_num_seqs=options.max_sequences,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                seed=0,
                **placed,
            )
        self.llm.collective_rpc(_score_before_filters)
        self.llm.collective_rpc(_mask_padding, args=(options.vocabulary,))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Samples one completion per request in one call, in the order of the requests."""
        from vllm import SamplingParams

        # Nothing is shared with earlier calls, so that the same call gives the same floats after a restart too.
        self.llm.reset_prefix_cache()
        parameters = [
            SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=request.seed,
                logprobs=0,
                stop_token_ids=list(self._options.end_ids),
                ignore_eos=True,  # the end tokens are named above
                detokenize=False,
            )
            for request in requests
        ]
        prompts: list[Any] = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        return [self._completion(output.outputs[0]) for output in outputs]

    def _completion(self, output: Any) -> Completion:
        ids = tuple(int(token) for token in output.token_ids)
        logprobs = tuple(float(at[token].logprob) for at, token in zip(output.logprobs, ids, strict=True))
        return Completion(ids, logprobs, ids[-1] not in self._options.end_ids)

    def score(self, ids: Sequence[int]) -> list[float]:
        """Untempered log-prob of each token of `ids` after the first, given those before it."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        prompt: Any = {"prompt_token_ids": list(ids)}
        (output,) = self.llm.generate([prompt], parameters, use_tqdm=False)
        at: Any = output.prompt_logprobs
        return [float(at[i][ids[i]].logprob) for i in range(1, len(ids))]

    def load_weights(self, weights: Sequence[tuple[str, Tensor]], *, shared: bool = False) -> None:
        """Replaces all weights by `weights`, in the checkpoint's names and shapes.

        Where `shared`, on a CPU the embedding is not copied but looked up in the tensor that was given, which must
        then stay as it is until the next call.
        """
        self._weight_bytes = sum(tensor.nbytes for _, tensor in weights)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(weights)})
        if self._options.device == "cpu":
            self.llm.collective_rpc(_repack_tied_head)
            if shared:
                self.llm.collective_rpc(_share_embedding, args=(dict(weights),))
            if self._weight_bytes >= _TRIM_FROM_BYTES:
                _return_to_system()
        self.llm.reset_prefix_cache()

    def sleep(self, level: int) -> None:
        """Frees cache and weights: at level 1 these move to the host, at 2, and on a CPU, they are dropped."""
        if self._options.device == "cpu":
            self.llm.collective_rpc(_drop_weights_and_cache)
            if self._weight_bytes >= _TRIM_FROM_BYTES:
                _return_to_system()
        else:
            self.llm.sleep(level=level)

    def wake_up(self) -> None:
        """Ends the sleep. Weights that were dropped must be loaded again."""
        if self._options.device != "cpu":
            self.llm.wake_up()

    def close(self) -> None:
        """Releases vLLM's process group, its cache and its weights."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        with contextlib.suppress(Exception):  # a crashed engine may not shut down cleanly
            self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cleanup_dist_env_and_memory()
        gc.collect()


class _BeforeFilters(nn.Module):
    """vLLM's filtered sampling, whose log-probs are taken from the tempered logits [B, V] before the filters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        tokens, _ = self.inner(logits, generators, k, p)
        return tokens, logprobs


def _register_classes(folder: str) -> None:
    """Imports the model's class here; vLLM would start another Python just to look at it."""
    from vllm import ModelRegistry

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    for name in config["architectures"]:
        lazy = ModelRegistry.models.get(name)
        if lazy is not None:
            ModelRegistry.register_model(name, lazy.load_model_cls())


def _score_before_filters(worker: Any) -> None:
    sampler = worker.model_runner.sampler
    sampler.topk_topp_sampler.logprobs_mode = "raw_logprobs"  # its own would be computed for nothing
    sampler.topk_topp_sampler = _BeforeFilters(sampler.topk_topp_sampler)


def _mask_padding(worker: Any, vocabulary: int) -> None:
    """Gives rows of the head that are no tokens probability 0, in sampling and in the scores of a prompt.

    vLLM's own parameters can name tokens to allow, request by request and at a cost by their number; and its greedy
    sampling passes by the sampler's filters.
    """
    model = worker.model_runner.get_model()
    if vocabulary >= model.config.get_text_config().vocab_size:
        return
    compute = model.compute_logits

    def masked(*args: Any, **kwargs: Any) -> Tensor | None:
        logits: Tensor | None = compute(*args, **kwargs)
        if logits is not None:  # of a rank that does not gather them
            logits[..., vocabulary:] = -torch.inf
        return logits

    model.compute_logits = masked


def _repack_tied_head(worker: Any) -> None:
    """A tied head keeps a packed copy of the embedding, which vLLM's reload leaves as it was."""
    model = worker.model_runner.get_model()
    head = getattr(model, "lm_head", None)
    embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
    if head is None or embedding is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    embedding.cpu_linear = None  # packed like a head by the reload, and never multiplied with
    head.cpu_linear = None
    head.weight = embedding.weight
    head.quant_method.process_weights_after_loading(head)


def _share_embedding(worker: Any, weights: dict[str, Tensor]) -> None:
    """The one weight that a CPU does not pack: vLLM's copy of it would be the largest tensor of a small model."""
    for name, parameter in worker.model_runner.get_model().named_parameters():
        given = weights.get(name)
        if not name.endswith("embed_tokens.weight") or given is None or not given.is_contiguous():
            continue
        if (given.shape, given.dtype) == (parameter.shape, parameter.dtype):
            parameter.data = given


def _drop_weights_and_cache(worker: Any) -> None:
    """What vLLM's sleep does on a GPU. The embedding stays, for loading writes into it."""
    for module in worker.model_runner.get_model().modules():
        if getattr(module, "cpu_linear", None) is not None:
            module.cpu_linear = None  # held the packed weight
    storages = {cache.untyped_storage().data_ptr(): cache for cache in worker.model_runner.kv_caches}
    for start, cache in storages.items():  # layers share one
        _drop_pages(start, cache.untyped_storage().nbytes())


def _drop_pages(start: int, size: int) -> None:
    """Gives whole pages from `start` on back to the system, which fills in zeros as they are touched again.

    The address stays valid, so nothing that looks there needs to know, and no page costs anything before its use.
    """
    if sys.platform != "linux":
        return
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


def _return_to_system() -> None:
    """glibc keeps what was freed for this process; the system, and the peak that is measured, see it still in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Undoes what vLLM's start does to the process around it: environment, thread setting, warnings."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    environment = dict(os.environ)
    # One process for engine and worker; the sampler that `_score_before_filters` knows.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    set_num_threads = torch.set_num_threads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads = set_num_threads
        for name in ("LD_PRELOAD", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER"):
            if name in environment:
                os.environ[name] = environment[name]
            else:
                os.environ.pop(name, None)
