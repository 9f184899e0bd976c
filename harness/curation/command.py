"""From a recipe's file to a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.curation.account import write_account
from harness.curation.funnel import benchmarks_of, run_funnel
from harness.data.sources import check_rows, check_source
from harness.data.templates import prompt_facts
from harness.models.catalog import resolve_model
from harness.models.converted import check_convertible
from harness.reporting.formats import text_table
from harness.spec.curation import CurationRecipe, DecontaminateStage, DifficultyStage, JudgeStage
from harness.spec.errors import SpecError
from harness.spec.source import Located, Path_, read_yaml
from harness.spec.validate import dotted, validated
from harness.store.atomic import make_folder, write_json


def load_recipe(file: Path) -> CurationRecipe:
    """Reads a recipe and finds everything that it names, before anything is written.

    Raises:
        SpecError: the file is wrong, or a source, benchmark or model isn't there.
    """
    located = read_yaml(file)
    recipe = validated(CurationRecipe, located)
    for index, spec in enumerate(recipe.sources):
        with _located(located, ("sources", index)):
            check_source(spec.source)
    for index, stage in enumerate(recipe.stages):
        with _located(located, ("stages", index)):
            if isinstance(stage, DecontaminateStage):
                for entry in benchmarks_of(stage):
                    check_source(entry.source)
                    check_rows(entry.source)
            if isinstance(stage, DifficultyStage | JudgeStage):
                source = resolve_model(stage.model)
                prompt_facts(stage.prompt, source)
                check_convertible(source)
    return recipe


@contextmanager
def _located(located: Located, path: Path_) -> Iterator[None]:
    """Tells an error of the block with the line that it is about."""
    try:
        yield
    except SpecError as error:
        raise located.error(path, f"{dotted(path)}: {error.message}", error.hint) from None


def curate(recipe: CurationRecipe, out: Path) -> None:
    """Builds the dataset under `out`, or goes on building it, and prints the funnel.

    Raises:
        SpecError: another process curates there, or the folder holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "stages").is_dir():
        raise SpecError(
            f"output folder {out}: holds something else than a curation", hint="give another --out"
        )
    make_folder(out)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=5)
    except Timeout:
        raise SpecError(f"{out}: another process curates here", hint="wait for it") from None
    try:
        make_folder(out / "stages")
        write_json(out / "recipe.resolved.json", recipe.model_dump(mode="json"))
        funnel = run_funnel(recipe, out, _say)
        table = write_account(funnel, out)
    finally:
        lock.release()
    _say("\n" + text_table(table.header, table.rows, table.left))
    _say(f"\n{len(funnel.dataset):,} items: {out / 'dataset.jsonl'}")


def _say(text: str) -> None:
    print(text, flush=True)
