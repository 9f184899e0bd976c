"""From the command line of `harness.evaluate` to a session, and from its records to tables and exports."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic import ValidationError

from harness.evaluation.benchmarks import benchmark
from harness.evaluation.exports import export
from harness.evaluation.session import Session, check, evaluate, rescore, run_folder
from harness.evaluation.tables import evaluations_in, evaluations_table, write_tables
from harness.models.catalog import resolve_model
from harness.reporting.formats import text_table
from harness.spec.errors import SpecError
from harness.spec.evaluation import EvaluateSpec
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import ModelSpec
from harness.spec.source import Located, read_yaml
from harness.spec.validate import validated
from harness.store.records.form import JsonObject

LONGEST = 32_768
"""Length cap where none is asked for, as in the field's evaluations of reasoning models."""
PROMPT_ROOM = 512
"""Tokens of the context that are left to the prompt then."""


def run(arguments: argparse.Namespace, *, default_out: Path) -> None:
    """Does what the command line asks for and prints the table.

    Raises:
        SpecError: something in it is wrong.
    """
    if arguments.rescore is not None:
        out = arguments.rescore
        if not evaluations_in(out):
            raise SpecError(
                f"--rescore: {out} holds no evaluations", hint="give a folder of harness.evaluate"
            )
        changed = rescore(out, _say)
        _say(f"{changed} verdicts changed" if changed else "every verdict is as it was")
        chosen = None
    else:
        session = build(arguments, default_out)
        source = check(session)
        out = session.out
        evaluate(session, source, _say)
        chosen = run_folder(session, source).run_id
    found = evaluations_in(out)
    write_tables(out, evaluations_table(found))
    mine = [pair for pair in found if chosen in (None, pair[0].run_id)]
    table = evaluations_table(mine)
    _say("\n" + text_table(table.header, table.rows, table.left))
    _say(f"\ntables: {out / 'tables' / 'evaluations.csv'}")
    if arguments.export is not None:
        for path in export(mine, arguments.export):
            _say(f"export: {path}")


def build(arguments: argparse.Namespace, default_out: Path) -> Session:
    """The session that the command line describes.

    Raises:
        SpecError: an option is missing or out of range.
    """
    if arguments.model is None:
        raise SpecError("--model: missing", hint="give `tiny`, a folder or a hub id")
    model = ModelSpec(name=arguments.model, dtype=arguments.dtype)
    names = [
        benchmark(b, questions=arguments.questions).model_dump(mode="json") for b in arguments.benchmarks
    ]
    # What stands on the command line goes before the file, the file before the defaults.
    located = Located({"benchmarks": names} if names else {})
    if arguments.config:
        located = read_yaml(arguments.config).merged(located)
        validated(EvaluateSpec, located)
    elif not names:
        raise SpecError("--benchmarks: missing", hint="name at least one, such as champ, or give --config")
    given: JsonObject = {
        "samples": arguments.samples,
        "max_completion_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "seed": arguments.seed,
    }
    greedy = arguments.temperature == 0
    defaults = {"samples": 1 if greedy else 8, "temperature": 0.6, "top_p": 1.0 if greedy else 0.95}
    fields: JsonObject = {**defaults, **located.data, **{k: v for k, v in given.items() if v is not None}}
    if "max_completion_tokens" not in fields:
        fields["max_completion_tokens"] = max(
            1, min(LONGEST, resolve_model(model).context_tokens - PROMPT_ROOM)
        )
    stated: JsonObject = {
        "system": arguments.system,
        "template": arguments.template,
        "format": arguments.format,
        "chat_template": arguments.chat_template,
    }
    prompt = {name: value for name, value in stated.items() if value is not None}
    if arguments.part_rows < 1 or min(arguments.caps, default=1) < 1:
        raise SpecError("--part-rows and --caps: must be >= 1")
    try:
        spec = EvaluateSpec.model_validate(fields)
        asked = PromptSpec.model_validate(prompt)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        own = first.get("ctx", {}).get("error")  # of a rule of ours, which names the value itself
        raise SpecError(
            where + (str(own) if own else f"{first['msg']}, got {first['input']!r}"[:300])
        ) from None
    return Session(
        model=model,
        evaluate=spec.model_copy(update={"prompt": None}),
        prompt=asked if prompt or spec.prompt is None else spec.prompt,
        caps=tuple(arguments.caps),
        engine=arguments.engine,
        out=arguments.out or default_out,
        part_rows=arguments.part_rows,
    )


def _say(text: str) -> None:
    print(text, flush=True)
