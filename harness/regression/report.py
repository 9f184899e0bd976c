"""Reports of the gate: JUnit XML for CI, a Markdown summary, JSON with every pair."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.regression.gate import UNITS, Finding
from harness.store.atomic import write_text
from harness.store.records.form import JsonObject

SCHEMA = 1
DONE, REGRESSION, AMBIGUOUS = 0, 1, 3

_FILES = ("regress.json", "regress.md", "junit.xml")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison.

    Attributes:
        baseline, candidate: as given on the command line.
        findings: one for each case and kind of figure.
        device: the device that was measured on.
        facts: commits, settings and provenance, for the JSON report.
    """

    baseline: str
    candidate: str
    findings: Sequence[Finding]
    device: str
    facts: JsonObject = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """1 if any finding is worse, else 3 if any is ambiguous, else 0."""
        decisions = {finding.comparison.decision for finding in self.findings}
        return REGRESSION if "worse" in decisions else AMBIGUOUS if "ambiguous" in decisions else DONE

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        worse = [f for f in self.findings if f.comparison.decision == "worse"]
        unclear = [f for f in self.findings if f.comparison.decision == "ambiguous"]
        if worse:
            return "REGRESSION: " + "; ".join(words(f) for f in worse)
        if unclear:
            return "AMBIGUOUS: " + "; ".join(words(f) for f in unclear)
        return f"no regression in {len(self.findings)} comparisons"


def words(finding: Finding) -> str:
    """A finding in one line."""
    c = finding.comparison
    what = f"{finding.kind} {finding.name}"
    if finding.kind == "accuracy":
        return f"{what}: {finding.note}"
    text = (
        f"{what} {_percent(c.ratio)} ({_percent(c.low)} to {_percent(c.high)}), "
        f"{_tolerance(finding)}, {c.pairs} pairs"
    )
    return f"{text}; {finding.note}" if finding.note else text


def markdown(verdict: Verdict) -> str:
    """The verdict as Markdown: a headline and a table of findings."""
    lines = [
        f"## {verdict.headline}",
        "",
        f"`{verdict.candidate}` against `{verdict.baseline}` on {verdict.device}.",
        "",
        "| what | candidate / baseline | interval | tolerance | pairs | finding |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for finding in verdict.findings:
        c = finding.comparison
        unit = UNITS.get(finding.kind)
        row = [
            f"{finding.kind} {finding.name}" + (f" ({unit})" if unit else ""),
            _percent(c.ratio),
            f"{_percent(c.low)} to {_percent(c.high)} ({100 * c.level:.0f} %)",
            _tolerance(finding),
            str(c.pairs),
            c.decision + (f": {finding.note}" if finding.note else ""),
        ]
        if finding.kind == "accuracy":
            row[1:4] = [
                _points(c.ratio),
                f"{_points(c.low)} to {_points(c.high)}",
                f"{100 * c.tolerance:.1f} points",
            ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    lines += [
        "",
        "A ratio is worse where its interval lies above the tolerance, in a first look and again on fresh pairs. The "
        "tolerance is the least one, or what the baseline measured against itself in the same job does not exclude.",
        "",
    ]
    return _printable("\n".join(lines))


def junit(verdict: Verdict) -> str:
    """The verdict as JUnit XML: a test case per finding, a failure if worse, an error if ambiguous."""
    counts = [f.comparison.decision for f in verdict.findings]
    suite = ET.Element(
        "testsuite",
        name="harness.regress",
        tests=str(len(counts)),
        failures=str(counts.count("worse")),
        errors=str(counts.count("ambiguous")),
        skipped="0",
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"baseline": verdict.baseline, "candidate": verdict.candidate, "device": verdict.device}
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=_printable(value))
    for finding in verdict.findings:
        case = ET.SubElement(
            suite, "testcase", classname=f"harness.regress.{finding.kind}", name=_printable(finding.name)
        )
        text = _printable(words(finding))
        if finding.comparison.decision == "worse":
            ET.SubElement(case, "failure", message=text, type="regression").text = text
        elif finding.comparison.decision == "ambiguous":
            ET.SubElement(case, "error", message=text, type="ambiguous").text = text
        else:
            ET.SubElement(case, "system-out").text = text
    return _document(suite)


def junit_failure(message: str, kind: str) -> str:
    """JUnit XML for a comparison without a verdict."""
    suite = ET.Element("testsuite", name="harness.regress", tests="1", failures="0", errors="1", skipped="0")
    case = ET.SubElement(suite, "testcase", classname="harness.regress", name="gate")
    ET.SubElement(case, "error", message=_printable(message), type=kind).text = _printable(message)
    return _document(suite)


def _document(suite: ET.Element) -> str:
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def to_json(verdict: Verdict) -> str:
    """The verdict as JSON, with every pair."""
    data = {
        "schema": SCHEMA,
        "baseline": verdict.baseline,
        "candidate": verdict.candidate,
        "device": verdict.device,
        "exit_code": verdict.exit_code,
        "headline": verdict.headline,
        "findings": [asdict(finding) for finding in verdict.findings],
        **verdict.facts,
    }
    return json.dumps(_finite(data), indent=1) + "\n"


def write(folder: Path, verdict: Verdict) -> None:
    """Writes `regress.json`, `regress.md` and `junit.xml` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(_FILES, (to_json(verdict), markdown(verdict), junit(verdict))):
        write_text(folder / name, text)


def clear(folder: Path) -> None:
    """Removes the reports of an earlier call, which could be mistaken for this call's if it fails."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %" if math.isfinite(ratio) else "?"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points" if math.isfinite(difference) else "?"


def _tolerance(finding: Finding) -> str:
    c = finding.comparison
    why = f" (noise of the baseline against itself {100 * c.noise:.1f} %)" if c.noise else ""
    return f"tolerance {100 * c.tolerance:.1f} %{why}"


def _printable(text: str) -> str:
    """Replaces the characters that XML 1.0 forbids (section 2.2), which include lone surrogates."""
    return _FORBIDDEN.sub("�", text)
