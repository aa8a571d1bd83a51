"""What an endpoint's containers print, as CloudWatch Logs has it, and which of it is whose.

The embedded server and DJL Serving put the name of a model's worker before what it prints:
``W-ridge: …`` and ``W-4711-ridge-stdout: …``. The name is what `mme pack` wrote as
``option.modelName``, of which DJL Serving takes 15 characters (Connection.java of ai.djl.python).
What a server says itself names a model as SageMaker does, by a hash of the target. How AWS makes it
is not published; the local service's is known here.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import is_missing
from mmekit.operate.endpoints import log_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mmekit.operate.endpoints import OperatedEndpoint
    from mmekit.settings import Settings

__all__ = ["ContainerLine", "FailedLines", "LineReader", "model_lines"]

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_WORKER = re.compile(r"\bW-(?:\d+-)?(?P<name>.+?)(?:-std(?:out|err))?: (?P<rest>.*)")
_LEVEL = re.compile(r"\b(?:ERROR|CRITICAL|FATAL|SEVERE)\b")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout)\b")
_TRACEBACK = "Traceback (most recent call last)"
_FOLLOWS = ("During handling of the above exception", "The above exception was the direct cause")
_BEFORE = re.compile(r"^[\d\-T:., Z]+(?=\S)|^\[?(?:ERROR|CRITICAL|FATAL|SEVERE)\s*\]?\s*")
_WORKER_NAME = 15
_DIGEST = re.compile(r"-[0-9a-f]{12}$")
_LATE_MS = 20_000
"""Lines get to CloudWatch Logs some seconds after they were printed, and not in order."""
_REMEMBERED = 50_000


@dataclass(frozen=True)
class ContainerLine:
    """A line.

    Attributes
    ----------
    at
        When it was printed, in milliseconds of the epoch.
    instance
        The log stream: ``<variant>/<instance id>``.
    text
        Without colours, and without what else steers a terminal.
    """

    at: int
    instance: str
    text: str

    @property
    def worker(self) -> str:
        """The name that its worker has for its model: its first 15 characters; empty for none."""
        match = _WORKER.search(self.text)
        return match["name"][:_WORKER_NAME] if match else ""

    @property
    def said(self) -> str:
        """What a worker printed, without what the server put before it."""
        match = _WORKER.search(self.text)
        return match["rest"] if match else self.text

    @property
    def cause(self) -> str:
        """What it says, without time and level."""
        text = self.said
        while (shorter := _BEFORE.sub("", text, count=1)) != text:
            text = shorter
        return text.strip()

    @property
    def is_failure(self) -> bool:
        """Whether it says what failed: a server's error, or the end of a traceback."""
        return bool(_EXCEPTION.match(self.said)) or (
            bool(_LEVEL.search(self.text)) and bool(self.said.strip()) and not self.is_traceback
        )

    @property
    def is_traceback(self) -> bool:
        """Whether it leads to an exception and is none."""
        return self.said.startswith((" ", "\t")) or _TRACEBACK in self.said


class LineReader:
    """Reads the log of an endpoint, all streams of it in the order of time.

    Parameters
    ----------
    since_ms
        From when on, in milliseconds of the epoch.
    pages
        The most of CloudWatch's pages (10,000 lines each) to read at once.

    Attributes
    ----------
    was_cut
        Whether there was more than those pages.
    """

    def __init__(
        self, settings: Settings, endpoint: str, since_ms: int, *, pages: int = 100
    ) -> None:
        self._logs = settings.client("logs", retries={"mode": "standard"})
        self._group = log_group(endpoint)
        self._since = since_ms
        self._start = since_ms
        self._pages = pages
        self._seen: dict[str, None] = {}
        self.was_cut = False

    def read(self) -> list[ContainerLine]:
        """Return the lines that were not read before; none without a log."""
        found: list[tuple[int, int, dict[str, Any]]] = []
        try:
            for event in self._events():
                if event["eventId"] not in self._seen:
                    self._seen[event["eventId"]] = None
                    found.append((event["timestamp"], len(found), event))
        except ClientError as error:
            if not is_missing(error) and "ResourceNotFound" not in str(error):
                raise
        found.sort(key=lambda one: one[:2])
        if found:
            self._start = max(self._since, found[-1][0] - _LATE_MS)
        for old in list(self._seen)[:-_REMEMBERED]:
            del self._seen[old]
        return [
            ContainerLine(at, event["logStreamName"], _printable(event["message"]))
            for at, _, event in found
        ]

    def _events(self) -> Iterator[dict[str, Any]]:
        pages = self._logs.get_paginator("filter_log_events").paginate(
            logGroupName=self._group, startTime=self._start, interleaved=True
        )
        for number, page in enumerate(pages, 1):
            yield from page["events"]
            if number >= self._pages:
                self.was_cut = bool(page.get("nextToken"))
                return


