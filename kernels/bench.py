"""Microbenchmarks of the language-model head against other libraries and against the matrix products alone.

`python -m kernels.bench` checks every variant's gradients first and refuses to time a wrong one. Each variant runs
in fresh processes, in one order and then in the reverse; within a process its timings alternate with those of the
three matrix products alone, so that the ratio of the two is valid even on a shared machine. Writes JSON with every
raw sample, CSV, Markdown and plots. Exit codes: 0 done, 1 a variant was wrong or failed, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DEFAULT_SHAPES = ("smollm2-135m@2048", "qwen2.5-1.5b@1024")
QUICK_SHAPES = ("small@512",)
GPU_SHAPES = ("smollm2-135m@8192", "qwen2.5-1.5b@8192", "qwen2.5-1.5b@32768")
BATCHES = ("dense", "half-masked", "recorded")
PEERS = ("trl", "torch", "compiled", "checkpoint", "lce", "liger", "cce")
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Name → its attribute of torch."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; lists are separated by commas."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--shapes", help="model@tokens, comma-separated, e.g. qwen2.5-1.5b@4096")
    parser.add_argument(
        "--batches", default="dense,half-masked", help=f"of {', '.join(BATCHES)}; default %(default)s"
    )
    parser.add_argument(
        "--against", default=",".join(PEERS), help="peers, comma-separated; default: all installed"
    )
    parser.add_argument(
        "--dtype", choices=("auto", *DTYPES), default="auto", help="auto: bf16 where it is fast"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="fresh processes per variant; default %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timings per process; default %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="threads on a CPU; default: torch's own")
    parser.add_argument(
        "--timeout", type=float, default=900, help="seconds for one process; default %(default)s"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60,
        help="seconds: a pass that takes longer is timed once; default %(default)s",
    )
    parser.add_argument("--quick", action="store_true", help="a small shape, seconds instead of minutes")
    parser.add_argument("--out", type=Path, help="folder to write to; default: print only")
    return parser.parse_args(arguments)


def resolve(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One job per shape, batch and variant, without the round.

    Raises:
        ValueError: an unknown shape, batch or peer, or no step has been recorded for `recorded`.
    """
    import torch

    from kernels.benchmarks.batches import recorded_batch
    from kernels.benchmarks.variants import OURS, PRODUCTS, PRODUCTS_AS_GIVEN, available
    from kernels.token_logprob.dtypes import product_dtype
    from kernels.token_logprob.shapes import head_shape

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = options.dtype
    if dtype == "auto":
        dtype = "bf16" if product_dtype(torch.bfloat16, device) == torch.bfloat16 else "fp32"
    default = QUICK_SHAPES if options.quick else GPU_SHAPES if device == "cuda" else DEFAULT_SHAPES
    shapes = options.shapes.split(",") if options.shapes else list(default)
    for shape in shapes:
        head_shape(shape)
    batches, peers = options.batches.split(","), [name for name in options.against.split(",") if name]
    for given, known, what in ((batches, BATCHES, "--batches"), (peers, PEERS, "--against")):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"`{what}` must be of {', '.join(known)}, got {', '.join(unknown)}")
    if "recorded" in batches:
        recorded_batch()
    for name in ("rounds", "repeats"):
        if getattr(options, name) < 1:
            raise ValueError(f"`--{name}` must be >= 1, got {getattr(options, name)}")
    missing = [name for name in peers if not available(name, device)]
    if missing:
        print(f"not installed, not measured: {', '.join(missing)}", file=sys.stderr)
    given = getattr(torch, DTYPES[dtype])
    variants = [PRODUCTS, *(name for name in (*OURS, *peers) if available(name, device))]
    if product_dtype(given, device) != given:
        variants.append(PRODUCTS_AS_GIVEN)
    common = {"device": device, "dtype": dtype}
    common |= {name: getattr(options, name) for name in ("threads", "repeats", "patience")}
    return [
        {"shape": shape, "batch": batch, "variant": variant, **common}
        for shape in shapes
        for batch in batches
        for variant in variants
    ]


def run_worker(job: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Runs one job in a fresh process; a failed one gives `failed`, the last line of its standard error."""
    command = [sys.executable, "-m", "kernels.benchmarks.worker", json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {timeout:.0f} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(
    jobs: list[dict[str, Any]], rounds: int, timeout: float, save: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """Every job `rounds` times, the order of the variants reversed from round to round within each case.

    A job that failed, gave a wrong gradient or took longer than `--patience` is not repeated. After each run `save`
    gets all jobs that have run, so that an interrupt loses nothing.
    """
    results = [{**job, "runs": []} for job in jobs]
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job in results:
        cases.setdefault((job["shape"], job["batch"]), []).append(job)
    for case, variants in cases.items():
        for number in range(rounds):
            for job in variants if number % 2 == 0 else reversed(variants):
                if any("failed" in run or "wrong" in run or run.get("once") for run in job["runs"]):
                    continue
                request = {name: value for name, value in job.items() if name != "runs"} | {
                    "check": number == 0
                }
                job["runs"].append(run_worker(request, timeout))
                state = job["runs"][-1]
                note = state.get("failed") or (
                    "WRONG" if state.get("wrong") else f"{state['ratio']:.2f}x products"
                )
                print(
                    f"{' '.join(case)} round {number + 1} {job['variant']}: {note}",
                    file=sys.stderr,
                    flush=True,
                )
                save([job for job in results if job["runs"]])
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    options = parse(arguments)
    try:
        jobs = resolve(options)
        from kernels.benchmarks.report import machine, markdown, plot, summarise, write

        origin = machine(jobs[0])
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    def save(results: list[dict[str, Any]]) -> None:
        if options.out is not None:
            write(options.out, origin, results, summarise(results))

    try:
        results = measure(jobs, options.rounds, options.timeout, save)
    except KeyboardInterrupt:
        where = "nothing written" if options.out is None else f"{options.out} holds what was measured"
        print(f"interrupted; {where}", file=sys.stderr)
        return 130
    rows = summarise(results)
    print(markdown(rows))
    if options.out is not None:
        plot(options.out, rows)
    return 1 if any("failed" in run or "wrong" in run for job in results for run in job["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
