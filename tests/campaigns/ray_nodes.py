"""A matrix on a Ray cluster of two nodes, undisturbed and with a node removed half-way, against the local executor.

    python -m tests.campaigns.ray_nodes                                    the quickstart grid
    python -m tests.campaigns.ray_nodes --grid FILE --out DIR --removed-at 0.3

Given again, every part continues. `tables/accuracy.csv` of the three must be the same bytes. Results:
results/campaigns/ray_nodes.json and ray_nodes.md; the folders of the three matrices stay under --work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

ROOT = Path(__file__).resolve().parents[2]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def start(grid: Path, out: Path, executor: str, address: str | None) -> subprocess.Popen[bytes]:
    """The command, its output in a file beside the folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({"RAY_ADDRESS": address} if address else {})}
    command = [sys.executable, "-m", "harness.ablate", "--grid", str(grid), "--out", str(out)]
    with out.with_suffix(".txt").open("a") as output:
        return subprocess.Popen(
            [*command, "--executor", executor, "--workers", "2"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )


def finished_share(out: Path) -> float:
    """Share of the planned evaluations that are on file."""
    plan = out / "plan.json"
    if not plan.exists():
        return 0.0
    jobs = json.loads(plan.read_text())["jobs"]
    wanted = sum(len(job["steps"]) * len(job["evaluation_ids"]) for job in jobs)
    return len(list(out.glob("runs/*/evaluations/*.json"))) / wanted


def run(grid: Path, out: Path, executor: str, removed_at: float | None) -> dict[str, Any]:
    """One matrix to its end; with `removed_at`, the second node goes when that share is done."""
    begin, lost = time.monotonic(), None
    if executor == "local":
        code = start(grid, out, executor, None).wait()
    else:
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        second = cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        process = start(grid, out, executor, cluster.address)
        while process.poll() is None:
            if removed_at is not None and lost is None and finished_share(out) >= removed_at:
                lost = round(finished_share(out), 3)
                cluster.remove_node(second)
                print(f"a node removed at {lost:.0%}", flush=True)
            time.sleep(0.5)
        code = process.returncode
        ray.shutdown()
        cluster.shutdown()
    return {
        "executor": executor,
        "exit_code": code,
        "seconds": round(time.monotonic() - begin, 1),
        "node_removed_at": lost,
        "attempts": len(list(out.glob("runs/*/attempt-*"))),
        "runs": len(list(out.glob("runs/*/run.json"))),
    }


def slug(name: str) -> str:
    """The folder of a part."""
    return name.replace(", ", "-").replace(" ", "-")


def main() -> int:
    """Runs the three; exit code 1 where one fails or differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, default=ROOT / "ablations" / "quickstart.yaml")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "runs" / "ray-nodes")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "campaigns")
    parser.add_argument(
        "--removed-at", type=float, default=0.4, help="share of evaluations; default %(default)s"
    )
    arguments = parser.parse_args()
    file = arguments.out / "ray_nodes.json"
    rows: dict[str, Any] = json.loads(file.read_text())["runs"] if file.exists() else {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, executor, at in (
        ("local", "local", None),
        ("ray", "ray", None),
        ("ray, a node removed", "ray", arguments.removed_at),
    ):
        if rows.get(name, {}).get("exit_code") == 0:
            continue
        rows[name] = run(arguments.grid.resolve(), arguments.work / slug(name), executor, at)
        print(f"{name}: {rows[name]}", flush=True)
        file.write_text(json.dumps({"grid": arguments.grid.name, "runs": rows}, indent=1) + "\n")
    for name, row in rows.items():
        # By one version of the code, should it have changed between the parts.
        folder = arguments.work / slug(name)
        subprocess.run([sys.executable, "-m", "harness.report", str(folder), "--quiet"], cwd=ROOT, check=True)
        row["accuracy_sha256"] = hashlib.sha256((folder / "tables" / "accuracy.csv").read_bytes()).hexdigest()
    file.write_text(json.dumps({"grid": arguments.grid.name, "runs": rows}, indent=1) + "\n")
    digests = {row["accuracy_sha256"] for row in rows.values()}
    same = len(digests) == 1
    done = all(row["exit_code"] == 0 for row in rows.values())
    lines = [
        f"# {arguments.grid.name} on a Ray cluster of two nodes",
        "",
        f"Every matrix {'completes' if done else 'does NOT complete'}; the three accuracy tables are "
        f"{'the same bytes' if same else 'NOT the same'}.",
        "",
        "| | exit code | seconds | node removed at | runs | attempts | accuracy.csv (SHA-256) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        at = "" if row["node_removed_at"] is None else f"{row['node_removed_at']:.0%} of evaluations"
        digest = str(row["accuracy_sha256"])[:16]
        lines.append(
            f"| {name} | {row['exit_code']} | {row['seconds']} | {at} | {row['runs']} | "
            f"{row['attempts']} | {digest} |"
        )
    (arguments.out / "ray_nodes.md").write_text("\n".join([*lines, ""]))
    return 0 if same and done else 1


if __name__ == "__main__":
    sys.exit(main())
