"""One comparison, from the command line's options to the verdict."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.regression.errors import GateError, OtherDevice
from harness.regression.gate import Finding, Settings, run_gate
from harness.regression.measure import Commands, Job, Trees
from harness.regression.report import Verdict
from harness.regression.revisions import COMMAND, Revision, checked_out, resolve
from harness.store.records import Provenance
from harness.store.records.form import JsonObject, to_data

CHECKS = ("kernels", "training", "memory", "accuracy")
"""The checks, in the order in which they run."""

QUICK_CASES = ("token_logprob:tiny@64 dense slabs-lean", "grpo_loss:dapo")
CASES = (
    *QUICK_CASES,
    "token_logprob:tiny@64 half-masked slabs-keep",
    "token_logprob:small@64 dense slabs-lean",
    "grpo_loss:gspo",
)
GPU_CASES = (
    "token_logprob:qwen2.5-1.5b@4096 dense fused-lean",
    "token_logprob:qwen2.5-1.5b@4096 half-masked fused-keep",
    "grpo_loss:dapo",
)
MEMORY_CASES = ("token_logprob:small@512 dense slabs-lean",)
TRAINING_CASE = "training:one step"
RECIPE: JsonObject = {
    "model": "tiny",
    "data": {"size": 1, "sources": [{"source": "sums", "terms": [3], "digits": [2]}]},
    "rollout": {"prompts_per_step": 1, "completions_per_prompt": 16, "max_completion_tokens": 32},
    "reward": {"functions": [{"name": "accuracy"}, {"name": "format", "weight": 0.5}]},
    "optimizer": {"learning_rate": 1e-30},
    "training": {"steps": 1},
}
"""The training workload: one question, so that every call trains the same step."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `harness.regress`.

    Attributes:
        baseline, candidate: as given; see `resolve`.
        checks: names from `CHECKS`; None for all that apply to the revisions' kind.
        quick: fewer cases, and shorter blocks.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads of a measured process.
        seconds: measuring time per case and block; None for the default.
        delta: smallest change of accuracy that matters, a fraction.
        settings: settings of the gate.
        repository: where git refs are looked up.
    """

    baseline: str
    candidate: str
    checks: tuple[str, ...] | None
    quick: bool
    device: str
    threads: int
    seconds: float | None
    delta: float
    settings: Settings
    repository: Path


def compare_revisions(options: Options, log: Callable[[str], None]) -> Verdict:
    """Compares the two revisions and returns the verdict.

    Args:
        options: what to compare, and how.
        log: called with each line of progress.

    Raises:
        GateError: no verdict is possible; its class says why.
    """
    baseline = resolve(options.baseline, role="baseline", repository=options.repository)
    candidate = resolve(options.candidate, role="candidate", repository=options.repository)
    if baseline.kind != candidate.kind:
        raise GateError(
            f"--baseline is a {_KINDS[baseline.kind]}, --candidate a {_KINDS[candidate.kind]}",
            "both sides must be of one kind",
        )
    findings, device = _BY_KIND[baseline.kind](baseline, candidate, options, log)
    if not findings:
        raise GateError("nothing was compared", "choose other --checks")
    return Verdict(
        options.baseline, options.candidate, findings, device, _facts(options, baseline, candidate)
    )


def _facts(options: Options, baseline: Revision, candidate: Revision) -> JsonObject:
    from harness.meters.provenance import collect
    from kernels.provenance import ProvenanceError

    provenance = Provenance()
    with contextlib.suppress(ProvenanceError):
        provenance = collect()
    return {
        "commits": {"baseline": baseline.ref, "candidate": candidate.ref},
        "settings": {
            "floors": dict(options.settings.floors),
            "level": options.settings.level,
            "blocks": options.settings.blocks,
            "seed": options.settings.seed,
            "threads": options.threads,
            "quick": options.quick,
        },
        "provenance": to_data(provenance),
    }


def _trees(
    baseline: Revision, candidate: Revision, options: Options, log: Callable[[str], None]
) -> tuple[list[Finding], str]:
    checks = options.checks or (("kernels", "memory") if options.quick else CHECKS)
    device = _device(options.device)
    with contextlib.ExitStack() as stack:
        trees = [
            stack.enter_context(checked_out(revision, options.repository))
            for revision in (baseline, candidate)
        ]
        findings: list[Finding] = []
        cases: tuple[str, ...] = ()
        if "kernels" in checks:
            cases = GPU_CASES if device == "cuda" else QUICK_CASES if options.quick else CASES
        if "training" in checks:
            cases = (*cases, TRAINING_CASE)
        memory = MEMORY_CASES if "memory" in checks and device == "cpu" else ()
        if cases or memory:
            job = Job(
                cases=cases,
                memory=memory,
                device=device,
                threads=options.threads,
                dtype="bf16" if device == "cuda" else "fp32",
                recipe=RECIPE,
            )
            seconds = options.seconds or (3.0 if options.quick else 8.0)
            source = Trees(trees[0], trees[1], job, seconds)
            findings, device = run_gate(source, [*cases, *memory], options.settings, log)
            if "memory" not in checks:
                findings = [f for f in findings if f.kind != "memory"]
        if "accuracy" in checks:
            from harness.regression.accuracy import compare_trees

            findings += compare_trees(trees[0], trees[1], options.delta, log)
    return findings, device


def _device(wanted: str) -> str:
    from harness.meters.provenance import gpus

    there = bool(gpus())
    if wanted == "cuda" and not there:
        raise OtherDevice(
            "--device cuda: there is no CUDA device here", "use --device cpu, or a machine with one"
        )
    return "cuda" if there and wanted != "cpu" else "cpu"


def _commands(
    baseline: Revision, candidate: Revision, options: Options, log: Callable[[str], None]
) -> tuple[list[Finding], str]:
    lines = [revision.name.removeprefix(COMMAND).strip() for revision in (baseline, candidate)]
    source = Commands(lines[0], lines[1], options.seconds or (10.0 if options.quick else 60.0))
    return run_gate(source, ["command"], options.settings, log)


def _results(
    baseline: Revision, candidate: Revision, options: Options, log: Callable[[str], None]
) -> tuple[list[Finding], str]:
    from harness.regression.accuracy import compare_folders

    assert baseline.path is not None
    assert candidate.path is not None
    checks = options.checks or ("training", "memory", "accuracy")
    return compare_folders(baseline.path, candidate.path, checks, options.delta, options.settings)


def _benchmarks(
    baseline: Revision, candidate: Revision, options: Options, log: Callable[[str], None]
) -> tuple[list[Finding], str]:
    from harness.regression.benchmark_files import compare_files

    assert baseline.path is not None
    assert candidate.path is not None
    return compare_files(baseline.path, candidate.path, options.settings)


_BY_KIND: dict[
    str, Callable[[Revision, Revision, Options, Callable[[str], None]], tuple[list[Finding], str]]
] = {
    "tree": _trees,
    "command": _commands,
    "results": _results,
    "benchmark": _benchmarks,
}
_KINDS = {
    "tree": "source tree",
    "command": "command",
    "results": "result folder",
    "benchmark": "pytest-benchmark file",
}


def to_stderr(text: str) -> None:
    """Prints a line of progress."""
    print(text, file=sys.stderr, flush=True)


def names_of(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """Splits a comma-separated option value.

    Raises:
        GateError: a name is not in `known`, or there is none.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise GateError(f"{option}: must be of {', '.join(known)}, got {text}")
    return names
