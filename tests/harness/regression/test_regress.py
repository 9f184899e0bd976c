"""The command as CI runs it: every exit code, its files, real processes, real refs, a real slow-down."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from harness.regress import main
from harness.regression.measure import CANDIDATE, Trees
from harness.regression.revisions import checked_out, interruptible, resolve
from tests.campaigns.gate import copy_tree

ROOT = Path(__file__).resolve().parents[3]
BUSY = 'cmd:{python} -S -c "sum(i * i for i in range({n}))"'


def regress(*arguments, cwd=ROOT, **environment):
    """The command in this process; what it measures runs in processes of its own all the same."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(tempfile, "tempdir", None)  # TMPDIR is read anew
        for name, value in environment.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*map(str, arguments)])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def busy(n):
    return BUSY.format(python=sys.executable, n=n)


@pytest.fixture(scope="module")
def benchmark_file(tmp_path_factory):
    """What pytest-benchmark itself writes, with seconds drawn by us: those of a busy machine decide nothing."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "test_it.py").write_text(
        "def test_sum(benchmark):\n    benchmark(sum, range(500))\n"
        "def test_sort(benchmark):\n    benchmark(sorted, list(range(200)))\n"
    )
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-max-time=0.05"),
        *("--benchmark-min-rounds=30", "--benchmark-json=result.json", "test_it.py"),
    ]
    # Where tests run side by side, pytest-benchmark would measure nothing.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=alone)
    return changed(folder / "result.json", folder / "drawn.json", drawn)


def changed(file, target, change):
    data = json.loads(file.read_text())
    change(data)
    target.write_text(json.dumps(data))
    return target


def drawn(data):
    rng = np.random.default_rng(0)
    for benchmark in data["benchmarks"]:
        assert len(benchmark["stats"]["data"]) >= 30
        benchmark["stats"]["data"] = (1e-3 * np.exp(rng.normal(0, 0.03, 100))).tolist()


def slower(factor):
    def change(data):
        for benchmark in data["benchmarks"]:
            stats = benchmark["stats"]
            stats["data"] = [factor * x for x in stats["data"]]

    return change


def test_equal_commands_pass(tmp_path):
    done = regress(
        *("--baseline", busy(200_000), "--candidate", busy(200_000), "--quick"),
        *("--seconds", 0.1, "--tolerance", 0.5, "--blocks", 6, "--out", tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "0")
    data = json.loads((tmp_path / "regress.json").read_text())
    assert {f["kind"] for f in data["findings"]} == {"time", "waiting", "memory"}
    for finding in data["findings"]:
        assert len(finding["pairs"]["differences"]) == finding["comparison"]["pairs"] >= 12
    assert (tmp_path / "regress.md").read_text().strip() in done.stdout


def test_a_slower_command_is_a_regression(tmp_path):
    done = regress(
        *("--baseline", busy(200_000), "--candidate", busy(2_000_000), "--quick"),
        *("--seconds", 0.1, "--out", tmp_path),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "REGRESSION: time command" in done.stdout
    failures = ET.parse(tmp_path / "junit.xml").getroot().findall(".//testcase/failure")
    assert failures
    assert "tolerance" in failures[0].get("message")
    data = json.loads((tmp_path / "regress.json").read_text())
    (time_finding,) = [f for f in data["findings"] if f["kind"] == "time"]
    assert time_finding["first"]["decision"] == "worse"  # and confirmed on fresh pairs


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--baseline", "no-such-ref", "--candidate", "HEAD"], 2, "no folder, no file and no git ref"),
        (["--baseline", "cmd:true", "--candidate", "HEAD"], 2, "both sides must be of one kind"),
        (["--baseline", "cmd:", "--candidate", "cmd:true"], 2, "no command after cmd:"),
        (["--baseline", "HEAD", "--candidate", "HEAD", "--checks", "speed"], 2, "must be of kernels"),
        (["--baseline", "HEAD", "--candidate", "HEAD", "--blocks", "0"], 2, "--blocks: must be > 0, got 0"),
        (
            ["--baseline", "cmd:false", "--candidate", "cmd:true", "--quick"],
            2,
            "the baseline's command fails",
        ),
        (
            ["--baseline", "HEAD", "--candidate", "HEAD", "--device", "cuda", "--quick"],
            5,
            "no CUDA device here",
        ),
        (["--baseline", "cmd:true", "--candidate", "cmd:false", "--quick"], 6, "fails: exit code 1"),
        (
            ["--baseline", "cmd:true", "--candidate", "cmd:/no/such", "--quick"],
            6,
            "the candidate's command fails",
        ),
    ],
)
def test_no_answer_has_its_own_exit_code(arguments, code, words, tmp_path):
    if "cuda" in arguments and Path("/dev/nvidia0").exists():
        pytest.skip("there is a CUDA device")
    done = regress(*arguments, "--out", tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    errors = ET.parse(tmp_path / "junit.xml").getroot().findall(".//error")
    assert len(errors) == 1


def test_the_harness_failing_is_not_the_candidates_fault():
    done = regress("--baseline", "HEAD", "--candidate", "HEAD", PATH="/nowhere")
    assert done.returncode == 4
    assert "the harness failed" in done.stderr


class TestBenchmarkFiles:
    def test_the_same_file_passes(self, benchmark_file):
        done = regress("--baseline", benchmark_file, "--candidate", benchmark_file)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("| fine") == 2

    def test_a_slower_one_is_a_regression_and_a_faster_one_is_not(self, benchmark_file, tmp_path):
        twice = changed(benchmark_file, tmp_path / "twice.json", slower(2.0))
        assert regress("--baseline", benchmark_file, "--candidate", twice).returncode == 1
        assert regress("--baseline", twice, "--candidate", benchmark_file).returncode == 0

    def test_without_raw_samples_the_spread_decides(self, benchmark_file, tmp_path):
        def bare(factor, iqr):
            def change(data):
                for benchmark in data["benchmarks"]:
                    stats = benchmark["stats"]
                    del stats["data"]
                    stats |= {"median": factor * 1e-3, "iqr": iqr * 1e-3, "rounds": 100}

            return change

        base = changed(benchmark_file, tmp_path / "base.json", bare(1.0, 0.01))
        for name, factor, iqr, code in (
            ("slow", 1.3, 0.01, 1),
            ("same", 1.02, 0.01, 0),
            ("wide", 1.1, 2.0, 3),
        ):
            other = changed(benchmark_file, tmp_path / f"{name}.json", bare(factor, iqr))
            done = regress("--baseline", base, "--candidate", other)
            assert done.returncode == code, (name, done.stdout, done.stderr)

    def test_several_files_a_side_are_paired_and_their_drift_is_the_noise(self, benchmark_file, tmp_path):
        for side, factors in (("a", (1, 1.3, 1, 1.3, 1, 1.3, 1)), ("b", (1.2, 1.5, 1.2, 1.5, 1.2, 1.5, 1.2))):
            (tmp_path / side).mkdir()
            for number, factor in enumerate(factors):
                changed(benchmark_file, tmp_path / side / f"{number:04d}.json", slower(factor))
        done = regress("--baseline", tmp_path / "a", "--candidate", tmp_path / "b")
        assert done.returncode == 0, done.stdout  # 20 % is within what the baseline does to itself
        assert "noise of the baseline against itself 30.0 %" in done.stdout

    def test_another_machine_is_no_answer(self, benchmark_file, tmp_path):
        other = changed(
            benchmark_file,
            tmp_path / "other.json",
            lambda data: data["machine_info"]["cpu"].update(brand_raw="Another CPU"),
        )
        done = regress("--baseline", benchmark_file, "--candidate", other)
        assert done.returncode == 5
        assert "Another CPU" in done.stderr

    def test_lost_and_unknown_benchmarks(self, benchmark_file, tmp_path):
        one = changed(benchmark_file, tmp_path / "one.json", lambda data: data["benchmarks"].pop())
        done = regress("--baseline", benchmark_file, "--candidate", one)
        assert (done.returncode, "missing from the candidate" in done.stderr) == (6, True)

        def renamed(data):
            for benchmark in data["benchmarks"]:
                benchmark["fullname"] += "-other"

        other = changed(benchmark_file, tmp_path / "renamed.json", renamed)
        done = regress("--baseline", other, "--candidate", benchmark_file)
        assert (done.returncode, "none of the candidate's benchmarks" in done.stderr) == (2, True)

    @pytest.mark.parametrize(
        "content", ["", "[]", '{"benchmarks": []}', '{"benchmarks": [], "machine_info": {}}']
    )
    def test_other_files_are_told(self, content, tmp_path, benchmark_file):
        (tmp_path / "x.json").write_text(content)
        done = regress("--baseline", tmp_path / "x.json", "--candidate", benchmark_file)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def commit(folder, message):
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for words in (["add", "."], ["commit", "-q", "-m", message]):
        subprocess.run(["git", *settings, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A git repository that looks like this product."""
    folder = tmp_path / "repository"
    for package in ("kernels", "harness"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True, capture_output=True)
    commit(folder, "one")
    return folder


