"""The committed evaluation of SmolLM2: its tables follow from its completions, without the model."""

import shutil
from pathlib import Path

from harness.evaluate import main

COMMITTED = Path(__file__).parents[3] / "results" / "evaluations" / "smollm2"


def test_scoring_the_completions_again_gives_the_committed_tables(tmp_path):
    out = tmp_path / "smollm2"
    shutil.copytree(COMMITTED, out)
    shutil.rmtree(out / "tables")
    assert main(["--rescore", str(out)]) == 0
    for table in sorted((COMMITTED / "tables").iterdir()):
        assert (out / "tables" / table.name).read_bytes() == table.read_bytes()
