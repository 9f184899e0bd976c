"""The worker process's limits."""

from __future__ import annotations

import resource

import pytest

from harness.rewards import worker


@pytest.mark.parametrize(
    "refusal", [ValueError("current limit exceeds maximum limit"), OSError(22, "Invalid")]
)
def test_without_a_limit_of_memory_the_worker_goes_on(monkeypatch, refusal):
    asked = []

    def setrlimit(kind, limits):
        asked.append(kind)
        if kind == resource.RLIMIT_AS:  # as macOS does
            raise refusal

    monkeypatch.setattr(worker.resource, "setrlimit", setrlimit)
    assert worker.limit_memory(1024) is False
    assert resource.RLIMIT_AS in asked


def test_where_it_can_be_the_memory_is_limited(monkeypatch):
    limits = {}
    monkeypatch.setattr(worker.resource, "setrlimit", lambda kind, pair: limits.update({kind: pair}))
    assert worker.limit_memory(64) is True
    assert limits[resource.RLIMIT_AS] == (64 << 20, 64 << 20)
