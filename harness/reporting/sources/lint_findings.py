"""What the lint said of the study's grid, for the report."""

from __future__ import annotations

from harness.store.errors import Damaged
from harness.store.schema import load
from harness.store.study import Study


def findings(study: Study) -> list[dict[str, str]]:
    """`severity`, `rule`, `message` of every finding, from `lint.json` of the output folder; empty without one.

    The matrix leaves that file: a report says what was known when the study was made, whatever the rules say later.
    """
    file = study.out / "lint.json"
    if study.sources or not file.exists():
        return []
    try:
        found = load("output", file).get("findings", [])
    except Damaged as error:
        return [
            {
                "severity": "warning",
                "rule": "damaged-file",
                "message": f"{error}; harness.ablate writes it anew",
            }
        ]
    return [{k: str(f.get(k) or "") for k in ("severity", "rule", "message")} for f in found]
