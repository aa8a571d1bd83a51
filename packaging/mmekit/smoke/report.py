"""What a smoke test has seen, as text that may be shown to everybody."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ModelTimes", "ServerTime", "SmokeCheck", "SmokeReport", "anonymous"]

_MARKS = {True: "passed", False: "FAILED", None: "not tried"}
_HIDDEN = (
    (re.compile(r"arn:aws[a-z-]*:[^\s\"'|)>\]]+"), "<arn>"),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), "<key>"),
    (re.compile(r"(?<!\d)\d{12}(?!\d)"), "<account>"),
)


def anonymous(text: str) -> str:
    """Return a text without account numbers, ARNs, identifiers of keys and the user's folder.

    Examples
    --------
    >>> anonymous("arn:aws:iam::123456789012:role/x may not read s3://a-123456789012-us-east-1/b")
    '<arn> may not read s3://a-<account>-us-east-1/b'
    """
    for pattern, instead in _HIDDEN:
        text = pattern.sub(instead, text)
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


@dataclass(frozen=True)
class SmokeCheck:
    """Something that had to be so.

    Attributes
    ----------
    name
        What.
    passed
        Whether it was; None where it was not come to.
    seen
        What was seen.
    """

    name: str
    passed: bool | None
    seen: str


@dataclass(frozen=True)
class ModelTimes:
    """How long a model took to answer, seen from here: milliseconds.

    Attributes
    ----------
    name
        The model's.
    archive
        ``thin`` or ``inline``, and its bytes.
    cold
        Its first call, which loads it.
    p50, p99
        Of the calls after it.
    calls
        How many those were.
    """

    name: str
    archive: str
    cold: float
    p50: float
    p99: float
    calls: int


@dataclass(frozen=True)
class ServerTime:
    """A time that CloudWatch has of the endpoint: milliseconds."""

    metric: str
    average: float
    most: float
    count: int


@dataclass(frozen=True)
class SmokeReport:
    """What a smoke test has seen.

    Attributes
    ----------
    place
        What was tried, such as ``{"Target": "aws", "Region": "eu-central-1"}``.
    checks
        Each that there is, in their order.
    models, server_times
        What was measured.
    stages
        Seconds that each stage took.
    lines
        Of the log: what the models have said, and what mmekit complained of.
    failure
        What ended it early; empty for nothing.
    """

    place: Mapping[str, str]
    checks: tuple[SmokeCheck, ...]
    models: tuple[ModelTimes, ...] = ()
    server_times: tuple[ServerTime, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Say whether each check was made, and passed."""
        return not self.failure and all(one.passed is True for one in self.checks)

    def markdown(self) -> str:
        """Return it as Markdown, to paste into an issue."""
        outcome = "passed" if self.passed else "FAILED"
        text = [f"# mme smoke: {outcome}", ""]
        if self.failure:
            text += [f"Ended early: {_cell(self.failure)}", ""]
        text += _table(("Where", ""), self.place.items())
        rows = ((_MARKS[one.passed], one.name, one.seen) for one in self.checks)
        text += _table(("Result", "Check", "Seen"), rows)
        if self.models:
            times = (
                (
                    one.name,
                    one.archive,
                    f"{one.cold:.0f}",
                    f"{one.p50:.1f}",
                    f"{one.p99:.1f}",
                    str(one.calls),
                )
                for one in self.models
            )
            text += ["Calls, in milliseconds, seen from the caller's machine:", ""]
            heading = ("Model", "Archive", "First call", "p50", "p99", "Calls after it")
            text += _table(heading, times)
        if self.server_times:
            spans = (
                (one.metric, f"{one.average:.1f}", f"{one.most:.1f}", str(one.count))
                for one in self.server_times
            )
            text += ["CloudWatch, in milliseconds:", ""]
            text += _table(("Metric", "Average", "Most", "Values"), spans)
        if self.stages:
            took = ((name, f"{seconds:.1f} s") for name, seconds in self.stages.items())
            text += _table(("Stage", "Took"), took)
        if self.lines:
            text += ["Log:", "", "```", *(line.replace("```", "'''") for line in self.lines), "```"]
        return anonymous("\n".join(text).rstrip() + "\n")

    def to_json(self) -> str:
        """Return it as JSON."""
        content = {"format": 1, "passed": self.passed, **asdict(self)}
        return json.dumps(_anonymous(content), indent=2) + "\n"


def _anonymous(content: Any) -> Any:
    """Return the same without what texts give away: a number may look like an account's."""
    if isinstance(content, dict):
        return {name: _anonymous(one) for name, one in content.items()}
    if isinstance(content, (list, tuple)):
        return [_anonymous(one) for one in content]
    return anonymous(content) if isinstance(content, str) else content


def _table(heading: tuple[str, ...], rows: Any) -> list[str]:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return [*(f"| {' | '.join(_cell(one) for one in line)} |" for line in lines), ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
