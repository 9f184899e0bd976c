"""Sources that hold a fixed list of questions: local files and hub datasets."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.data.errors import SourceNotFound
from harness.data.problem import Problem
from harness.spec.data import FileSource, HubSource
from harness.spec.source import nearest

HUB_TIMEOUT_SECONDS = 5.0
"""How long a question to the hub may take before a dataset counts as unreachable."""
SUFFIXES = (".jsonl", ".parquet", ".csv")


def load_file(spec: FileSource) -> list[Problem]:
    """All rows of a file, in order.

    Raises:
        SourceNotFound: the file, a column or a value is missing, or the file cannot be read.
    """
    check_file(spec)
    name = Path(spec.path).stem
    return [
        Problem(f"{name}:{index}", *_cells(row, spec, where), name, _difficulty(row, spec))
        for index, (where, row) in enumerate(_rows(spec))
    ]


def check_file(spec: FileSource) -> None:
    """Whether the file is there and has a row and both columns, from its head.

    Raises:
        SourceNotFound: otherwise.
    """
    path = Path(spec.path)
    if path.suffix not in SUFFIXES:
        raise SourceNotFound(f"{spec.path}: unknown suffix {path.suffix!r}", f"one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES)
        hint = nearest(path.name, siblings) if siblings else f"current folder: {Path.cwd()}"
        raise SourceNotFound(f"{spec.path}: no such file", hint if hint.startswith("did") else None)
    columns = _columns(spec)
    for column in _wanted(spec):
        if column not in columns:
            raise SourceNotFound(f"{spec.path}: no column {column!r}", nearest(column, columns))


def file_fingerprint(spec: FileSource) -> str:
    """Hash of the file's bytes.

    Raises:
        SourceNotFound: there is no such file.
    """
    check_file(spec)
    digest = hashlib.sha256()
    with open(spec.path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return f"file:{digest.hexdigest()}"


def _columns(spec: FileSource) -> list[str]:
    if Path(spec.path).suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            head = pyarrow.parquet.read_metadata(spec.path)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise SourceNotFound(f"{spec.path}: not a Parquet file: {error}") from None
        if head.num_rows:
            return list(head.schema.to_arrow_schema().names)
    else:
        for _, row in _rows(spec):
            return list(row)
    raise SourceNotFound(f"{spec.path}: holds no rows", "a row for each question")


def _rows(spec: FileSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and the row."""
    path = Path(spec.path)
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path, columns=_wanted(spec))
            for number, row in enumerate(table.to_pylist(), start=1):
                yield f"{spec.path}: row {number}", row
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream, strict=True)
                for row in reader:
                    where = f"{spec.path}:{reader.line_num}"
                    if any(row.pop(None, ())):  # type: ignore[call-overload]
                        raise SourceNotFound(f"{where}: more cells than columns", "quote cells with commas")
                    yield where, row
        else:
            with path.open(encoding="utf-8-sig") as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield (where := f"{spec.path}:{number}"), _object(line, where)
    # pyarrow's complaints about a file are ValueErrors, as those about its encoding are.
    except (OSError, ValueError, csv.Error) as error:
        raise SourceNotFound(f"{spec.path}: cannot be read: {error}") from None


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceNotFound(f"{where}: not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise SourceNotFound(f"{where}: must be a JSON object, got {type(row).__name__}")
    return row


def _cells(row: dict[str, Any], spec: FileSource | HubSource, where: str) -> tuple[str, str]:
    """Question and answer as text."""
    texts = []
    for column in (spec.question, spec.answer):
        value = row.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise SourceNotFound(f"{where}: {column!r} must be text or a number, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise SourceNotFound(f"{where}: {column!r} must be a finite number, got {value!r}")
        # Digits alone: `1e-05`, as Python writes it, is no number to the answer checker.
        text = format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value).strip()
        if not text:
            raise SourceNotFound(f"{where}: {column!r} is empty")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise SourceNotFound(f"{where}: {column!r} holds half a surrogate pair", "write it as UTF-8")
        texts.append(text)
    return texts[0], texts[1]


def _wanted(spec: FileSource | HubSource) -> list[str]:
    """The columns that a source is read for."""
    graded = [] if spec.difficulty_column is None else [spec.difficulty_column]
    return [spec.question, spec.answer, *graded]


def _difficulty(row: dict[str, Any], spec: FileSource | HubSource) -> str:
    value = None if spec.difficulty_column is None else row.get(spec.difficulty_column)
    return "" if value is None else str(value).strip()


def load_hub(spec: HubSource) -> list[Problem]:
    """All rows of a hub dataset's split, in order, from the hub or its local cache.

    Raises:
        SourceNotFound: the dataset, split or a column is missing, or the hub cannot be reached.
    """
    check_hub(spec)
    import datasets

    try:
        rows = datasets.load_dataset(spec.dataset, spec.config, split=spec.split, revision=spec.revision)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceNotFound(f"hub dataset {spec.dataset!r} cannot be loaded: {first}") from None
    for column in _wanted(spec):
        if column not in rows.column_names:
            raise SourceNotFound(
                f"hub dataset {spec.dataset!r} has no column {column!r}", nearest(column, rows.column_names)
            )
    chosen = rows.select_columns(sorted(set(_wanted(spec))))
    name = spec.dataset.rsplit("/", 1)[-1]
    return [
        Problem(
            f"{name}:{index}",
            *_cells(dict(row), spec, f"{spec.dataset}: row {index + 1}"),
            name,
            _difficulty(dict(row), spec),
        )
        for index, row in enumerate(chosen)
    ]


def check_hub(spec: HubSource) -> None:
    """Whether the dataset is in the local cache or the hub answers for it.

    Raises:
        SourceNotFound: otherwise.
    """
    hub_fingerprint(spec)


def hub_fingerprint(spec: HubSource) -> str:
    """The dataset's commit on the hub, or of its newest copy in the local cache.

    Raises:
        SourceNotFound: the dataset is in neither.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            info = HfApi().dataset_info(spec.dataset, revision=spec.revision, timeout=HUB_TIMEOUT_SECONDS)
            return f"hub:{spec.dataset}@{info.sha}"
        except (RepositoryNotFoundError, HFValidationError):
            reason = "the hub has no such dataset, or it is private"
        except Exception as error:  # whatever the transport raises: its errors share no base
            reason = f"the hub cannot be reached ({type(error).__name__})"
    if (cached := _cached_revision(spec)) is not None:
        return f"hub:{spec.dataset}@{cached}"
    raise SourceNotFound(
        f"hub dataset {spec.dataset!r}: {reason}, and no copy is cached here",
        "check the id and the connection, or give a local copy: `source: file`",
    )


def _cached_revision(spec: HubSource) -> str | None:
    """Commit of the newest cached copy that `datasets` can load offline: <cache>/<owner>___<name>/…/<commit>."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets")
    folder = cache / spec.dataset.replace("/", "___")
    infos = list(folder.glob(f"{spec.config or '*'}/*/*/dataset_info.json"))
    matching = [p for p in infos if spec.revision in (None, p.parent.name)]
    return max(matching, key=lambda p: p.stat().st_mtime).parent.name if matching else None
