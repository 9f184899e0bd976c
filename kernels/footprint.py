"""Compiled footprint of every Triton kernel, without a GPU.

`python -m kernels.footprint` cross-compiles each registered kernel and configuration, reads registers,
spills, shared memory and the instruction mix from the machine code, and derives occupancy and a roofline
estimate. `--check BASELINE` compares with a committed baseline and fails where a kernel got worse.
Exit codes: 0 fine, 1 a regression or a kernel that does not compile, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kernels.architectures import ARCHITECTURES, DEVICES, roofline_milliseconds
from kernels.machine_code import Footprint, read_footprint

if TYPE_CHECKING:
    from kernels.cases import KernelCase

T = TypeVar("T")
SCHEMA = 1
CASE_MODULES = ("kernels.grpo_loss.cases", "kernels.token_logprob.cases")
"""Modules that hold the `FOOTPRINT_CASES` of each operator."""
REFERENCE_ARCHITECTURE = 86
"""Of the A40, which the launch configurations are chosen for: no kernel may spill there."""


class WrongInput(Exception):
    """The command line, a case module or a baseline cannot be used; the message says how to mend it."""


def load_cases(modules: Sequence[str]) -> dict[str, KernelCase]:
    """Every registered case by `op/name`. Raises `WrongInput` for a module that has none."""
    found: dict[str, KernelCase] = {}
    for module in modules:
        try:
            cases = importlib.import_module(module).FOOTPRINT_CASES
        except (ImportError, AttributeError) as error:
            raise WrongInput(
                f"`--cases` must name modules with FOOTPRINT_CASES, got {module}: {error}"
            ) from error
        for case in cases:
            name = f"{case.op}/{case.name}"
            if name in found:
                raise WrongInput(f"{module} must register each kernel once, got {name} twice")
            found[name] = case
    return found


def _prepare(modules: Sequence[str], path: Sequence[str]) -> None:
    """Set up a compiler process. With TRITON_INTERPRET kernels would be Python functions that cannot be compiled."""
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path[:] = path
    load_cases(modules)


def compile_one(modules: Sequence[str], name: str, architecture: int) -> Footprint | str:
    """The footprint, or why the kernel does not compile, in one line."""
    import subprocess
    import tempfile

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    case = load_cases(modules)[name]
    source = ASTSource(case.fn, dict(case.signature), dict(case.constexprs), case.attrs())
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    except Exception as error:  # any stage of the compiler may refuse; its message is the result
        lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        return f"{lines[0]} … {lines[-1].strip()}"[:300] if len(lines) > 1 else lines[0][:300]
    tool = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        dumps = [
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        ]
    return read_footprint(
        *dumps,
        shared_bytes=compiled.metadata.shared,
        warps=case.num_warps,
        architecture=architecture,
        uses_fp64="f64" in compiled.asm["ttir"],
    )


Results = dict[str, dict[str, dict[str, Any] | str]]
"""`op/name` → architecture → footprint, or the compiler's message."""


def measure(
    modules: Sequence[str],
    architectures: Sequence[int],
    workers: int | None = None,
    names: Iterable[str] | None = None,
) -> Results:
    """Compile cases for every architecture, in fresh processes: those called `op/name` in `names`, None for all."""
    names = sorted(load_cases(modules) if names is None else names)
    jobs = [(name, architecture) for name in names for architecture in architectures]
    count = workers or min(len(jobs), os.cpu_count() or 1, 8)
    with ProcessPoolExecutor(
        max_workers=max(count, 1),
        mp_context=get_context("spawn"),
        initializer=_prepare,
        initargs=(tuple(modules), tuple(sys.path)),
    ) as pool:
        futures = [pool.submit(compile_one, modules, name, architecture) for name, architecture in jobs]
        results: Results = {name: {} for name in names}
        for (name, architecture), future in zip(jobs, futures):
            found = future.result()
            results[name][str(architecture)] = found if isinstance(found, str) else asdict(found)
    return results


