"""The benchmark refuses wrong results, pairs its timings, and never prints what it has not measured."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch

from kernels import bench
from kernels.benchmarks import batches, report, worker
from kernels.benchmarks.variants import available, loss_of
from kernels.token_logprob.shapes import head_shape

JOB = {
    "shape": "tiny@64",
    "batch": "dense",
    "dtype": "fp32",
    "device": "cpu",
    "threads": 1,
    "repeats": 2,
    "patience": 60,
    "check": True,
}


@pytest.mark.parametrize(
    "variant", ["slabs-keep", "slabs-lean", "torch", "checkpoint", "trl", "lce", "liger"]
)
@pytest.mark.parametrize("batch", ["dense", "half-masked"])
def test_every_variant_computes_the_same_gradients(variant, batch):
    if not available(variant, "cpu"):
        pytest.skip(f"{variant} is not installed")
    problem = batches.make_batch(head_shape("tiny@64"), batch, torch.float32, "cpu")
    problem.hidden.requires_grad_()
    problem.weight.requires_grad_()
    # Liger compiles its chunks, which takes longer than everything else here.
    with torch._dynamo.config.patch(disable=True):
        gradients = torch.autograd.grad(loss_of(variant, problem)(problem), (problem.hidden, problem.weight))
    assert max(worker.check(problem, gradients).values()) < 1e-5


def test_wrong_gradient_is_refused(monkeypatch):
    def wrong(variant, batch):
        right = loss_of(variant, batch)
        return lambda batch: right(batch) * 1.01

    monkeypatch.setattr(worker, "loss_of", wrong)
    result = worker.run_job({**JOB, "variant": "torch"})
    assert result["wrong"]
    assert "samples" not in result
    rows = report.summarise([{**JOB, "variant": "torch", "runs": [result]}])
    assert rows[0]["status"] == "wrong result, not timed"
    assert "full_seconds" not in rows[0]
    assert "wrong result, not timed" in report.markdown(rows)


def test_failed_process_is_reported_and_not_timed():
    result = bench.run_worker({**JOB, "variant": "none-such"}, timeout=60)
    assert "variant must be one of" in result["failed"]
    rows = report.summarise([{**JOB, "variant": "none-such", "runs": [result]}])
    assert rows[0]["status"].startswith("failed: ")


def test_job_gives_paired_samples_and_figures(tmp_path):
    result = worker.run_job({**JOB, "variant": "slabs-lean"})
    assert {name: len(values) for name, values in result["samples"].items()} == {
        "full": 2, "forward": 2, "products": 2, "products_forward": 2,
    }  # fmt: skip
    results = [{**JOB, "variant": "slabs-lean", "runs": [result]}]
    rows = report.summarise(results)
    expected = 6 * 64 * 128 * 26 / rows[0]["full_seconds"] / 1e12
    assert rows[0]["tflops"] == pytest.approx(expected)
    report.write(tmp_path, report.machine(JOB), results, rows)
    stored = json.loads((tmp_path / "bench.json").read_text())
    assert stored["results"][0]["runs"][0]["samples"] == result["samples"]
    assert len(stored["machine"]["commit"]) == 40
    report.plot(tmp_path, rows)
    assert (tmp_path / "bench-tiny.png").stat().st_size > 5000
    assert (tmp_path / "bench.csv").read_text().startswith("shape,batch,dtype,variant,tokens")


def test_variants_run_in_one_order_and_then_the_other(monkeypatch):
    seen = []
    monkeypatch.setattr(
        bench, "run_worker", lambda job, timeout: seen.append(job["variant"]) or {"ratio": 1.0}
    )
    jobs = [{**JOB, "variant": name} for name in "abc"]
    saved = []
    bench.measure(jobs, 2, 1.0, lambda results: saved.append(sum(len(job["runs"]) for job in results)))
    assert seen == ["a", "b", "c", "c", "b", "a"]
    assert saved == [1, 2, 3, 4, 5, 6]


def test_later_rounds_leave_out_what_takes_too_long(monkeypatch):
    seen = []
    monkeypatch.setattr(
        bench,
        "run_worker",
        lambda job, timeout: seen.append(job["variant"]) or {"ratio": 1.0, "once": job["variant"] == "b"},
    )
    bench.measure([{**JOB, "variant": name} for name in "abc"], 2, 1.0, lambda results: None)
    assert seen == ["a", "b", "c", "c", "a"]


def test_long_pass_is_checked_metered_and_timed_at_once(monkeypatch):
    calls = []

    def counted(variant, batch):
        right = loss_of(variant, batch)
        return lambda batch: calls.append(variant) or right(batch)

    monkeypatch.setattr(worker, "loss_of", counted)
    result = worker.run_job({**JOB, "variant": "torch", "patience": 0})
    assert calls == ["torch"]
    assert result["once"]
    assert max(result["error"].values()) < 1e-5
    assert result["extra_bytes"] >= 0
    assert {name: len(values) for name, values in result["samples"].items()} == {
        "full": 1, "forward": 0, "products": 1, "products_forward": 0,
    }  # fmt: skip
    (row,) = report.summarise([{**JOB, "variant": "torch", "runs": [result]}])
    assert row["full_seconds"] == result["samples"]["full"][0]
    assert "forward_seconds" not in row
    assert "| torch (once) |" in report.markdown([row])


def test_products_are_measured_in_the_given_dtype_too_where_the_machine_prefers_another(monkeypatch):
    from kernels.token_logprob import dtypes

    selection = ["--shapes", "tiny@64", "--batches", "dense", "--against", "", "--device", "cpu"]
    for best, expected in (
        (torch.float32, ["products-as-given"]),
        (torch.bfloat16, []),
    ):
        monkeypatch.setattr(dtypes, "product_dtype", lambda dtype, device, best=best: best)
        jobs = bench.resolve(bench.parse([*selection, "--dtype", "bf16"]))
        assert [job["variant"] for job in jobs] == ["products", "slabs-keep", "slabs-lean", *expected]
    batch = batches.make_batch(head_shape("tiny@64"), "dense", torch.bfloat16, "cpu")
    made = []
    monkeypatch.setattr(worker, "products", lambda batch, dtype: made.append(dtype) or (None, None))
    monkeypatch.setattr(worker, "product_dtype", lambda dtype, device: torch.float32)
    for variant in ("products", "products-as-given"):
        worker.passes(variant, batch)
    assert made == [torch.float32, torch.bfloat16]


def test_interrupted_benchmark_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    def run(job, timeout):
        if job["variant"] == "torch":
            raise KeyboardInterrupt
        return worker.run_job(job)

    monkeypatch.setattr(bench, "run_worker", run)
    selection = ["--shapes", "tiny@64", "--batches", "dense", "--against", "torch", "--device", "cpu"]
    assert bench.main([*selection, "--rounds", "1", "--dtype", "fp32", "--out", str(tmp_path)]) == 130
    assert "holds what was measured" in capsys.readouterr().err
    stored = json.loads((tmp_path / "bench.json").read_text())
    assert [row["variant"] for row in stored["table"]] == ["products", "slabs-keep", "slabs-lean"]
    assert all(row["full_seconds"] > 0 for row in stored["table"])


def test_interval_contains_the_median_and_is_reproducible():
    values = [1.0, 1.1, 1.2, 5.0, 1.05]
    median, low, high = report.median_interval(values)
    assert median == 1.1
    assert low <= median <= high
    assert report.median_interval(values) == (median, low, high)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "gpt9@12"], "shape must name one of"),
        (["--shapes", "tiny@0"], "positive number of tokens"),
        (["--against", "nobody"], "`--against` must be of trl"),
        (["--batches", "odd"], "`--batches` must be of dense"),
        (["--rounds", "0"], "`--rounds` must be >= 1, got 0"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message, capsys):
    assert bench.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_recorded_batch_is_read_or_asked_for(monkeypatch, tmp_path):
    path = tmp_path / "grpo_batch.npz"
    monkeypatch.setattr(batches, "RECORDED", path)
    with pytest.raises(FileNotFoundError, match="no recorded GRPO step"):
        batches.recorded_batch()
    np.savez(path, mask=np.ones((2, 3), np.uint8), advantages=np.zeros(3, np.float32), recorded="how")
    with pytest.raises(ValueError, match=r"mask must be \[B, T\], advantages \[B\]"):
        batches.recorded_batch()
    np.savez(path, mask=np.ones((2, 3), np.uint8), advantages=np.float32([0, 1]), recorded="how")
    problem = batches.make_batch(head_shape("tiny@64"), "recorded", torch.float32, "cpu")
    assert problem.coefficients.tolist() == pytest.approx([0, 0, 0, 1 / 6, 1 / 6, 1 / 6])


def test_whole_command(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "run_worker", lambda job, timeout: worker.run_job(job))
    selection = ["--shapes", "tiny@64", "--batches", "dense", "--against", "torch", "--device", "cpu"]
    assert (
        bench.main([*selection, "--rounds", "1", "--repeats", "1", "--dtype", "fp32", "--out", str(tmp_path)])
        == 0
    )
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["bench-tiny.png", "bench.csv", "bench.json", "bench.md"]


def test_an_interruption_while_results_are_written_loses_none(tmp_path, monkeypatch):
    report.write(tmp_path, {"schema": 1}, [], [])
    before = (tmp_path / "bench.json").read_text()
    write_text = pathlib.Path.write_text

    def cut_short(path, text, **options):
        write_text(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "write_text", cut_short)
    with pytest.raises(KeyboardInterrupt):
        report.write(tmp_path, {"schema": 1, "more": "x" * 99}, [], [])
    assert (tmp_path / "bench.json").read_text() == before
