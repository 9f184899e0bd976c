"""A measured process of the gate: builds the workloads, then times calls as the parent process asks.

Run as a file, `python -P worker.py JOB`, with the measured source tree first on the search path, so the workloads are
the gate's and the code they call is the tree's. It prints lines of JSON: first `{"ready": …}` with what the parent
compares across trees, then for each line `name calls` on standard input the seconds of each call.

On a CPU, calls are timed by the process's CPU time as well as by the wall clock, because other processes on the core
add to the latter. Memory is measured once, before any turn.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of `ru_maxrss`: bytes on macOS, kibibytes on Linux (getrusage(2))."""

Call = Callable[[], Any]
Workload = tuple[Call, dict[str, Any]]
"""A call to time, and figures: `problem` (digest of the inputs), `error`, `memory` (bytes by name)."""

GRPO_SHAPE = (16, 128)
"""B, T of the GRPO loss's problem."""
MEMORY_CALLS = 5


class WrongResult(Exception):
    """The tree computes wrong results, so it is not timed."""


def digest(*tensors: torch.Tensor) -> str:
    """Digest of a problem's inputs, which the parent compares across trees."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().double().numpy().tobytes())
    return hashed.hexdigest()[:16]


def token_logprob(job: Mapping[str, Any], name: str) -> Workload:
    """Forward and backward pass of the head, whose gradients are checked first; `name` is `shape batch variant`."""
    from kernels.benchmarks.batches import BatchKind, make_batch
    from kernels.benchmarks.variants import loss_of
    from kernels.benchmarks.worker import DTYPES, TOLERANCE, check, peak_extra_bytes
    from kernels.token_logprob.shapes import head_shape

    shape, kind, variant = name.split()
    batch = make_batch(head_shape(shape), cast(BatchKind, kind), DTYPES[job["dtype"]], job["device"])
    problem = digest(batch.hidden[:64], batch.weight[:64], batch.mask, batch.advantages)
    leaves = (batch.hidden.requires_grad_(), batch.weight.requires_grad_())
    loss = loss_of(variant, batch)

    def call() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss(batch), leaves)

    error = max(check(batch, call()).values())
    if not error <= TOLERANCE[job["dtype"]]:
        raise WrongResult(f"a gradient is wrong by {error:.1e} of its largest value")
    # The operating system may reclaim pages during a measurement, so the median of several is taken.
    several = [peak_extra_bytes(call, job["device"]) for _ in range(MEMORY_CALLS)]
    known = [value for value in several if value is not None]
    extra = statistics.median(known) if len(known) == MEMORY_CALLS else None
    return call, {"problem": problem, "error": error, "memory": {} if extra is None else {"extra": extra}}


def grpo_loss(job: Mapping[str, Any], name: str) -> Workload:
    """Loss and gradient of one objective; `name` is its loss type."""
    from kernels.grpo_loss import Objective, grpo_loss

    generator = torch.Generator().manual_seed(0)
    shape = GRPO_SHAPE
    old = -torch.rand(shape, generator=generator)
    logprob = (old + 0.05 * torch.randn(shape, generator=generator)).to(job["device"])
    old, mask = old.to(job["device"]), torch.ones(shape, device=job["device"])
    mask[:, shape[1] * 3 // 4 :] = 0
    advantages = torch.randn(shape[0], generator=generator).to(job["device"])
    logprob.requires_grad_()
    loss: Any = name
    objective = Objective(loss=loss)

    def call() -> tuple[torch.Tensor, ...]:
        out = grpo_loss(logprob, advantages, mask, objective=objective, old_logprob=old)
        return torch.autograd.grad(out.loss, logprob)

    (gradient,) = call()
    if not bool(torch.isfinite(gradient).all()):
        raise WrongResult("a gradient is not finite")
    return call, {"problem": digest(logprob, old, advantages, mask), "memory": {}}


def training(job: Mapping[str, Any], name: str) -> Workload:
    """One training step of the job's recipe: rollout, reward, update."""
    from harness.regression.trainer import training_step

    call, problem = training_step(job["recipe"], job["device"])
    return call, {"problem": problem, "memory": {}}


KINDS = {"token_logprob": token_logprob, "grpo_loss": grpo_loss, "training": training}


def build(job: Mapping[str, Any]) -> dict[str, Workload]:
    """Builds and warms up the job's workloads, which are named `kind:rest`."""
    made = {}
    for full in job["cases"]:
        kind, _, rest = full.partition(":")
        try:
            made[full] = KINDS[kind](job, rest)
        except Exception as error:
            raise RuntimeError(
                f"{full}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            ) from error
        for _ in range(2):
            made[full][0]()
    return made


def timed(call: Call, calls: int, device: str) -> tuple[list[float], list[float]]:
    """CPU seconds and wall-clock seconds of each call; on a GPU both are wall-clock seconds up to synchronisation."""
    own, wall = [], []
    if device == "cuda":
        torch.cuda.synchronize()
    for _ in range(calls):
        begin_own, begin = time.process_time(), time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - begin)
        own.append(wall[-1] if device == "cuda" else time.process_time() - begin_own)
    return own, wall


def only_this_tree() -> None:
    """Removes import finders of editable installs, which would import from another checkout what this tree lacks."""
    sys.meta_path[:] = [
        f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")
    ]


def main() -> None:
    """Serves turns until standard input ends."""
    job = json.loads(sys.argv[1])
    # Standard output is for the protocol alone; whatever libraries print goes to standard error.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    only_this_tree()
    made = build(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES
    ready = {
        "cases": {name: figures for name, (_, figures) in made.items()},
        "peak_rss_bytes": peak,
        "device": torch.cuda.get_device_name() if job["device"] == "cuda" else "cpu",
        "torch": torch.__version__,
        "modules": [m.__file__ for n in ("kernels", "harness") if (m := sys.modules.get(n)) is not None],
        "seconds": {name: min(timed(call, 2, job["device"])[1]) for name, (call, _) in made.items()},
    }
    print(json.dumps({"ready": ready}), file=out, flush=True)
    for line in sys.stdin:
        name, _, calls = line.strip().rpartition(" ")
        print(json.dumps(timed(made[name][0], int(calls), job["device"])), file=out, flush=True)


if __name__ == "__main__":
    main()
