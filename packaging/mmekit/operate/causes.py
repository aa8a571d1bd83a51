"""What failed, grouped by cause: the same failure has other numbers, ids and paths each time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FailureCause", "cause_of", "grouped"]

_LONGEST = 200
# The order matters: an id has digits, and a path may have an id.
_ALIKE = (
    (re.compile(r"s3://[^\s'\",;)]+"), "<s3>"),
    (re.compile(r"\bhttps?://[^\s'\",;)]+"), "<url>"),
    (re.compile(r"(?<![\w<.])(?:/[\w.@+-]+){2,}/?"), "<path>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<id>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"), "<id>"),
    (re.compile(r"(?<![\w.])[-+]?\d[\d_,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])"), "<n>"),
    (re.compile(r"\b\d+(?=(?:ms|s|MB|MiB|GB|GiB|KB|KiB|B)\b)"), "<n>"),
)


@dataclass(frozen=True)
class FailureCause:
    """Failures of one cause.

    Attributes
    ----------
    cause
        What they have in common.
    target
        The model; empty where it is not known.
    status
        The HTTP status; None where it is not known.
    count
        How many there were.
    first, last
        When, in seconds of the epoch.
    example
        One of them, word for word.
    """

    cause: str
    target: str
    status: int | None
    count: int
    first: float
    last: float
    example: str


def cause_of(text: str) -> str:
    """Return what a message has in common with others of its cause.

    Examples
    --------
    >>> cause_of("ValueError: 3 columns instead of 12 in /opt/ml/models/4f3a99d0b1c2/model.pkl")
    'ValueError: <n> columns instead of <n> in <path>'
    """
    text = " ".join(text.split())
    for pattern, instead in _ALIKE:
        text = pattern.sub(instead, text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} (and so on)"


def grouped(failures: Iterable[FailureCause]) -> tuple[FailureCause, ...]:
    """Join those of one cause, model and status; the latest first."""
    found: dict[tuple[str, str, int | None], FailureCause] = {}
    for one in failures:
        key = (one.cause, one.target, one.status)
        before = found.get(key)
        if before is None:
            found[key] = one
            continue
        later = one if one.last >= before.last else before
        found[key] = replace(
            later,
            count=before.count + one.count,
            first=min(before.first, one.first),
        )
    return tuple(sorted(found.values(), key=lambda one: -one.last))
