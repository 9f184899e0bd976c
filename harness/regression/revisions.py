"""The two revisions of a comparison: what a user may name, and the temporary checkout of a git ref."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil

from harness.processes import signal_handlers
from harness.regression.errors import GateError, MissingBaseline

Kind = Literal["tree", "command", "results", "benchmark"]

COMMAND = "cmd:"
"""Prefix of a revision that is a command line."""

_PREFIX = "harness-regress-"


@dataclass(frozen=True)
class Revision:
    """What `--baseline` or `--candidate` names.

    Attributes:
        name: as the user gave it.
        kind: `tree` (a source tree or a git ref), `command`, `results` (an output folder of harness.ablate) or
            `benchmark` (a JSON file of pytest-benchmark, or a folder of such files).
        path: the tree, folder or file; None for a command or a ref that is not checked out yet.
        ref: the commit of a git ref.
    """

    name: str
    kind: Kind
    path: Path | None = None
    ref: str | None = None


def resolve(text: str, *, role: str, repository: Path) -> Revision:
    """Resolves what `text` names: a command (`cmd:…`), a folder, a file, or else a git ref of `repository`.

    Args:
        text: the option's value.
        role: `baseline` or `candidate`, for messages.
        repository: where refs are looked up.

    Raises:
        MissingBaseline: the baseline is none of these.
        GateError: the candidate is none of these.
    """
    if text.startswith(COMMAND):
        if not text.removeprefix(COMMAND).strip():
            raise GateError(
                f"--{role}: no command after {COMMAND}", f"give --{role} '{COMMAND}python bench.py'"
            )
        return Revision(text, "command")
    path = Path(text)
    if path.is_dir():
        if (path / "grid.resolved.json").exists():
            return Revision(text, "results", path)
        if (path / "kernels").is_dir() and (path / "harness").is_dir():
            return Revision(text, "tree", path.resolve())
        if any(path.glob("*.json")):
            return Revision(text, "benchmark", path)
        raise _unknown(role, f"{text}: neither a source tree nor a result folder nor benchmark files")
    if path.is_file():
        try:
            data = json.loads(path.read_text())
        except (ValueError, UnicodeDecodeError) as error:
            raise _unknown(role, f"{text}: is not JSON: {error}") from None
        if not isinstance(data, dict) or "benchmarks" not in data or "machine_info" not in data:
            raise _unknown(role, f"{text}: is not a file of pytest-benchmark")
        return Revision(text, "benchmark", path)
    done = subprocess.run(
        [
            "git",
            "-C",
            str(repository),
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{text}^{{commit}}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise _unknown(role, f"{text}: is no folder, no file and no git ref of {repository}")
    return Revision(text, "tree", None, done.stdout.strip())


def _unknown(role: str, message: str) -> GateError:
    kind = MissingBaseline if role == "baseline" else GateError
    hint = f"a git ref, a source tree, '{COMMAND}…', a result folder or a pytest-benchmark file"
    return kind(f"--{role} {message}", hint)


@contextlib.contextmanager
def checked_out(revision: Revision, repository: Path) -> Iterator[Path]:
    """The source tree of a revision. A git ref becomes a worktree in a temporary folder, removed at exit."""
    if revision.path is not None:
        yield revision.path
        return
    assert revision.ref is not None
    _remove_stale(repository)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    tree = folder / "tree"
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), "worktree", "add", "--detach", "--quiet", str(tree), revision.ref],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise GateError(
                f"{revision.name}: git cannot check it out: {done.stderr.strip().splitlines()[-1]}"
            )
        yield tree
    finally:
        _remove(repository, folder)


def _remove(repository: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "-C", str(repository), "worktree", "prune"], capture_output=True, check=False)


def _remove_stale(repository: Path) -> None:
    """Removes worktrees that killed processes left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            _remove(repository, folder)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into KeyboardInterrupt inside the block, so that clean-up runs as after Ctrl-C."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with signal_handlers((signal.SIGTERM, signal.SIGHUP), stop):
        yield
