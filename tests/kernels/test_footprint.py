"""The footprint gate: it passes on what is committed, and fails, with a reason, on what is broken."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernels import footprint
from kernels.architectures import ARCHITECTURES, DEVICES, blocks_per_sm, roofline_milliseconds
from kernels.footprint import regressions
from kernels.machine_code import read_footprint

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "results" / "baselines" / "footprint.json"
A40 = DEVICES[0]


def run(*arguments):
    """The command in this process; it compiles in processes of its own, where Triton does not interpret."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = footprint.main([str(argument) for argument in arguments])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.mark.timeout(1500)  # a minute on two idle cores, but cores may be shared
@pytest.mark.parametrize(
    ("architectures", "kernels"),
    [
        ("86", "*"),  # the reference machine
        # Other instructions. What is left out by default has no code that `full` or `everything` has not.
        ("90", "*/full/*,*/keep/*,*/lora/*,*+*"),
        pytest.param("80,86,89,90", "*", marks=pytest.mark.slow),
    ],
)
def test_every_kernel_is_no_worse_than_the_committed_baseline(architectures, kernels):
    done = run("--check", BASELINE, "--arch", architectures, "--only", kernels, "--quiet")
    assert done.code == 0, done.err
    assert "none worse than baseline" in done.out


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    baseline = tmp_path_factory.mktemp("footprint") / "baseline.json"
    cases = "tests.kernels.footprint_"
    sound = run("--cases", f"{cases}sound", "--arch", "86", "--json", baseline)
    assert sound.code == 0, sound.err
    assert "ESTIMATES (nothing measured)" in sound.out
    return run("--cases", f"{cases}broken", "--arch", "86", "--check", baseline)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("product/shared", "B of shared memory, over the limit of 101376 B"),
        ("product/spill", "spill instructions, baseline 0: new spill"),
        ("product/tensor", "no tensor-core instructions in a matrix product"),
        ("product/tensor", "0 tensor-core instructions, baseline"),
        ("product/copy", "0 async-copy instructions, baseline"),
        ("product/occupancy", "occupancy 33%, baseline 42% ("),
        ("product/invalid", "does not compile"),
        # As a run-time argument a Python float can turn a whole expression into fp64, 24 times slower.
        ("scale/fp64", "fp64 values in the kernel; pass Python floats as constexpr"),
    ],
)
def test_a_deliberately_broken_configuration_fails_with_kernel_and_reason(broken, name, reason):
    assert broken.code == 1
    lines = [line for line in broken.err.splitlines() if line.startswith(f"FAIL {name} on sm_86: ")]
    assert any(reason in line for line in lines), broken.err


def one(**change):
    sound = {
        "registers": 64,
        "spill_instructions": 0,
        "stack_bytes": 0,
        "shared_bytes": 1024,
        "warps": 4,
        "occupancy": 0.5,
        "tensor_core_instructions": 32,
        "async_copy_instructions": 8,
    }
    return {"op/kernel": {"86": {**sound, **change}}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spill_instructions": 2}, "op/kernel on sm_86: 2 spill instructions, baseline 0: new spill"),
        ({"stack_bytes": 8}, "op/kernel on sm_86: 8 B of stack, baseline 0: new spill"),
        ({"occupancy": 0.25}, "op/kernel on sm_86: occupancy 25%, baseline 50% (64 registers, 1024 B shared"),
        ({"tensor_core_instructions": 16}, "16 tensor-core instructions, baseline 32: lost"),
        ({"async_copy_instructions": 0}, "0 async-copy instructions, baseline 8: lost"),
    ],
)
def test_each_regression_is_named(change, reason):
    (found,) = regressions(one(), one(**change))
    assert reason in found


def test_an_improvement_is_no_regression():
    better = one(occupancy=0.75, registers=40, tensor_core_instructions=64)
    assert regressions(one(), better) == []


