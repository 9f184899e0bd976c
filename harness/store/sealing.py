"""Checksums at the end of records: whether text is byte for byte what was written, in the place for which it was.

A record is a JSON object whose last key is `seal`: the first 16 hexadecimal digits of the SHA-256 of the text before
it. A line's also covers the seal of the line before, and the first one's covers the file's place, so that lines that
are missing, doubled, in another order or of another file are found as a changed byte is.
"""

from __future__ import annotations

import hashlib

_DIGITS = 16
_FILE_HEAD, _FILE_END = b',\n "seal": "', b'"\n}\n'
_LINE_HEAD, _LINE_END = b', "seal": "', b'"}'


def seal_file(text: str) -> bytes:
    """A file's content, sealed.

    Args:
        text: a JSON object that is not empty, indented by one space.
    """
    body = text.encode().removesuffix(b"\n}")
    return body + _FILE_HEAD + _digest(b"", body) + _FILE_END


def seal_line(text: str, before: str) -> bytes:
    """A line, sealed, without its newline.

    Args:
        text: a JSON object that is not empty.
        before: the seal of the line before; the file's place for the first.
    """
    body = text.encode().removesuffix(b"}")
    return body + _LINE_HEAD + _digest(before.encode(), body) + _LINE_END


def file_seal(content: bytes) -> str | None:
    """The seal at the end of a file's content; None where it has none."""
    return _seal(content, _FILE_HEAD, _FILE_END)


def line_seal(line: bytes) -> str | None:
    """The seal at the end of a line without its newline; None where it has none."""
    return _seal(line, _LINE_HEAD, _LINE_END)


def file_holds(content: bytes, seal: str) -> bool:
    """Whether a file's content is what its seal says."""
    return _digest(b"", _body(content, _FILE_HEAD, _FILE_END)).decode() == seal


def line_holds(line: bytes, seal: str, before: str) -> bool:
    """Whether a line is what its seal says, behind the line that was before it."""
    return _digest(before.encode(), _body(line, _LINE_HEAD, _LINE_END)).decode() == seal


def content_digest(content: bytes, place: str = "") -> str:
    """Digest of a file that is no record, such as samples, in the place for which it was written."""
    return _digest(place.encode(), content).decode()


def _digest(before: bytes, body: bytes) -> bytes:
    state = hashlib.sha256(before)
    state.update(body)
    return state.hexdigest()[:_DIGITS].encode()


def _body(text: bytes, head: bytes, end: bytes) -> bytes:
    return text[: len(text) - len(head) - _DIGITS - len(end)]


def _seal(text: bytes, head: bytes, end: bytes) -> str | None:
    tail = text[len(_body(text, head, end)) :]
    if not (tail.startswith(head) and tail.endswith(end)):
        return None
    return tail[len(head) : len(head) + _DIGITS].decode(errors="replace")
