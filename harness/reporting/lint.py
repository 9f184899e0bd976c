"""What the lint says of the study's grid, for the report."""

from __future__ import annotations

from typing import Any

from harness.store.study import Study


def findings(study: Study) -> list[dict[str, str]]:
    """`severity`, `rule`, `message` of every finding that was recorded with the grid; empty where none was.

    The findings are read from `grid.resolved.json` (`lint`), where the planner leaves them: a report says what was
    known when the study was made, whatever the rules say later.
    """
    found: list[dict[str, str]] = []
    recorded: list[Any] = study.grid.get("lint") or []
    for finding in recorded:
        if isinstance(finding, dict):
            found.append({k: str(finding.get(k) or "") for k in ("severity", "rule", "message")})
        else:
            found.append({"severity": "", "rule": "", "message": str(finding)})
    return found
