"""The gate on simulated machines: quiet on equal sides, awake on slower ones, no regression unconfirmed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from harness.regression.gate import Settings, run_gate
from harness.regression.measure import MEMORY, TIME, Block, Pairs


class Machine:
    """Pairs with the noise that was measured on a shared two-core machine, or worse.

    Args:
        slowdown: log of candidate over baseline.
        seed: of the noise.
        noise: standard deviation of a pair; a share of pairs is ten times as wild.
        correlation: of neighbouring pairs.
        process: standard deviation of what a process brings along for its life.
        first: added in the first block alone.
    """

    def __init__(self, slowdown, seed, noise=0.06, correlation=0.25, process=0.005, first=0.0):
        self.rng = np.random.default_rng(seed)
        self.slowdown, self.noise, self.correlation, self.process = slowdown, noise, correlation, process
        self.first = first
        self.blocks = []

    def block(self, names, draw: random.Random, share):
        self.blocks.append(tuple(names))
        extra = self.first if len(self.blocks) == 1 else 0.0
        block = Block(device="simulated")
        for name in names:
            base, control, candidate = (self.side(int(70 * share)) for _ in range(3))
            block.pairs[TIME, name] = Pairs(
                list(candidate - base + self.slowdown + extra), list(control - base)
            )
        return block

    def side(self, n):
        noise = self.rng.normal(size=n)
        for i in range(1, n):
            noise[i] = self.correlation * noise[i - 1] + np.sqrt(1 - self.correlation**2) * noise[i]
        wild = np.where(self.rng.random(n) < 0.05, 10.0, 1.0)
        return self.noise / np.sqrt(2) * noise * wild + self.rng.normal() * self.process


def decisions(slowdown, runs, **noise):
    found = []
    for seed in range(runs):
        findings, _ = run_gate(Machine(slowdown, seed, **noise), ["case"], Settings())
        found.append(findings[0].comparison.decision)
    return found


def test_equal_sides_raise_no_alarm():
    found = decisions(0.0, 150)
    assert "worse" not in found
    assert found.count("ambiguous") <= 3


def test_faster_is_fine():
    assert set(decisions(-0.1, 20)) == {"fine"}


def test_five_per_cent_is_caught():
    found = decisions(np.log(1.05), 100)
    assert found.count("worse") >= 93
    assert found.count("fine") <= 1


def test_one_per_cent_is_no_regression():
    assert "worse" not in decisions(np.log(1.01), 60)


def test_a_flag_of_one_set_of_processes_is_not_a_regression():
    """The first processes were unlucky: fresh ones do not confirm it."""
    machine = Machine(0.0, 1, first=0.2)
    (finding,), _ = run_gate(machine, ["case"], Settings())
    assert finding.first.decision == "worse"
    assert finding.comparison.decision == "fine"
    assert finding.note == "flagged at first, not confirmed on fresh pairs"
    assert len(finding.pairs.differences) == finding.comparison.pairs


def test_decided_cases_are_measured_no_longer_and_blocks_grow():
    class Mixed(Machine):
        def block(self, names, draw, share):
            block = super().block(names, draw, share)
            for name in names:
                if name == "clear":
                    block.pairs[TIME, name] = Pairs([0.0] * 30, [0.0] * 30)
                    block.pairs[MEMORY, name] = Pairs([0.0], [0.0])
            return block

    machine = Mixed(np.log(1.028), 0, noise=0.2)
    findings, device = run_gate(machine, ["clear", "noisy"], Settings(blocks=3))
    assert device == "simulated"
    assert machine.blocks == [("clear", "noisy"), ("noisy",), ("noisy",)]
    pairs = {(f.kind, f.name): f.comparison.pairs for f in findings}
    assert pairs == {(TIME, "clear"): 30, (MEMORY, "clear"): 1, (TIME, "noisy"): 70 + 140 + 210}
    assert {f.name: f.comparison.decision for f in findings if f.kind == TIME}["noisy"] == "ambiguous"


def test_memory_that_grew_is_caught_from_few_pairs():
    class Hungry(Machine):
        def block(self, names, draw, share):
            return Block({(MEMORY, n): Pairs([0.2], [0.001]) for n in names}, "simulated")

    (finding,), _ = run_gate(Hungry(0.0, 0), ["case"], Settings())
    assert finding.comparison.decision == "worse"
    assert finding.first.decision == "worse"


@pytest.mark.parametrize("noise", [0.02, 0.15])
def test_more_noise_never_invents_a_regression(noise):
    assert "worse" not in decisions(0.0, 40, noise=noise, process=0.008)