def violations(results: Results, cases: Mapping[str, KernelCase]) -> list[str]:
    """What no kernel may do, whatever the baseline says: one line each, kernel and configuration first."""
    found = []
    for name, by_architecture in results.items():
        for key, value in by_architecture.items():
            where = f"{name} on sm_{key}"
            if isinstance(value, str):
                found.append(f"{where}: does not compile: {value}")
                continue
            limit = ARCHITECTURES[int(key)].shared_bytes_per_block
            if value["shared_bytes"] > limit:
                found.append(
                    f"{where}: {value['shared_bytes']} B of shared memory, over the limit of {limit} B"
                )
            if int(key) == REFERENCE_ARCHITECTURE and value["spill_instructions"]:
                found.append(f"{where}: {value['spill_instructions']} spill instructions, none allowed")
            if value["uses_fp64"]:
                found.append(f"{where}: fp64 values in the kernel; pass Python floats as constexpr")
            if cases[name].matmul:
                for kind in ("tensor_core", "async_copy"):
                    if not value[f"{kind}_instructions"]:
                        found.append(f"{where}: no {kind.replace('_', '-')} instructions in a matrix product")
    return found


def regressions(baseline: Results, results: Results) -> list[str]:
    """Where `results` are worse than `baseline`, on the architectures that `results` has."""
    found = [f"{name}: in the baseline but no longer registered" for name in baseline if name not in results]
    for name, by_architecture in results.items():
        if name not in baseline:
            found.append(f"{name}: not in the baseline; write a new one with --json")
            continue
        for key, now in by_architecture.items():
            before = baseline[name].get(key)
            where = f"{name} on sm_{key}"
            if before is None:
                found.append(f"{where}: not in the baseline; write a new one with --json")
            elif isinstance(now, dict) and isinstance(before, dict):
                found += [f"{where}: {what}" for what in _worse(before, now)]
    return found


