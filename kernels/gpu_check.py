"""`python -m kernels.gpu_check`: the checks of the kernels that need a CUDA device.

Runs the `gpu`-marked tests, compares the occupancy computed without a GPU with that of the driver, runs the
benchmark, and writes the results under `results/baselines/<device>/`.
Exit codes: 0 done, 1 a check failed, 2 there is no CUDA device, no checkout with tests, or the input is wrong.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.cases import KernelCase

ROOT = Path(__file__).parents[1]
SCHEMA = 1


def device_folder(name: str) -> str:
    """`NVIDIA A40` → `a40`: the folder of a device under `results/baselines/`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def driver_occupancy(case: KernelCase) -> dict[str, int]:
    """Registers, spills and blocks per SM of one kernel on the current device, from the CUDA driver."""
    import triton
    from triton.compiler import ASTSource

    source = ASTSource(case.fn, dict(case.signature), dict(case.constexprs), case.attrs())
    compiled = triton.compile(source, options={"num_warps": case.num_warps, "num_stages": case.num_stages})
    compiled._init_handles()
    blocks = ctypes.c_int()
    status = ctypes.CDLL("libcuda.so.1").cuOccupancyMaxActiveBlocksPerMultiprocessor(
        ctypes.byref(blocks),
        ctypes.c_void_p(compiled.function),
        ctypes.c_int(case.num_warps * 32),
        ctypes.c_size_t(compiled.metadata.shared),
    )
    if status != 0:
        raise RuntimeError(f"cuOccupancyMaxActiveBlocksPerMultiprocessor returned {status}")
    return {"registers": compiled.n_regs, "spills": compiled.n_spills, "blocks_per_sm": blocks.value}


def differing(estimated: dict[str, Any], real: dict[str, dict[str, int]], architecture: int) -> list[str]:
    """Kernels whose computed blocks per SM are not the driver's, one line each."""
    found = []
    for name, value in real.items():
        computed = estimated[name][str(architecture)]
        if isinstance(computed, str):
            found.append(f"{name}: does not compile: {computed}")
        elif computed["blocks_per_sm"] != value["blocks_per_sm"]:
            found.append(
                f"{name}: {computed['blocks_per_sm']} blocks an SM computed, {value['blocks_per_sm']} by the driver"
            )
    return found


def compare_occupancy(architecture: int) -> tuple[dict[str, Any], list[str]]:
    """Computed against real occupancy for every registered kernel; the figures and what differs."""
    from kernels.architectures import ARCHITECTURES
    from kernels.footprint import CASE_MODULES, load_cases, measure

    cases = load_cases(CASE_MODULES)
    real = {name: driver_occupancy(case) for name, case in cases.items()}
    if architecture not in ARCHITECTURES:
        return {"driver": real}, []
    computed = measure(CASE_MODULES, [architecture])
    return {"driver": real, "computed": computed}, differing(computed, real, architecture)


def _step(name: str, command: Sequence[str], log: Path) -> dict[str, Any]:
    """Run one command with its output in `log`, and print the last lines of it."""
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    seconds = time.perf_counter() - start
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    print(f"{name}: exit code {code} after {seconds:.0f} s ({log})", *tail, sep="\n  ", flush=True)
    return {"command": list(command), "exit_code": code, "seconds": round(seconds, 1)}


def _provenance() -> dict[str, Any]:
    import platform

    import torch
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "compute_capability": properties.major * 10 + properties.minor,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 2),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m kernels.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder (default: results/baselines/<device>)")
    parser.add_argument("--skip-bench", action="store_true", help="tests and occupancy only")
    options = parser.parse_args(arguments)
    import torch

    if not torch.cuda.is_available():
        print("gpu_check: there is no CUDA device here, so nothing was measured", file=sys.stderr)
        return 2
    if not (ROOT / "tests" / "kernels").is_dir():
        print(f"gpu_check: needs a checkout, there are no tests beside {ROOT / 'kernels'}", file=sys.stderr)
        return 2
    provenance = _provenance()
    out = options.out or ROOT / "results" / "baselines" / device_folder(provenance["device"])
    out.mkdir(parents=True, exist_ok=True)
    python = [sys.executable, "-m"]
    tests = [*python, "pytest", "tests/kernels", "-m", "gpu", "-rs", f"--junitxml={out / 'gpu_tests.xml'}"]
    steps = {"tests": _step("gpu tests", tests, out / "gpu_tests.log")}
    if not options.skip_bench:
        bench = [*python, "kernels.bench", "--device", "cuda", "--out", str(out)]
        steps["bench"] = _step("benchmark", bench, out / "bench.log")
    occupancy, differences = compare_occupancy(provenance["compute_capability"])
    for line in differences:
        print(f"FAIL occupancy: {line}", file=sys.stderr)
    document = {
        "schema": SCHEMA,
        **provenance,
        "steps": steps,
        "occupancy": occupancy,
        "occupancy_differences": differences,
    }
    (out / "gpu_check.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, step in steps.items() if step["exit_code"] != 0]
    print(f"gpu_check: {out / 'gpu_check.json'}; failed: {', '.join(failed) or 'nothing'}")
    return 1 if failed or differences else 0


if __name__ == "__main__":
    sys.exit(main())
