"""What safetensors files say of their tensors: names, shapes and places, from the headers alone."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_LONGEST_HEADER = 100_000_000
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: the file.
        dtype: safetensors' name of the type.
        shape: its shape.
        start: its first byte in the file.
        end: the byte after its last one.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, or ends before its last tensor does.
    """
    status = path.stat()
    return dict(_headers(path, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=256)
def _headers(path: Path, size: int, mtime_ns: int) -> tuple[tuple[str, StoredTensor], ...]:
    with path.open("rb") as stream:
        first = stream.read(8)
        if len(first) < 8:
            raise ValueError("it is shorter than a header")
        (length,) = struct.unpack("<Q", first)
        if length > min(_LONGEST_HEADER, size):
            raise ValueError("its header is longer than the file")
        try:
            header = json.loads(stream.read(length))
            found = [
                (
                    name,
                    StoredTensor(
                        path,
                        str(entry["dtype"]),
                        tuple(map(int, entry["shape"])),
                        *(8 + length + int(offset) for offset in entry["data_offsets"]),
                    ),
                )
                for name, entry in header.items()
                if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header cannot be read: {error}") from None
    needed = max((tensor.end for _, tensor in found), default=8 + length)
    if needed > size:
        raise ValueError(f"it is truncated: {size:,} bytes of {needed:,}")
    return tuple(found)


def same_content(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same bytes in the same shape and type."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in itertools.zip_longest(_chunks(one), _chunks(other)))


def _chunks(tensor: StoredTensor) -> Iterable[bytes]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.start)
        for start in range(tensor.start, tensor.end, _CHUNK_BYTES):
            yield stream.read(min(_CHUNK_BYTES, tensor.end - start))