def worktrees(repository):
    done = subprocess.run(
        ["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()


def test_refs_are_put_away_after_a_failure(repository, tmp_path):
    done = regress(
        "--baseline", "main", "--candidate", "HEAD", "--quick", cwd=repository, TMPDIR=str(tmp_path)
    )
    assert done.returncode == 2  # the baseline has no kernels
    assert "the baseline fails: RuntimeError: token_logprob:" in done.stderr
    assert len(worktrees(repository)) == 1
    assert not list(tmp_path.glob("harness-regress-*"))


def interrupted(arguments, folder, number, **options):
    """Exit code of the command that gets a signal while it measures, and the processes that it measured.

    What is measured writes its process id and never ends, so the gate cannot be done before the signal comes.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.regress", *arguments, "--quick"],
        # The gate's own modules are this tree's, not those of the repository that it is started in.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TMPDIR": str(folder)},
        stderr=subprocess.DEVNULL,
        **options,
    )
    end = time.monotonic() + 60
    while not (measured := list(folder.glob("measured-*"))):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait(60)
    pids = [int(path.name.removeprefix("measured-")) for path in measured]
    assert process.pid not in pids
    return code, pids


def endless(folder):
    mark = f"pathlib.Path({str(folder)!r}, f'measured-{{os.getpid()}}').touch()"
    return f"import os, pathlib, time\n{mark}\ntime.sleep(600)\n"


def test_refs_are_put_away_after_an_interruption(repository, tmp_path):
    (repository / "kernels" / "__init__.py").write_text(endless(tmp_path))
    commit(repository, "endless")
    refs = ["--baseline", "main", "--candidate", "HEAD"]
    code, pids = interrupted(refs, tmp_path, signal.SIGTERM, cwd=repository)
    assert code == 130
    assert not any(map(psutil.pid_exists, pids))
    assert len(worktrees(repository)) == 1
    assert not list(tmp_path.glob("harness-regress-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_measured_command_ends_with_an_interruption(tmp_path, number):
    (tmp_path / "endless.py").write_text(endless(tmp_path))
    command = f"cmd:{sys.executable} {tmp_path / 'endless.py'}"
    code, pids = interrupted(["--baseline", command, "--candidate", command], tmp_path, number)
    assert code == 130
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_checkout_is_put_away_whatever_ends_its_use(repository, tmp_path, monkeypatch, number):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(number)
    main_branch = resolve("main", role="baseline", repository=repository)

    def use():
        with interruptible(), checked_out(main_branch, repository) as tree:
            assert (tree / "kernels" / "__init__.py").exists()
            os.kill(os.getpid(), number)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        use()
    assert signal.getsignal(number) == before
    assert len(worktrees(repository)) == 1
    assert not list(tmp_path.glob("harness-regress-*"))


def test_a_killed_gates_tree_is_put_away_by_the_next(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = tmp_path / f"harness-regress-{dead.pid}-x"
    command = ["git", "worktree", "add", "--detach", str(stale / "tree"), "main"]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    assert len(worktrees(repository)) == 2
    with checked_out(resolve("HEAD", role="candidate", repository=repository), repository):
        assert not stale.exists()
    assert len(worktrees(repository)) == 1


def test_an_injected_slow_down_of_a_kernel_is_caught(tmp_path):
    """Three processes on real trees; the candidate's kernel spends half as much again."""
    slow = copy_tree(tmp_path / "slow", 0.5)
    from harness.regression.compare import RECIPE
    from harness.regression.gate import Settings, run_gate
    from harness.regression.measure import Job

    case = "token_logprob:tiny@64 dense slabs-lean"
    job = Job(cases=(case,), memory=(), device="cpu", threads=1, dtype="fp32", recipe=RECIPE)
    findings, _ = run_gate(Trees(ROOT, slow, job, 0.5), [case], Settings())
    (found,) = [f for f in findings if f.kind == "time"]
    assert found.comparison.decision == "worse"
    # The kernel is only a part of the call, and on another machine another part: 1.5 is the most it can be.
    assert 1.1 < found.comparison.ratio < 1.6


def test_a_candidate_that_computes_something_else_is_not_timed(tmp_path):
    from harness.regression.compare import RECIPE
    from harness.regression.errors import CandidateFailed
    from harness.regression.measure import Job

    wrong = copy_tree(tmp_path / "wrong")
    with (wrong / "kernels" / "token_logprob" / "autograd.py").open("a") as file:
        file.write(
            "\n_right = _TokenLogprob.backward\n"
            "_TokenLogprob.backward = staticmethod(\n"
            "    lambda *a: tuple(None if g is None else g * 1.01 for g in _right(*a))\n"
            ")\n"
        )
    case = "token_logprob:tiny@64 dense slabs-lean"
    job = Job(cases=(case,), memory=(), device="cpu", threads=1, dtype="fp32", recipe=RECIPE)
    import random

    with pytest.raises(CandidateFailed, match=r"a gradient is wrong by 1\.0e-02"):
        Trees(ROOT, wrong, job, 0.1).block([case], random.Random(0), 1.0)
    assert CANDIDATE == "candidate"
