"""One variant in one fresh process: check the result, then time it between timings of the products alone.

Reads a JSON job from its argument, prints one JSON object as its last line.
"""

from __future__ import annotations

import ctypes
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.benchmarks.batches import Batch, make_batch
from kernels.benchmarks.variants import PRODUCTS, PRODUCTS_ALONE, loss_of, relative_error
from kernels.token_logprob.dtypes import product_dtype
from kernels.token_logprob.shapes import head_shape

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of `ru_maxrss`: bytes on macOS, kibibytes on Linux (getrusage(2))."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOLERANCE = {"bf16": 5e-2, "fp16": 1e-2, "fp32": 1e-3}
"""Largest error of a gradient over its largest value; peers hold themselves to 5e-2 in bf16."""
SAMPLED = 64
"""Rows of both gradients that are compared with fp64."""
FLUSH_BYTES = 1 << 28
"""Written between timings on a GPU: larger than any L2."""


class Clock:
    """Seconds of one call: wall clock on a CPU, events on a GPU after its L2 has been flushed."""

    def __init__(self, device: str) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if device == "cuda" else None

    def seconds(self, call: Callable[[], Any]) -> float:
        """Runs `call` once."""
        if self._flush is None:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        self._flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3


def products(batch: Batch, dtype: torch.dtype) -> tuple[Callable[[], None], Callable[[], None]]:
    """The forward product, and all three, in `dtype` into buffers made beforehand."""
    x, w = batch.hidden.detach().to(dtype), batch.weight.detach().to(dtype)
    z, dx, dw = x.new_empty(x.shape[0], w.shape[0]), torch.empty_like(x), torch.empty_like(w)

    def forward() -> None:
        torch.mm(x, w.T, out=z)

    def full() -> None:
        forward()
        torch.mm(z, w, out=dx)
        torch.mm(z.T, x, out=dw)

    return forward, full


def check(batch: Batch, gradients: tuple[Tensor, ...]) -> dict[str, float]:
    """Relative error of both gradients on sampled rows, against fp64 from exact log-sum-exps."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(batch.hidden.shape[0], generator=generator)[:SAMPLED].to(batch.hidden.device)
    words = torch.randperm(batch.weight.shape[0], generator=generator)[:SAMPLED].to(batch.hidden.device)
    # Half of the vocabulary rows are targets: these have the largest gradients.
    half = min(len(words) // 2, len(rows))
    words[:half] = batch.targets[rows[:half]]
    x, w = batch.hidden.detach(), batch.weight.detach()
    dtype = product_dtype(torch.float32, x.device.type)
    w_exact = w.to(dtype)
    log_sum_exp = torch.cat(
        [torch.logsumexp(part.to(dtype) @ w_exact.T, -1).double() for part in x.split(128)]
    )
    coefficient = -batch.coefficients.double()
    p_rows = (x[rows].double() @ w.double().T - log_sum_exp[rows, None]).exp()
    dz_rows = -p_rows
    dz_rows[torch.arange(len(rows)), batch.targets[rows]] += 1
    d_hidden = coefficient[rows, None] * dz_rows @ w.double()
    dz_words = (batch.targets[:, None] == words[None, :]).double() - (
        x.double() @ w[words].double().T - log_sum_exp[:, None]
    ).exp()
    d_weight = (coefficient[:, None] * dz_words).T @ x.double()
    return {
        "d_hidden": relative_error(gradients[0][rows], d_hidden),
        "d_weight": relative_error(gradients[1][words], d_weight),
    }


def peak_extra_bytes(call: Callable[[], tuple[Tensor, ...]], device: str) -> int | None:
    """Peak memory of one call above what was there before, less the gradients it returns; None if unknown."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        returned = sum(tensor.nbytes for tensor in call())
        return max(0, torch.cuda.max_memory_allocated() - before - returned)
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_bytes(status, "VmRSS")
    # Resets the peak of the resident set, see proc(5).
    clear.write_text("5")
    returned = sum(tensor.nbytes for tensor in call())
    return max(0, _status_bytes(status, "VmHWM") - before - returned)


def _status_bytes(path: Path, field: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def sm_clock_mhz(device: str) -> float | None:
    """The clock the GPU runs at now; None without a GPU or without its management library."""
    if device != "cuda":
        return None
    try:
        return float(torch.cuda.clock_rate())
    except (RuntimeError, ModuleNotFoundError):
        return None


def passes(variant: str, batch: Batch) -> tuple[Callable[[], None], Callable[[], tuple[Tensor, ...]]]:
    """The forward pass of one variant, and its full pass, which gives the gradients of hidden and weight.

    Products alone have no gradients and give none.
    """
    dtype = batch.hidden.dtype
    if variant in PRODUCTS_ALONE:
        best = product_dtype(dtype, batch.hidden.device.type)
        forward_products, all_products = products(batch, best if variant == PRODUCTS else dtype)

        def no_gradients() -> tuple[Tensor, ...]:
            all_products()
            return ()

        return forward_products, no_gradients
    batch.hidden.requires_grad_()
    batch.weight.requires_grad_()
    loss = loss_of(variant, batch)

    def forward() -> None:
        with torch.no_grad():
            loss(batch)

    return forward, lambda: torch.autograd.grad(loss(batch), (batch.hidden, batch.weight))


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Measures one variant of one case; the keys of `job` are those `kernels.bench` writes.

    A first pass of more than `patience` seconds is not repeated: it is the sample, compiling included.
    """
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    device, variant = job["device"], job["variant"]
    batch = make_batch(head_shape(job["shape"]), job["batch"], DTYPES[job["dtype"]], device)
    result: dict[str, Any] = {
        "tokens": batch.hidden.shape[0],
        "live_rows": int((batch.coefficients != 0).sum()),
    }
    clock, found = Clock(device), list[Tensor]()
    # The buffers of the products are made once: on a GPU they are gigabytes.
    forward_products, all_products = passes(PRODUCTS, batch)
    forward, full = (forward_products, all_products) if variant == PRODUCTS else passes(variant, batch)
    samples: dict[str, list[float]] = {"full": [], "forward": [], "products": [], "products_forward": []}

    def first() -> tuple[Tensor, ...]:
        samples["full"].append(clock.seconds(lambda: found.extend(full())))
        return tuple(found)

    extra = peak_extra_bytes(first, device)
    if job["check"] and found:
        result["error"] = check(batch, tuple(found))
        if max(result["error"].values()) > TOLERANCE[job["dtype"]]:
            return result | {"wrong": True, "tolerance": TOLERANCE[job["dtype"]]}
    found.clear()
    all_products()
    result["once"] = samples["full"][0] > job["patience"]
    if result["once"]:
        samples["products"].append(clock.seconds(all_products))
    else:
        extra = peak_extra_bytes(full, device)
        forward()
        samples["full"].clear()
        calls = {
            "full": full, "products": all_products, "forward": forward, "products_forward": forward_products,
        }  # fmt: skip
        # Both ways round, so that neither side always runs after the other.
        orders = (list(calls), list(reversed(calls)))
        for repeat in range(job["repeats"]):
            for name in orders[repeat % 2]:
                samples[name].append(clock.seconds(calls[name]))
    result["extra_bytes"] = None if variant in PRODUCTS_ALONE else extra
    result["samples"] = samples
    result["sm_clock_mhz"] = sm_clock_mhz(device)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES
    result["ratio"] = statistics.median(a / b for a, b in zip(samples["full"], samples["products"]))
    return result


if __name__ == "__main__":
    print(json.dumps(run_job(json.loads(sys.argv[1]))))
