"""A sample request and its answer as texts, which a manifest carries and people read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit.archive.package import Package
    from mmekit_runtime.signature import Column, Signature

_MOST_BYTES = 64 << 10
_VALUES = {
    "boolean": True,
    "integer": 1,
    "long": 1,
    "float": 0.5,
    "double": 0.5,
    "datetime": "2026-03-01T12:00:00",
    "string": "text",
    "any": "value",
}
_TIMES = {"date": "2026-03-01", "time": "12:30:00"}


@dataclass(frozen=True)
class Example:
    """A request that a model answers.

    Attributes
    ----------
    content_type, request
        The request's Content-Type and body.
    answer
        The body of its answer, where that is known.
    """

    content_type: str
    request: str
    answer: str | None = None

    @classmethod
    def of(cls, package: Package) -> Example | None:
        """Return a package's sample; None for one that is no text, or more than 64 KiB."""
        sample = package.sample_request
        if sample is None or sample.path.stat().st_size > _MOST_BYTES:
            return None
        try:
            request = sample.body.decode()
        except UnicodeDecodeError:
            return None
        return cls(sample.content_type, request, _answer(package))

    @classmethod
    def made_of(cls, signature: Signature) -> Example:
        """Return a request with one record, made of what the columns may hold."""
        record = {column.name: _value(column) for column in signature.inputs}
        text = json.dumps({"instances": [record]}, ensure_ascii=False)
        return cls("application/json", text)

    @classmethod
    def from_content(cls, content: dict[str, Any] | None) -> Example | None:
        """Read what a manifest holds."""
        if content is None:
            return None
        answer = content["answer"]
        return cls(
            str(content["content_type"]),
            str(content["request"]),
            None if answer is None else str(answer),
        )


def _answer(package: Package) -> str | None:
    file = package.folder / "sample_response.json"
    if not file.is_file() or file.stat().st_size > _MOST_BYTES:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _value(column: Column) -> Any:
    among = column.known if column.known is not None else column.categories
    if among:
        return among[0]
    if "," in (column.dtype or ""):
        return "2026-03-01T12:00:00+00:00"
    return _TIMES.get(column.dtype or "", _VALUES.get(column.type, "value"))
