"""Datasets of the Hugging Face hub, or of its local cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data.arrow_rows import arrow_rows
from harness.data.columns import find_columns
from harness.data.errors import SourceNotFound, UnusableData
from harness.data.rows import RawRow
from harness.data.stored import Stored, judged
from harness.spec.data import HubSource

HUB_TIMEOUT_SECONDS = 5.0
"""How long a question to the hub may take before a dataset counts as unreachable."""
_BATCH_ROWS = 1000


def load_hub(spec: HubSource, *, extra: bool = False) -> Stored:
    """All rows of a hub dataset's split, in order, from the hub or its local cache.

    Args:
        spec: the source.
        extra: also keep the columns that it is not read for.

    Raises:
        SourceNotFound: the dataset or split is missing, or the hub cannot be reached.
        UnusableData: a column is missing.
    """
    check_hub(spec)
    import datasets

    try:
        rows = datasets.load_dataset(spec.dataset, spec.config, split=spec.split, revision=spec.revision)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceNotFound(f"hub dataset {spec.dataset!r} cannot be loaded: {first}") from None
    if not len(rows):
        raise UnusableData(f"hub dataset {spec.dataset!r}: split {spec.split!r} holds no rows")
    columns = find_columns(spec, rows.column_names, f"hub dataset {spec.dataset!r}")
    chosen = rows if extra else rows.select_columns(columns.wanted())
    name = spec.dataset.rsplit("/", 1)[-1]
    return judged(_rows(chosen), spec, columns, where=spec.dataset, unit="row", name=name, extra=extra)


def _rows(dataset: Any) -> Iterator[RawRow]:
    number = 0
    # As Arrow holds them: pictures and sounds are not decoded.
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS):
        for values in arrow_rows(table):
            number += 1
            yield RawRow(number, values)


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
    if cached := _cached_commits(spec):
        return f"hub:{spec.dataset}@{cached[0]}"
    raise SourceNotFound(
        f"hub dataset {spec.dataset!r}: {reason}, and no copy is cached here",
        "check the id and the connection, or give a local copy: `source: file`",
    )


def cached_rows(spec: HubSource) -> Stored | None:
    """All rows of the copy in the local cache; None where the commit that would be loaded isn't there.

    Raises:
        SourceNotFound: the dataset is neither cached nor reachable.
        UnusableData: a column is missing.
    """
    commit = hub_fingerprint(spec).rpartition("@")[2]
    if commit not in _cached_commits(spec):
        return None
    return load_hub(spec.model_copy(update={"revision": commit}))


def _cached_commits(spec: HubSource) -> list[str]:
    """Commits, the newest copy first, that `datasets` loads offline: <cache>/<owner>___<name>/<config>/…/<commit>."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = spec.dataset.rpartition("/")
    folder = Path(config.HF_DATASETS_CACHE) / "___".join(
        [*filter(None, [owner]), camelcase_to_snakecase(name)]
    )
    infos = list(folder.glob(f"{spec.config or '*'}/*/*/dataset_info.json"))
    matching = [p for p in infos if spec.revision in (None, p.parent.name)]
    return [p.parent.name for p in sorted(matching, key=lambda p: p.stat().st_mtime, reverse=True)]
