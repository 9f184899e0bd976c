"""Defects of a published study that a grid made of its recipe keeps, since it is to do what the study did."""

from __future__ import annotations

from harness.spec.lint.finding import errors
from harness.spec.lint.trl_recipes import TrlRecipe
from harness.spec.lint.trl_rules import trl_findings

PUBLISHED = frozenset({"open-rs"})
"""Programs whose recipes are of a published study."""

REASON = "published so; the grid does what the recipe does"


def kept_defects(recipe: TrlRecipe) -> dict[str, str]:
    """Waivers of the errors in a published recipe that the grid has too, each with its reason; none of any other."""
    if recipe.program not in PUBLISHED:
        return {}
    found = (finding.rule for finding in errors(trl_findings(recipe)))
    return {rule: REASON for rule in found if rule.startswith("reward-") or rule == "logprob-temperature"}
