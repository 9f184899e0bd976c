"""JSON files of other tools as people have them: compressed, with a byte order mark, from another system."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.spec.errors import SpecError
from harness.store.records.form import JsonObject

_PACKED = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\x00", lzma))
_ARCHIVES = {b"PK\x03\x04": "a ZIP archive", b"\x28\xb5\x2f\xfd": "compressed with zstd"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BLANK = re.compile(r"[ \t\r\n]*")

PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
"""Endings of compressed files that are read as they are."""


def plain_suffix(path: Path) -> str:
    """The ending without that of a compression: `.json` of `results.json.gz`."""
    return Path(path.stem).suffix if path.suffix in PACKED_SUFFIXES else path.suffix


def read_text(path: Path) -> str:
    """The text of a file; gzip, bz2 and xz are told by their first bytes.

    Raises:
        SpecError: it cannot be opened, unpacked or decoded.
    """
    try:
        data = path.read_bytes()
        for magic, module in _PACKED:
            if data.startswith(magic):
                data = module.decompress(data)
                break
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SpecError(f"cannot be read: {what}", file=path, hint="is the file whole?") from error
    for magic, what in _ARCHIVES.items():
        if data.startswith(magic):
            raise SpecError(f"is {what}", file=path, hint="unpack it, and give what is in it")
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            f"is not UTF-8 text (byte {error.start})", file=path, hint="is the file whole?"
        ) from error


def read_json(path: Path) -> Any:
    """The one JSON value of a file. NaN and Infinity are taken as Python writes them.

    Raises:
        SpecError: it is empty, not JSON, or a key stands twice with two values.
    """
    text = read_text(path)
    if not text.strip():
        raise SpecError("is empty", file=path, hint="was the evaluation interrupted?")

    def unique(pairs: Sequence[tuple[str, Any]]) -> JsonObject:
        made: JsonObject = {}
        for key, value in pairs:
            if key in made and made[key] != value:
                raise SpecError(
                    f"key {key[:80]!r} stands twice with two values", file=path, hint="which one holds?"
                )
            made[key] = value
        return made

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"is not JSON: {_reason(error)}", file=path, hint="is the file whole?") from error


def json_values(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file, or the items of one that holds a JSON array.

    No line is cut: U+2028, U+0085 and their like may stand in a JSON string as they are.

    Raises:
        SpecError: a value is not JSON; with its line.
    """
    text = read_text(path)
    decoder = json.JSONDecoder()
    place = 0
    while (place := _end_of_blank(text, place)) < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, place) + 1
            raise SpecError(f"is not JSON: {_reason(error)}", file=path, line=line) from error
        yield from value if isinstance(value, list) else [value]
        place = end


def _end_of_blank(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return found.end() if found else place


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def result_files(path: Path) -> list[Path]:
    """The file itself, or every `results*.json` under a folder, compressed or not; hidden folders are passed over.

    Raises:
        SpecError: the folder holds none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(
        file
        for file in path.rglob("results*.json*")
        if plain_suffix(file) == ".json"
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        there = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
        held = f"it has {', '.join(there[:4])}{' …' if len(there) > 4 else ''}" if there else "it is empty"
        raise SpecError(
            f"holds no results*.json; {held}", file=path,
            hint="give the folder that lm-eval or lighteval wrote, or the files one by one",
        )  # fmt: skip
    return found
