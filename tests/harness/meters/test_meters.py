import time

import numpy as np
import pytest
import torch

from harness.meters import provenance
from harness.meters.clock import PhaseClock, merged_peaks
from harness.meters.cost import cost_usd
from harness.meters.flops import FlopsModel, measured_peak
from harness.meters.memory import PeakMemory
from kernels import provenance as code


def test_cost_of_the_reference_study():
    # Four A40 for a day: the $42 that Open-RS reports.
    assert cost_usd(24 * 3600, devices=4, usd_per_hour=0.4375) == pytest.approx(42.0)
    assert cost_usd(0, devices=2, usd_per_hour=1.0) == 0
    with pytest.raises(ValueError, match="`seconds` must be >= 0, got -1"):
        cost_usd(-1, devices=1, usd_per_hour=1.0)


def test_phases_and_other_add_up_to_the_total():
    clock = PhaseClock()
    with clock.phase("rollout"):
        time.sleep(0.02)
    time.sleep(0.01)
    with clock.phase("update"):
        time.sleep(0.01)
    with clock.phase("rollout"):
        time.sleep(0.02)
    seconds = clock.with_other()
    assert seconds["rollout"] >= 0.04
    assert seconds["other"] >= 0.01
    assert sum(seconds.values()) == pytest.approx(clock.total(), abs=2e-3)


def test_a_phase_inside_a_phase_is_refused_and_a_failing_phase_is_counted():
    clock = PhaseClock()
    with (
        pytest.raises(RuntimeError, match="inside phase 'update'"),
        clock.phase("update"),
        clock.phase("rollout"),
    ):
        pass
    with pytest.raises(KeyError), clock.phase("reward"):
        raise KeyError
    assert set(clock.seconds) == {"update", "reward"}


def test_peak_memory_sees_what_was_freed_again():
    memory = PeakMemory()
    if not memory.exact:
        pytest.skip("the kernel does not let this process reset its resident peak")
    memory.reset()
    before = memory.read()["resident_gib"]
    block = np.ones(64 * 2**20)  # 512 MiB
    del block
    peak = memory.read()["resident_gib"]
    assert peak - before == pytest.approx(0.5, abs=0.1)
    memory.reset()
    assert memory.read()["resident_gib"] < peak - 0.3
    assert memory.read()["allocated_gib"] is None


def test_merged_peaks_take_the_larger_and_leave_the_unmeasured_empty():
    assert merged_peaks({"a": 1.0, "b": None}, {"a": 0.5, "b": None}) == {"a": 1.0, "b": None}


def test_flops_of_a_decoder_against_a_count_of_its_products():
    # One layer of width 2, 10 weights: each token 20 FLOPs, plus 4·2 per key it sees.
    model = FlopsModel(weights=10, hidden=2, layers=1)
    by_hand = sum(20 + 8 * keys for keys in (1, 2, 3))
    assert model.forward([3]) == by_hand
    assert model.forward([3], prefix=[2]) == 20 + 8 * 3
    assert model.train([3]) == 3 * by_hand


def test_flops_of_the_body_against_torchs_own_counter(random_model):
    from torch.utils.flop_counter import FlopCounterMode

    from harness.training.trainer import flops_model

    class Loaded:
        model = random_model

    # The counter does not know the fused attention of a CPU.
    random_model.set_attn_implementation("eager")
    ids = torch.zeros((1, 24), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        random_model(ids, use_cache=False)
    flops = flops_model(Loaded)
    # The counter takes full attention, where a causal query sees half the keys.
    full = 2 * flops.weights * 24 + 4 * flops.layers * flops.hidden * 24 * 24
    assert counter.get_total_flops() == pytest.approx(full, rel=0.02)


def test_measured_peak_is_a_plausible_rate():
    assert 1e8 < measured_peak(seconds=0.02, size=256) < 1e14


def test_provenance_names_the_commit_and_refuses_to_guess(tmp_path, monkeypatch):
    found = provenance.collect()
    assert len(found.commit) == 40
    assert found.versions["torch"] == torch.__version__
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.setattr(code, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(code.ProvenanceError, match="cannot say which code made it"):
        provenance.collect()