def test_kernels_that_come_and_go_are_reported():
    assert "not in the baseline" in regressions({}, one())[0]
    assert "no longer registered" in regressions(one(), {})[0]
    assert "on sm_86: not in the baseline" in regressions({"op/kernel": {}}, one())[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "no/such.json"], "needs a baseline, got no file at no/such.json"),
        (["--check", "pyproject.toml"], "needs a baseline written by --json, got pyproject.toml"),
        (["--arch", "75"], "`--arch` must be among 80,86,89,90, got 75"),
        (["--cases", "kernels.nothing"], "`--cases` must name modules with FOOTPRINT_CASES"),
        (["--only", "no/such"], "`--only` must match a kernel (the first column of the output), got no/such"),
        (["--workers", "0"], "`--workers` must be >= 1, got 0"),
    ],
)
def test_wrong_input_exits_with_2_and_says_what(arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = run(*arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_baseline_of_another_compiler_is_wrong_input_and_no_regression(tmp_path):
    document = json.loads(BASELINE.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**document, "triton": "1.0.0"}))
    done = run("--check", other)
    assert done.code == 2
    assert "was compiled by triton 1.0.0" in done.err


@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "warps", "expected"),
    [
        (86, 32, 0, 8, 6),  # 48 warps are the limit
        (86, 128, 0, 8, 2),  # 16 warps by registers
        (86, 255, 0, 8, 1),
        (86, 64, 50_000, 4, 2),  # shared memory: two of 51,072 B in 102,400 B
        (86, 64, 101_376, 4, 1),
        (86, 64, 101_377, 4, 0),  # over the limit of a block
        (86, 16, 0, 1, 16),  # blocks are the limit
        (80, 32, 0, 1, 32),
        (90, 168, 0, 4, 3),
    ],
)
def test_blocks_per_sm_as_the_occupancy_calculator_gives(architecture, registers, shared, warps, expected):
    found = blocks_per_sm(ARCHITECTURES[architecture], registers=registers, shared_bytes=shared, warps=warps)
    assert found == expected


def test_roofline_counts_whole_waves_and_takes_the_larger_bound():
    def estimate(**change):
        given = {"flops": 0.0, "traffic_bytes": 0.0, "programs": 168, "resident": 2, "tensor_cores": True}
        return roofline_milliseconds(A40, **{**given, **change})

    full, bound = estimate(flops=149.7e9)
    assert (full, bound) == (pytest.approx(1.0), "compute")
    assert estimate(flops=149.7e9, programs=84)[0] == pytest.approx(1.0)  # one block on each SM
    assert estimate(flops=149.7e9, programs=42)[0] == pytest.approx(2.0)  # half the SMs idle
    assert estimate(flops=149.7e9, programs=169)[0] == pytest.approx(2 * 168 / 169, rel=0.5)
    assert estimate(flops=149.7e9, programs=169)[0] > 1.4
    assert estimate(traffic_bytes=696e6)[0] == pytest.approx(1.0)
    assert estimate(flops=1.0, traffic_bytes=696e6)[1] == "memory"


def test_machine_code_is_read_by_opcode():
    resources = "Resource usage:\n Function k:\n  REG:40 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:400"
    lines = [
        "        /*0000*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;   /* 0x00 */",
        "                                                                           /* 0x01 */",
        "        /*0010*/              @!P1 LDGSTS.E.BYPASS.128 [R3], [R2.64] ;     /* 0x02 */",
        "        /*0020*/                   STL [R1], R5 ;                          /* 0x03 */",
        "        /*1230*/                   HGMMA.64x64x16.F32 R4, gdesc[UR4] ;    /* 0x05 */",
        "        /*12340*/                  HFMA2.MMA R0, -RZ, RZ, 0, 0 ;           /* 0x04 */",
    ]
    found = read_footprint(resources, "\n".join(lines), shared_bytes=2048, warps=4, architecture=86)
    counts = (found.tensor_core_instructions, found.async_copy_instructions, found.spill_instructions)
    assert counts == (2, 1, 1)
    assert (found.registers, found.stack_bytes, found.instructions) == (40, 16, 5)
