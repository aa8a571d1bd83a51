"""What failed, grouped by cause: the same failure has other numbers, ids and paths each time.

The local service counts failures by the same causes as `mme top` reads from a log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmekit.plural import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FailureCause", "cause_of", "grouped"]

_LONGEST = 300
_IGNORED = re.IGNORECASE
# The order matters: an address has a path and numbers, an id has digits, a path may have an id.
_ALIKE = (
    (re.compile(r"\barn:aws[\w-]*:[^\s\"',;)]+"), "<arn>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>,;)]+", _IGNORED), "<address>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b(?::\d+)?|\blocalhost:\d+"), "<address>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", _IGNORED), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\bi-[0-9a-f]{8,}\b", _IGNORED), "<id>"),
    (re.compile(r"(?<![\w.<])(?:~|\.{1,2})?/[\w.@+~-]+(?:/[\w.@+~-]*)*"), "<path>"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", _IGNORED), "<id>"),
    (
        re.compile(
            r"(?<![\w.])[+-]?\d+(?:[.,:_]\d+)*(?:e[+-]?\d+)?"
            r"(?=(?:[num]?s|min|h|[kmgt]?i?b)?(?!\w))",
            _IGNORED,
        ),
        "<n>",
    ),
)


@dataclass(frozen=True)
class FailureCause:
    """Failures of one cause.

    Attributes
    ----------
    cause
        What they have in common.
    target
        The model that failed the latest time; empty where it is not known.
    status
        The HTTP status; None where it is not known.
    count
        How many there were.
    first, last
        When, in seconds of the epoch.
    example
        One of them, word for word.
    targets
        How many models failed so, as far as they are known.
    """

    cause: str
    target: str
    status: int | None
    count: int
    first: float
    last: float
    example: str
    targets: int = 1

    @property
    def models(self) -> str:
        """Which models failed so, in words."""
        if not self.target or self.targets <= 1:
            return self.target
        return f"{self.target} and {counted(self.targets - 1, 'other')}"


def cause_of(text: str, target: str = "", status: int | None = None) -> str:
    """Return what a message has in common with others of its cause.

    Parameters
    ----------
    target
        The target model, which a message may name.
    status
        The HTTP status, which is no number that differs each time.

    Examples
    --------
    >>> cause_of("ValueError: 3 columns instead of 12 in /opt/ml/models/4f3a99d0b1c2/model.pkl")
    'ValueError: <n> columns instead of <n> in <path>'
    >>> cause_of("No room for 'a.tar.gz': 12.5 of 64 MiB at 127.0.0.1:8080", "a.tar.gz")
    "No room for '<model>': <n> of <n> MiB at <address>"
    >>> cause_of("ModelError: 500 process 4711 has ended after 20ms", status=500)
    'ModelError: 500 process <n> has ended after <n>ms'
    """
    text = " ".join(text.split())
    begins = None if status is None else re.match(rf"(?:\w+: )?{status}\b", text)
    kept, rest = ("", text) if begins is None else (begins[0], text[begins.end() :])
    if target:
        rest = rest.replace(target, "<model>")
    for pattern, instead in _ALIKE:
        rest = pattern.sub(instead, rest)
    said = kept + rest
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} (and so on)"


def grouped(failures: Iterable[FailureCause]) -> tuple[FailureCause, ...]:
    """Join those of one cause and status, whichever models they are of; the latest first."""
    found: dict[tuple[str, int | None], FailureCause] = {}
    models: dict[tuple[str, int | None], set[str]] = {}
    for one in failures:
        key = (one.cause, one.status)
        models.setdefault(key, set()).add(one.target)
        before = found.get(key, replace(one, count=0))
        later = one if one.last >= before.last else before
        found[key] = replace(
            later, count=before.count + one.count, first=min(before.first, one.first)
        )
    joined = (replace(one, targets=len(models[key] - {""})) for key, one in found.items())
    return tuple(sorted(joined, key=lambda one: -one.last))
