"""The content that a handler gets out of a request's query and body.

A body is one part named ``data``, except that of a form, whose fields are parts of their own.
Source: RequestParser and NettyUtils.addFormData of DJL Serving 0.36.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from mmekit_local.server import errors
from mmekit_runtime.wire import MAX_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Content = tuple[tuple["str | None", bytes], ...]

LARGE_FORM = 64 << 10
"""A form above this size takes its time."""

_URL_ENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_INTEGER = re.compile(r"[+-]?[0-9]+")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_PART_HEAD = 8192
"""The longest head of a part, as of a request."""
_AT_ONCE = 64 << 10


def is_form(content_type: str) -> bool:
    """Say whether a body of this type has parts."""
    return _kind(content_type) in (_URL_ENCODED, _MULTIPART)


def content_of(query: str, content_type: str, body: bytes) -> Content:
    """Return what a handler finds in its input's content.

    Raises
    ------
    Refusal
        It has more parts than a message to a worker can have.
    """
    parts: list[tuple[str | None, bytes]] = [
        (name, value.encode()) for name, value in parse_query(query)
    ]
    kind = _kind(content_type)
    if kind == _URL_ENCODED:
        _add(parts, _fields(body))
    elif kind == _MULTIPART and (boundary := _parameter(content_type, "boundary")):
        _add(parts, _multipart_fields(boundary, body))
    else:
        _add(parts, [("data", body)])
    return tuple(parts)


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _add(parts: list[tuple[str | None, bytes]], more: Iterable[tuple[str | None, bytes]]) -> None:
    for part in more:
        if len(parts) == MAX_ITEMS:
            raise _too_many()
        parts.append(part)


def _too_many() -> errors.ApiError:
    return errors.bad_request(
        f"A request has at most {MAX_ITEMS} fields in its query and its form together. Send many "
        "values as one body, of JSON for instance."
    )


def parse_query(query: str) -> list[tuple[str, str]]:
    """Return the names and values of a query; those of one name come together."""
    if not query:
        return []
    values: dict[str, list[str]] = {}
    # Netty's QueryStringDecoder takes a semicolon for a separator, too.
    for one in re.split("[&;]", query):
        name, _, value = one.partition("=")
        if one:
            values.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return [(name, value) for name, several in values.items() for value in several]


def integer(text: str) -> int:
    """Return the integer that Java's ``Integer.parseInt`` reads.

    Raises
    ------
    ValueError
        It reads none.
    """
    value = int(text) if _INTEGER.fullmatch(text) else _INT_MAX + 1
    if not _INT_MIN <= value <= _INT_MAX:
        raise ValueError(text)
    return value


def decoded_path(path: str) -> str:
    """Return a path with its escapes resolved; those that are no UTF-8 become U+FFFD."""
    return unquote(path) if "%" in path else path


def _fields(body: bytes) -> Iterator[tuple[str | None, bytes]]:
    for match in re.finditer(rb"[^&]+", body):
        name, _, value = match[0].partition(b"=")
        yield _decoded(name), _decoded(value).encode()


def _decoded(text: bytes) -> str:
    """Return a text of a form, decoded a part at a time: each escape is an object for a while."""
    if b"%" in text:
        pieces = []
        start = 0
        while start < len(text):
            end = start + _AT_ONCE
            # Not in the middle of an escape.
            cut = text.rfind(b"%", end - 2, end)
            end = cut if cut > start else end
            pieces.append(_ESCAPE.sub(_byte, text[start:end].replace(b"+", b" ")))
            start = end
        return b"".join(pieces).decode("utf-8", "replace")
    return text.replace(b"+", b" ").decode("utf-8", "replace")


def _byte(escape: re.Match[bytes]) -> bytes:
    return bytes((int(escape[1], 16),))


def _multipart_fields(boundary: str, body: bytes) -> Iterator[tuple[str | None, bytes]]:
    mark = b"\r\n--" + boundary.encode("latin-1")
    body = b"\r\n" + body
    if body.count(mark) > MAX_ITEMS + 1:
        raise _too_many()
    # What precedes the first boundary and what follows the last are no parts.
    start = body.find(mark)
    while start >= 0 and (end := body.find(mark, start + len(mark))) >= 0:
        name, first = _part(body, start + len(mark), end)
        if name:
            yield name, body[first:end]
        start = end


def _part(body: bytes, start: int, end: int) -> tuple[str | None, int]:
    """Return the name of a part, if it has one, and where its value begins."""
    head_end = body.find(b"\r\n\r\n", start, end)
    first = end if head_end < 0 else head_end + 4
    if (end if head_end < 0 else head_end) - start > _PART_HEAD:
        raise errors.bad_request(f"The head of a form's part has at most {_PART_HEAD} bytes.")
    name = None
    for line in body[start:first].decode("utf-8", "replace").split("\r\n"):
        header, _, text = line.partition(":")
        if header.strip().lower() == "content-disposition":
            name = _parameter(text, "name") or name
    return name, first


def _parameter(text: str, name: str) -> str | None:
    match = re.search(rf';\s*{name}=(?:"([^"]*)"|([^;\s]*))', text, re.IGNORECASE)
    return (match[1] or match[2]) if match else None
