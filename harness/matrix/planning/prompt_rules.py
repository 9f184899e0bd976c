"""Rules on prompts, found by rendering the chat templates of a grid's models."""

from __future__ import annotations

from collections.abc import Iterator

from harness.data.templates import PromptFacts, PromptRefused, prompt_facts
from harness.models.catalog import resolve_model
from harness.models.errors import ModelNotFound
from harness.rewards.builtin import REWARDS
from harness.spec.grid import Cell, Grid
from harness.spec.lint.finding import Finding, Place, Severity
from harness.spec.source import Path_


def prompt_findings(grid: Grid) -> list[Finding]:
    """What the chat templates make of the prompts; a model that is not here was told elsewhere."""
    found: dict[Finding, None] = {}
    looked: dict[tuple[str, str], PromptFacts | PromptRefused | None] = {}
    for cell in grid.cells:
        if cell.seed != grid.head.seeds[0]:
            continue
        key = cell.recipe.prompt.model_dump_json(), cell.recipe.model.model_dump_json()
        if key not in looked:
            looked[key] = _looked(cell)
        found |= dict.fromkeys(_of_cell(grid, cell, looked[key]))
    return list(found)


def _looked(cell: Cell) -> PromptFacts | PromptRefused | None:
    try:
        return prompt_facts(cell.recipe.prompt, resolve_model(cell.recipe.model))
    except PromptRefused as error:
        return error
    except ModelNotFound:
        return None


def _of_cell(grid: Grid, cell: Cell, facts: PromptFacts | PromptRefused | None) -> Iterator[Finding]:
    def finding(rule: str, severity: Severity, path: Path_, effect: str, instead: str) -> Finding:
        key, line = grid.where(cell, path)
        place = Place(key=key, line=line)
        return Finding(
            rule=rule, severity=severity, file=grid.file, place=place, effect=effect, instead=instead
        )

    name = cell.recipe.model.name
    if isinstance(facts, PromptRefused):
        path = ("prompt", facts.field)
        yield finding("chat-template", "error", path, facts.message, facts.hint or "another template")
    if not isinstance(facts, PromptFacts):
        return
    if facts.system_moved:
        yield finding(
            "system-moved",
            "info",
            ("prompt", "system"),
            f"the chat template of {name} puts the system message into the user's turn",
            "nothing, if that is meant; or a `prompt.chat_template` with a turn for it",
        )
    if facts.dated:
        yield finding(
            "prompt-date",
            "warning",
            ("prompt", "template_args"),
            f"the chat template of {name} writes the date of the day into every prompt: a run that goes on tomorrow "
            "asks other questions",
            "a fixed one, such as `template_args: {date_string: 26 Jul 2024}`, if the template reads that name",
        )
    for index, function in enumerate(cell.recipe.reward.functions):
        if (builtin := REWARDS.get(function.name)) is None:
            continue
        at: Path_ = ("reward", "functions", index)
        if facts.opened and builtin.reads_opened:
            yield finding(
                "opened-thought",
                "info",
                at,
                f"the prompt of {name} ends in <think>: `{function.name}` reads it together with the completion",
                "nothing; the completion need not open <think> itself",
            )
        if facts.closed and builtin.wants_thought:
            yield finding(
                "opened-thought",
                "warning",
                at,
                f"the prompt of {name} ends in </think>: `{function.name}` pays for a thought that the completion "
                "has no reason to write",
                "a prompt that leaves the thought open, or a reward for the answer's layout, such as `boxed`",
            )
