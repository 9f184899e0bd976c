"""Ends of processes: with their parents, and on signals that come in pairs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

NESTED_SIGNALS = """
import signal, sys
from harness.processes import stop_on
flag = stop_on([signal.SIGTERM])
left = 50

def interrupt_every_line(frame, event, argument):
    global left
    if left:
        left -= 1
        signal.raise_signal(signal.SIGTERM)
    return interrupt_every_line

sys.settrace(interrupt_every_line)
signal.raise_signal(signal.SIGTERM)
sys.settrace(None)
print(flag.is_set(), left < 50)
"""

PARENT_AND_CHILD = """
import subprocess, sys, time
child = '''
import signal, sys, time
{refusal}
from harness.processes import die_with_parent
die_with_parent(signal.SIGKILL)
print("asked", flush=True)
time.sleep(600)
'''
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(600)
"""


def python(source):
    return subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_signal_within_the_handler_of_another_does_not_block():
    """A killed parent sends its death signal once for each of its threads."""
    with python(NESTED_SIGNALS) as process:
        try:
            text, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert text.split() == ["True", "True"]


@pytest.mark.parametrize(
    "refusal",
    [
        "",
        "sys.platform = 'darwin'",
        "import ctypes; ctypes.CDLL = lambda _: type('Refusing', (), {'prctl': staticmethod(lambda *_: -1)})",
    ],
    ids=["as here", "no such call", "refused"],
)
def test_a_child_ends_with_its_killed_parent(refusal):
    with python(PARENT_AND_CHILD.format(refusal=refusal)) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        child.wait(timeout=120)
    finally:
        if child.is_running():
            child.kill()


def test_a_parent_that_ended_before_the_kernel_was_asked_is_noticed(monkeypatch):
    """Only `harness.processes` sees the stand-ins: the watching threads of other tests ask the real system."""
    from harness import processes

    parents, sent = iter([41, 1]), []
    system = SimpleNamespace(
        getppid=lambda: next(parents), getpid=os.getpid, kill=lambda *call: sent.append(call)
    )
    library = SimpleNamespace(CDLL=lambda _: SimpleNamespace(prctl=lambda *_: 0))
    monkeypatch.setattr(processes, "os", system)
    monkeypatch.setattr(processes, "ctypes", library)
    monkeypatch.setattr(processes, "sys", SimpleNamespace(platform="linux"))
    processes.die_with_parent(signal.SIGTERM)
    assert sent == [(os.getpid(), signal.SIGTERM)]
