"""Options that need another package are told at their line before anything runs."""

from __future__ import annotations

import importlib.util

import pytest

from harness.matrix.planning.preflight import ResolvedInputs, resolve_inputs
from harness.spec.errors import SpecError
from harness.spec.grid import load_grid


@pytest.mark.parametrize(
    ("section", "package", "told"),
    [
        ("  model: {{name: {model}, lora: {{r: 4}}}}", "peft", "base.model.lora: peft is not installed"),
        ("  model: {{name: {model}, liger: true}}", "liger_kernel", "base.model.liger: liger-kernel is not"),
        (
            "  model: {model}\n  optimizer: {{name: adamw_8bit}}",
            "bitsandbytes",
            "base.optimizer.name: bitsandbytes is not",
        ),
    ],
)
def test_a_missing_package_is_told_at_the_line_that_asks_for_it(
    grid, model, monkeypatch, section, package, told
):
    text = grid.read_text()
    (line,) = [row for row in text.splitlines() if row.startswith("  model:")]
    grid.write_text(text.replace(line, section.format(model=model)))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == package else find(n, *a))
    with pytest.raises(SpecError, match=told) as caught:
        resolve_inputs(load_grid(grid), ResolvedInputs())
    assert "pip install" in str(caught.value)
