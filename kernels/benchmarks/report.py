"""Medians and intervals of the raw samples, as a table, files and plots."""

from __future__ import annotations

import csv
import io
import json
import platform
import random
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernels.benchmarks.variants import OURS, PRODUCTS, PRODUCTS_ALONE
from kernels.provenance import code_version
from kernels.token_logprob.shapes import head_shape

SCHEMA = 1
RESAMPLES = 2000
MIB = 1 << 20
WIDE = 10
"""Ratio of the largest to the smallest time from which a plot's time axis is logarithmic."""
COLUMNS = (
    "shape", "batch", "dtype", "variant", "tokens", "live_rows", "full_seconds", "full_low", "full_high",
    "forward_seconds", "forward_low", "forward_high", "times_products", "times_products_low", "times_products_high",
    "tflops", "extra_mib", "samples", "once", "error", "status",
)  # fmt: skip
FLOPS_PER_CLOCK = {(8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096}
"""Dense 16-bit tensor-core operations of an SM per clock, from NVIDIA's architecture papers."""


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval, from a fixed seed."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.median(values), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per shape, batch and variant; a figure that was not measured is absent."""
    rows = []
    for job in results:
        row: dict[str, Any] = {name: job[name] for name in ("shape", "batch", "dtype", "variant")}
        runs = [run for run in job["runs"] if "samples" in run]
        broken = next((run for run in job["runs"] if "samples" not in run), None)
        if broken is not None or not runs:
            row["status"] = "wrong result, not timed" if broken and "wrong" in broken else "failed"
            row["status"] += f": {broken['failed']}" if broken and "failed" in broken else ""
            rows.append(row)
            continue
        row |= {"status": "ok", "tokens": runs[0]["tokens"], "live_rows": runs[0]["live_rows"]}
        samples = {name: [s for run in runs for s in run["samples"][name]] for name in runs[0]["samples"]}
        row["samples"] = len(samples["full"])
        row["once"] = any(run["once"] for run in runs)
        for name in (name for name in ("full", "forward") if samples[name]):
            row[f"{name}_seconds"], row[f"{name}_low"], row[f"{name}_high"] = median_interval(samples[name])
        pairs = [a / b for a, b in zip(samples["full"], samples["products"])]
        row["times_products"], row["times_products_low"], row["times_products_high"] = median_interval(pairs)
        shape = head_shape(job["shape"])
        row["tflops"] = 6.0 * row["tokens"] * shape.hidden * shape.vocab / row["full_seconds"] / 1e12
        extra = [run["extra_bytes"] for run in runs if run.get("extra_bytes") is not None]
        if extra:
            row["extra_mib"] = statistics.median(extra) / MIB
        if "error" in runs[0]:
            row["error"] = max(runs[0]["error"].values())
        _share_of_peak(row, runs)
        rows.append(row)
    return rows


def _share_of_peak(row: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    clock = runs[0].get("sm_clock_mhz")
    if not clock:
        return
    import torch

    device = torch.cuda.get_device_properties(0)
    per_clock = FLOPS_PER_CLOCK.get((device.major, device.minor))
    if per_clock is not None and row["dtype"] != "fp32":
        row["share_of_peak"] = row["tflops"] * 1e12 / (device.multi_processor_count * per_clock * clock * 1e6)


def machine(job: dict[str, Any]) -> dict[str, Any]:
    """Code, device and versions behind the figures of `job`. Raises as `code_version`."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        name = found[0] if found else name
    return {
        "schema": SCHEMA,
        **asdict(code_version("kernels")),
        "device": torch.cuda.get_device_name() if job["device"] == "cuda" else name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": job["threads"] or torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table per shape and batch."""
    lines = []
    for case in dict.fromkeys((row["shape"], row["batch"], row["dtype"]) for row in rows):
        lines += [
            f"\n### {case[0]}, {case[1]} batch, {case[2]}\n",
            "| variant | full pass s | 95 % interval | forward s | × products alone | 95 % interval "
            "| TFLOP/s | extra MiB | error |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in (row for row in rows if (row["shape"], row["batch"], row["dtype"]) == case):
            if row["status"] != "ok":
                lines.append(f"| {row['variant']} | {row['status']} | | | | | | | |")
                continue
            extra = f"{row['extra_mib']:.0f}" if "extra_mib" in row else ""
            error = f"{row['error']:.1e}" if "error" in row else ""
            forward = f"{row['forward_seconds']:.3f}" if "forward_seconds" in row else ""
            name = f"{row['variant']} (once)" if row["once"] else row["variant"]
            ratio, low, high = (row[f"times_products{end}"] for end in ("", "_low", "_high"))
            lines.append(
                f"| {name} | {row['full_seconds']:.3f} | {row['full_low']:.3f}–{row['full_high']:.3f} "
                f"| {forward} | {ratio:.2f} | {low:.2f}–{high:.2f} "
                f"| {row['tflops']:.3f} | {extra} | {error} |"
            )
    return "\n".join(lines)


def write(
    folder: Path, origin: dict[str, Any], results: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    """`bench.json` with every sample, `bench.csv` and `bench.md` in `folder`."""
    measured = json.dumps({"machine": origin, "results": results, "table": rows}, indent=1)
    _replace(folder / "bench.json", measured + "\n")
    columns = [*COLUMNS, *(["share_of_peak"] if any("share_of_peak" in row for row in rows) else [])]
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _replace(folder / "bench.csv", table.getvalue())
    facts = ", ".join(f"{name} {value}" for name, value in origin.items() if name != "schema")
    notes = (
        "Medians over all processes. `× products alone` pairs each timing with one of the three matrix products "
        "in the same process, into buffers made beforehand. `extra` is peak memory above the inputs and the "
        "gradients returned. `once`: the first pass took too long to repeat, and includes what it compiled."
    )
    _replace(folder / "bench.md", f"{facts}\n\n{notes}\n{markdown(rows)}\n")


def _replace(path: Path, text: str) -> None:
    """Writes a file atomically: Ctrl-C while it is written must not lose hours of measurements."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def plot(folder: Path, rows: list[dict[str, Any]]) -> None:
    """`bench-MODEL.png` for each model: time and memory over tokens.

    Where there is but one number of tokens, time against memory.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in rows if row["status"] == "ok" and row["batch"] == "dense"]
    for model in dict.fromkeys(row["shape"].split("@")[0] for row in measured):
        own = [row for row in measured if row["shape"].split("@")[0] == model]
        draw = _over_tokens if len({row["tokens"] for row in own}) > 1 else _time_and_memory
        figure, axes = pyplot.subplots(
            1, 2 if draw is _over_tokens else 1, figsize=(11, 4.5), layout="constrained", squeeze=False
        )
        draw(list(axes[0]), own)
        figure.suptitle(f"{own[0]['shape'] if len(axes[0]) == 1 else model}, {own[0]['dtype']}, dense batch")
        figure.savefig(folder / f"bench-{model}.png", dpi=120)
        pyplot.close(figure)


def _over_tokens(axes: list[Any], rows: list[dict[str, Any]]) -> None:
    for variant in dict.fromkeys(row["variant"] for row in rows):
        points = sorted((row for row in rows if row["variant"] == variant), key=lambda row: row["tokens"])
        tokens = [row["tokens"] for row in points]
        style = {"linewidth": 2.2 if variant in OURS else 1.2, "marker": "o", "label": variant}
        if variant in PRODUCTS_ALONE:
            style |= {"linestyle": "--", "color": "black"}
        axes[0].plot(tokens, [row["full_seconds"] for row in points], **style)
        if all("extra_mib" in row for row in points):
            axes[1].plot(tokens, [row["extra_mib"] for row in points], **style)
    for axis, label in zip(axes, ("full pass, seconds", "peak extra memory, MiB")):
        axis.set(xlabel="tokens", ylabel=label, xscale="log", yscale="log")
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)


def _time_and_memory(axes: list[Any], rows: list[dict[str, Any]]) -> None:
    axis = axes[0]
    for number, row in enumerate(rows):
        seconds, low, high = (row[name] for name in ("full_seconds", "full_low", "full_high"))
        if row["variant"] == PRODUCTS:
            axis.axvline(seconds, linestyle="--", color="black", label="the three products alone")
        elif "extra_mib" in row:
            colour = "tab:blue" if row["variant"] in OURS else "tab:gray"
            axis.errorbar(
                seconds, row["extra_mib"], xerr=[[seconds - low], [high - seconds]], fmt="o", color=colour
            )
            axis.annotate(
                row["variant"],
                (seconds, row["extra_mib"]),
                xytext=(6, 6 if number % 2 else -14),
                textcoords="offset points",
                color=colour,
            )
    axis.set(xlabel="full pass, seconds (95 % interval)", ylabel="peak extra memory, MiB")
    axis.set_yscale("symlog", linthresh=1)  # a small head needs less than the meter resolves
    times = [row["full_seconds"] for row in rows]
    if max(times) > WIDE * min(times):
        axis.set_xscale("log")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
