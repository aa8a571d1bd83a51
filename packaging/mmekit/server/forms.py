"""The content that a handler gets out of a request's query and body.

A body is one part named ``data``, except that of a form, whose fields are parts of their own.
Source: RequestParser and NettyUtils.addFormData of DJL Serving 0.36.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

Content = tuple[tuple["str | None", bytes], ...]

_URL_ENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_INTEGER = re.compile(r"[+-]?[0-9]+")
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


def content_of(query: str, content_type: str, body: bytes) -> Content:
    """Return what a handler finds in its input's content."""
    parts: list[tuple[str | None, bytes]] = [
        (name, value.encode()) for name, value in parse_query(query)
    ]
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _URL_ENCODED:
        parts += _fields(body)
    elif kind == _MULTIPART and (boundary := _parameter(content_type, "boundary")):
        parts += _multipart_fields(boundary, body)
    else:
        parts.append(("data", body))
    return tuple(parts)


def parse_query(query: str) -> list[tuple[str, str]]:
    """Return the names and values of a query; those of one name come together."""
    if not query:
        return []
    values: dict[str, list[str]] = {}
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


def _fields(body: bytes) -> list[tuple[str | None, bytes]]:
    fields: list[tuple[str | None, bytes]] = []
    for one in body.decode("utf-8", "replace").split("&"):
        name, _, value = one.partition("=")
        if one:
            fields.append((unquote_plus(name), unquote_plus(value).encode()))
    return fields


def _multipart_fields(boundary: str, body: bytes) -> list[tuple[str | None, bytes]]:
    fields: list[tuple[str | None, bytes]] = []
    # What precedes the first boundary and what follows the last are no parts.
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1"))[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        for line in head.decode("utf-8", "replace").split("\r\n"):
            header, _, text = line.partition(":")
            name = _parameter(text, "name")
            if header.strip().lower() == "content-disposition" and name:
                fields.append((name, value))
    return fields


def _parameter(text: str, name: str) -> str | None:
    match = re.search(rf';\s*{name}=(?:"([^"]*)"|([^;\s]*))', text, re.IGNORECASE)
    return (match[1] or match[2]) if match else None
