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
# Of bytes, too; an apostrophe within a word begins and ends nothing. One that was cut ends nowhere.
_QUOTED = re.compile(
    r"""(?<!\w)[bru]{0,2}(?P<mark>['"`])(?P<said>(?:\\.?|(?!(?P=mark)(?!\w))[^\\])*)(?:(?P=mark)|$)"""
    r"""|[\u201c\u201e\u00ab][^\u201c\u201d\u00bb]*(?:[\u201c\u201d\u00bb]|$)""",
    _IGNORED,
)
# No values: what was put in their place above, and types of Python in what Python says of them.
_KEPT = re.compile(
    r"<(?:model|path|address|arn)>|[<>=!+*/%-]+"
    r"|bool|bytes|dict|float|int|list|NoneType|set|str|tuple"
)
_MODULE, _ATTRIBUTE = "No module named ", " object has no attribute "
# Names that a request had are not quoted in our refusals (mmekit_runtime.parsed_body.listed).
_RECEIVED = "; received "
_NAMES_ALONE = re.compile(
    r"expected (?:arrays called|one array|a member|as many rows of|an array of one dimension"
    r"|columns of (?:different names|equal length)|parameters among)\b"
)
_NAMES = (
    (re.compile(r"\b(also|an? (?:JSON )?object with) .*?(?=; |$)"), r"\1 <text>"),
    (re.compile(r"(^|; )(?:(?!; ).)* twice(?=; |$)"), r"\1<text> twice"),
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
    >>> cause_of("400: expected a number in the column age; received the text 'forty' in row 3")
    '<n>: expected a number in the column age; received the text <text> in row <n>'
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
    rest = _QUOTED.sub(_without_text, _without_names(rest))
    said = kept + rest
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} (and so on)"


def _without_text(match: re.Match[str]) -> str:
    """Return what is there of a quoted text: it may be a request's, and so somebody's own."""
    said, text = match["said"], match.string
    is_code = text.endswith(_MODULE, 0, match.start()) or text.startswith(_ATTRIBUTE, match.end())
    is_kept = said is not None and (_KEPT.fullmatch(said) or (is_code and said.isascii()))
    return match[0] if is_kept else "<text>"


def _without_names(text: str) -> str:
    refusal, received, names = text.partition(_RECEIVED)
    if received and _NAMES_ALONE.search(refusal):
        return refusal + received + "<text>"
    for pattern, instead in _NAMES if received else ():
        names = pattern.sub(instead, names)
    return refusal + received + names


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
