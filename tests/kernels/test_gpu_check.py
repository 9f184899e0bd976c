"""The check for the day a GPU is there: without one it says so; with one, computed occupancy is the driver's."""

from __future__ import annotations

import pytest
import torch

from kernels.gpu_check import compare_occupancy, device_folder, differing, main


def test_without_a_device_it_says_so_and_exits_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("NVIDIA A40", "a40"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
    ],
)
def test_results_are_filed_by_device(name, folder):
    assert device_folder(name) == folder


def test_a_wrong_occupancy_is_named():
    computed = {
        "op/a": {"86": {"blocks_per_sm": 2}},
        "op/b": {"86": {"blocks_per_sm": 3}},
        "op/c": {"86": "no"},
    }
    real = {"op/a": {"blocks_per_sm": 2}, "op/b": {"blocks_per_sm": 2}, "op/c": {"blocks_per_sm": 1}}
    assert differing(computed, real, 86) == [
        "op/b: 3 blocks an SM computed, 2 by the driver",
        "op/c: does not compile: no",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_computed_occupancy_is_the_drivers():
    major, minor = torch.cuda.get_device_capability()
    _, differences = compare_occupancy(major * 10 + minor)
    assert differences == []