class FailedLines:
    """Tells lines of a failure, the whole traceback, from others."""

    def __init__(self) -> None:
        self._inside: set[tuple[str, str]] = set()

    def has(self, line: ContainerLine) -> bool:
        """Return whether a line belongs to a failure; lines come in their order."""
        whose = (line.instance, line.worker)
        if _TRACEBACK in line.said:
            self._inside.add(whose)
            return True
        if whose in self._inside:
            if not line.is_traceback and line.said.strip():
                self._inside.discard(whose)
            return True
        return line.is_failure


def failures_among(lines: Iterable[ContainerLine]) -> Iterator[ContainerLine]:
    """Yield a line for each failure: of a message and its traceback, the traceback's last.

    Of exceptions that follow from each other, it is the last one.
    """
    waiting: dict[tuple[str, str], ContainerLine] = {}
    for line in lines:
        whose = (line.instance, line.worker)
        if _TRACEBACK in line.said or line.said.startswith(_FOLLOWS):
            waiting.pop(whose, None)
        elif line.is_failure:
            if whose in waiting:
                yield waiting[whose]
            waiting[whose] = line
        elif line.said.strip() and whose in waiting:
            yield waiting.pop(whose)
    yield from waiting.values()


def model_lines(
    lines: Iterable[ContainerLine], key: str, name: str | None, endpoint: OperatedEndpoint
) -> Iterator[ContainerLine]:
    """Yield the lines of one model.

    Parameters
    ----------
    key
        The target model, or the name that it was packed with.
    name
        The name that it was packed with, where that is known; None to tell it by the key.
    """
    worker, hashes = (name or name_in_key(key))[:_WORKER_NAME], _hashes(key, endpoint)
    for line in lines:
        if line.worker:
            is_of_model = line.worker == worker
        else:
            is_of_model = any(name in line.text for name in (key, *hashes))
        if is_of_model:
            yield line


def recent(seconds: float) -> int:
    """Return the moment so many seconds ago, in milliseconds of the epoch."""
    return int((time.time() - seconds) * 1000)


def workers_of(lines: Iterable[ContainerLine]) -> list[str]:
    """Return the names that stand before lines, the latest first."""
    names = deque(line.worker for line in lines)
    return list(dict.fromkeys(name for name in reversed(names) if name))


def name_in_key(key: str) -> str:
    """Return what a key says of the name: without folders, suffix and digest.

    Examples
    --------
    >>> name_in_key("shops/ridge-0123456789ab.tar.gz")
    'ridge'
    """
    name = key.rpartition("/")[2].removesuffix(".tar.gz").removesuffix(".tgz")
    return _DIGEST.sub("", name)


def _hashes(key: str, endpoint: OperatedEndpoint) -> list[str]:
    """Return what the local service calls the model; on AWS they are on no line."""
    addresses = (f"{url}{key}" for url in endpoint.data_urls)
    return [hashlib.sha256(address.encode()).hexdigest()[:32] for address in addresses]


def _printable(text: str) -> str:
    text = _COLOURS.sub("", text).rstrip()
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\t\n" else ascii(one)[1:-1] for one in text
    ).replace("\n", " ")
