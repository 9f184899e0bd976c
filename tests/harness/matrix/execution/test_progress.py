"""What a person sees of a matrix at work."""

from __future__ import annotations

import io

from rich.console import Console

from harness.matrix.execution.progress import (
    LiveProgress,
    PlainProgress,
    RunView,
    View,
    headline,
)

RUN = RunView(label="cap=[32] seed=0", step=3, steps=10, reward=0.512, tokens_per_second=1234.5)
BASE = RunView(label="untrained tiny", step=0, steps=0, reward=None, tokens_per_second=None)
VIEW = View(done=2, failed=1, total=9, active=[RUN, BASE], seconds_left=130.0, spent_usd=0.0123)


def test_plain_lines_come_every_so_often():
    stream = io.StringIO()
    progress = PlainProgress(stream, every_seconds=0.0)
    progress.note("start")
    progress.update(VIEW)
    assert stream.getvalue().splitlines() == [
        "start",
        "2/9 runs done · 1 failed · 2 min 10 s left (estimate) · $0.012 spent  "
        "[cap=[32] seed=0] step 3/10, reward 0.512, 1234 tok/s  [untrained tiny] evaluating",
    ]
    quiet = PlainProgress(stream, every_seconds=60.0)
    quiet.update(VIEW)
    assert len(stream.getvalue().splitlines()) == 2


def test_a_finished_matrix_has_no_time_left():
    done = View(done=9, failed=0, total=9, active=[], seconds_left=None, spent_usd=0.5)
    assert headline(done) == "9/9 runs done · $0.50 spent"


def test_the_live_table_shows_runs_and_keeps_notes():
    stream = io.StringIO()
    progress = LiveProgress(Console(file=stream, force_terminal=True, width=120))
    progress.note("start [cap=[32] seed=0]")
    progress.update(VIEW)
    progress.close()
    text = stream.getvalue()
    for part in (
        "start [cap=[32] seed=0]",
        "2/9 runs done",
        "3/10",
        "0.512",
        "1234",
        "evaluating",
        "cap=[32] seed=0",
    ):
        assert part in text