def _worse(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for field, words in (("spill_instructions", "spill instructions"), ("stack_bytes", "B of stack")):
        if now[field] > before[field]:
            found.append(f"{now[field]} {words}, baseline {before[field]}: new spill")
    if now["occupancy"] < before["occupancy"]:
        cause = f"{now['registers']} registers, {now['shared_bytes']} B shared, {now['warps']} warps"
        was = f"{before['registers']}, {before['shared_bytes']} B, {before['warps']}"
        found.append(
            f"occupancy {now['occupancy']:.0%}, baseline {before['occupancy']:.0%} ({cause}; was {was})"
        )
    for kind in ("tensor_core", "async_copy"):
        field = f"{kind}_instructions"
        if now[field] < before[field]:
            found.append(
                f"{now[field]} {kind.replace('_', '-')} instructions, baseline {before[field]}: lost"
            )
    return found


def estimates(results: Results, cases: Mapping[str, KernelCase]) -> list[dict[str, Any]]:
    """Roofline estimates: one row per case, named shape and device whose architecture was compiled."""
    rows = []
    for name, case in cases.items():
        for work in case.work:
            for device in DEVICES:
                value = results[name].get(str(device.compute_capability))
                if not isinstance(value, dict):
                    continue
                milliseconds, bound = roofline_milliseconds(
                    device,
                    flops=work.flops,
                    traffic_bytes=work.bytes,
                    programs=work.programs,
                    resident=value["blocks_per_sm"],
                    tensor_cores=case.matmul,
                )
                rows.append(
                    {
                        "kernel": name,
                        "shape": work.shape,
                        "device": device.name,
                        "estimated_milliseconds": round(milliseconds, 5),
                        "bound": bound,
                    }
                )
    return rows


def _print_tables(results: Results, rows: Sequence[Mapping[str, Any]]) -> None:
    width = max([len(name) for name in results] + [6])
    print(f"{'kernel':{width}}  arch  regs  spills  stack B  shared B  blocks/SM  occupancy  tensor  async")
    for name, by_architecture in results.items():
        for key, v in by_architecture.items():
            if isinstance(v, str):
                print(f"{name:{width}}  sm_{key}  does not compile: {v}")
                continue
            print(
                f"{name:{width}} sm_{key} {v['registers']:5} {v['spill_instructions']:7} {v['stack_bytes']:8}"
                f" {v['shared_bytes']:9} {v['blocks_per_sm']:10} {v['occupancy']:10.0%}"
                f" {v['tensor_core_instructions']:7} {v['async_copy_instructions']:6}"
            )
    if rows:
        print("\nRoofline ESTIMATES (nothing measured): the least time a launch can take")
        print(f"{'kernel':{width}}  {'shape':24} device  estimated ms  bound by")
        for row in rows:
            print(
                f"{row['kernel']:{width}}  {row['shape']:24} {row['device']:6}"
                f" {row['estimated_milliseconds']:13.4f}  {row['bound']}"
            )


def _triton_version() -> str:
    from importlib.metadata import version

    return version("triton")


def _source_digest() -> str:
    """One digest over the Python sources of this package: what was compiled, with or without git."""
    import hashlib

    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read_baseline(path: Path) -> Results:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema, compiler, results = document["schema"], document["triton"], document["results"]
    except FileNotFoundError:
        raise WrongInput(
            f"`--check` needs a baseline, got no file at {path}; write one with --json"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongInput(f"`--check` needs a baseline written by --json, got {path}: {error!r}") from None
    if schema != SCHEMA:
        raise WrongInput(f"{path} must have schema {SCHEMA}, got {schema}; write it again with --json")
    if compiler != _triton_version():
        raise WrongInput(
            f"{path} was compiled by triton {compiler}, this is {_triton_version()}: a difference would not be "
            "a regression of the kernels; write a baseline for this version with --json"
        )
    return results


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kernels.footprint", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--arch",
        default=",".join(map(str, ARCHITECTURES)),
        help="compute capabilities, comma-separated (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write footprints and estimates here")
    parser.add_argument("--check", type=Path, metavar="BASELINE", help="fail where worse than this JSON file")
    parser.add_argument(
        "--cases", default=",".join(CASE_MODULES), help="modules with FOOTPRINT_CASES (default: %(default)s)"
    )
    parser.add_argument(
        "--only", default="*", help="kernels to compile: patterns of op/name, comma-separated (default: all)"
    )
    parser.add_argument("--workers", type=int, help="compiler processes (default: one per core, at most 8)")
    parser.add_argument("--quiet", action="store_true", help="print failures only")
    return parser.parse_args(arguments)


def _matching(by_name: Mapping[str, T], patterns: str) -> dict[str, T]:
    return {
        name: value
        for name, value in by_name.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split(","))
    }


def _run(options: argparse.Namespace) -> int:
    try:
        architectures = [int(part) for part in options.arch.split(",")]
    except ValueError:
        architectures = []
    if not architectures or not set(architectures) <= set(ARCHITECTURES):
        known = ",".join(map(str, ARCHITECTURES))
        raise WrongInput(f"`--arch` must be among {known}, got {options.arch}")
    if options.workers is not None and options.workers < 1:
        raise WrongInput(f"`--workers` must be >= 1, got {options.workers}")
    baseline = _read_baseline(options.check) if options.check else None
    modules = options.cases.split(",")
    cases = _matching(load_cases(modules), options.only)
    if not cases:
        raise WrongInput(f"`--only` must match a kernel (the first column of the output), got {options.only}")
    if baseline is not None:
        baseline = _matching(baseline, options.only)
    results = measure(modules, architectures, options.workers, cases)
    rows = estimates(results, cases)
    if not options.quiet:
        _print_tables(results, rows)
    if options.json:
        document = {
            "schema": SCHEMA,
            "triton": _triton_version(),
            "source_sha256": _source_digest(),
            "results": results,
            "estimates": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    found = violations(results, cases) + (regressions(baseline, results) if baseline is not None else [])
    for line in found:
        print(f"FAIL {line}", file=sys.stderr)
    if baseline is not None and not found:
        print(
            f"footprint: {len(cases)} kernels on {len(architectures)} architectures, none worse than baseline"
        )
    return 1 if found else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        return _run(_parse(arguments))
    except WrongInput as error:
        print(f"footprint: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
