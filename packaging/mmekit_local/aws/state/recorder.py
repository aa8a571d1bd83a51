"""State that survives: changes are written down as they are made, and played back at the start.

moto draws identifiers from one generator and reads the clock; what is kept is played back with both
as they were, so that identifiers and dates come back too.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from dataclasses import replace
from datetime import datetime, timezone
from random import Random
from typing import TYPE_CHECKING, Any

import moto.iam.models
import moto.s3.models
import moto.sagemaker.models
from moto.backends import get_backend
from moto.core.utils import utcnow
from moto.moto_api._internal import mock_random
from moto.moto_api._internal.moto_random import MotoRandom

from mmekit_local.aws.state.entry import body_of, concerns_secrets, entry_of
from mmekit_local.aws.state.log import LogEntry
from mmekit_local.aws.state.rollback import rolled_back_on_failure
from mmekit_local.sagemaker.api import ApiReply, ApiRequest, operation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit_local.aws.state.log import StateLog

__all__ = ["StateRecorder", "deterministic", "make_deterministic"]

_MODULES: tuple[Any, ...] = (
    moto.iam.models,
    moto.s3.models,
    moto.sagemaker.models,
)


_default = Random()  # noqa: S311 - identifiers, not secrets
_REST = ("s3", "awslambda")  # whose requests name no operation
_SERVICES = (*_REST, "iam", "sagemaker", "applicationautoscaling")
_READING = ("Describe", "List", "Get", "Search", "Simulate", "Validate", "Estimate", "Detect")
_FIRST_ERROR = 400
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")


# Not one for all: requests that only read go on in other threads, and would draw from the seed.
class _ThreadState(threading.local):
    """What a thread of this process takes for chance and for now."""

    source: Random | None = None
    now: datetime | None = None


_thread = _ThreadState()


class _SeededRandom(MotoRandom):
    """moto's generator, drawing from the thread's own while it has one."""

    def random(self) -> float:
        return (_thread.source or _default).random()

    def getrandbits(self, k: int, /) -> int:
        return (_thread.source or _default).getrandbits(k)


def make_deterministic() -> None:
    """Let moto's generator and clock be chosen; a second time does no harm."""
    # moto's modules have imported the object by name: another one would reach none of them.
    mock_random.__class__ = _SeededRandom
    # As with the object above: each of them has the function under a name of its own.
    for module in _MODULES:
        if hasattr(module, "utcnow"):
            module.utcnow = _now


@contextlib.contextmanager
def deterministic(seed: int, at: float) -> Iterator[None]:
    """Let this thread's calls of moto draw from a seed and take a moment for now.

    Parameters
    ----------
    seed
        Of the generator.
    at
        Seconds since the epoch.
    """
    _thread.source = Random(seed)  # noqa: S311 - identifiers, not secrets
    _thread.now = datetime.fromtimestamp(at, timezone.utc).replace(tzinfo=None)  # moto is naive
    try:
        yield
    finally:
        _thread.source = _thread.now = None


def _now() -> datetime:
    return _thread.now or utcnow()


class StateRecorder:
    """Writes down what changes, unless it is playing it back.

    Parameters
    ----------
    log
        Where it is written.
    """

    def __init__(self, log: StateLog) -> None:
        make_deterministic()
        self.log = log
        self._pending: list[LogEntry] = []
        # Taken again by flush_pending: what is pending goes ahead of every other entry.
        self._pending_lock = threading.RLock()
        self._replaying: LogEntry | None = None

    def perform(
        self, request: ApiRequest, service: str, ask: Callable[[ApiRequest], ApiReply]
    ) -> ApiReply:
        """Write a request down when it changes something, and ask moto, which makes the change.

        Requests that change something are done one after the other: their order in the log is
        the order in which they took effect. What moto refuses is taken out of the log, and leaves
        nothing behind in moto.

        Parameters
        ----------
        request
            The request.
        service
            moto's name of the service that answers it.
        ask
            Has moto answer it.

        Raises
        ------
        OSError
            There is no room for it on the disk; nothing has been changed.
        """
        replaying = self._replaying
        if replaying is not None:
            with deterministic(replaying.seed, replaying.at):
                return _with_upload_id(ask(request), replaying.upload_id)
        if not _changes_something(request, service):
            return ask(request)
        # moto would draw it from os.urandom, which no seed reaches.
        upload_id = secrets.token_hex(32) if _begins_upload(request, service) else ""
        # A seed for each: entries that are left out later take nothing from the others' chance.
        seed, at = secrets.randbits(64), time.time()
        try:
            with (
                self.log.bodies.kept(body_of(request, service)) as body,
                self._written(entry_of(request, at, seed, body, upload_id)),
                rolled_back_on_failure(request, service),
                deterministic(seed, at),
            ):
                # A refusal is raised, so that all that the block has begun is taken back, last
                # things first.
                return _with_upload_id(_unless_refused(ask(request)), upload_id)
        except _RefusedError as refused:
            return refused.reply

    def keep(self, request: ApiRequest) -> None:
        """Write down a request that is answered here and not by moto.

        Raises
        ------
        OSError
            There is no room for it on the disk.
        """
        if self._replaying is None:
            with (
                self.log.bodies.kept(b"".join(request.body)) as body,
                self._written(entry_of(request, time.time(), 0, body, "")),
            ):
                pass

    def record_change(self, change: dict[str, Any]) -> None:
        """Write down what is to become of an endpoint or a stack.

        Raises
        ------
        OSError
            There is no room for it on the disk.
        """
        if self._replaying is None:
            with self._written(LogEntry(time.time(), change=change)):
                pass

    def record_outcome(self, change: dict[str, Any]) -> None:
        """Write down what has become of an endpoint or a stack, at the latest before anything else.

        Raises
        ------
        OSError
            There is no room for it on the disk now. It is not forgotten.
        """
        if self._replaying is None:
            with self._pending_lock:
                self._pending.append(LogEntry(time.time(), change=change))
                self.flush_pending()

    @property
    def is_replaying(self) -> bool:
        """Whether what was written down is being played back."""
        return self._replaying is not None

    @property
    def has_pending(self) -> bool:
        """Whether there is something that there was no room for."""
        return bool(self._pending)

    def flush_pending(self) -> None:
        """Write down what there was no room for.

        Raises
        ------
        OSError
            There still is none.
        """
        with self._pending_lock:
            while self._pending:
                # Forgotten only when it is on the disk: appending it may fail.
                self.log.append(self._pending[0])
                del self._pending[0]

    def request_of(self, entry: LogEntry) -> ApiRequest:
        """Return the request of an entry; what is asked from now on is played back as this entry.

        Raises
        ------
        EndpointError
            Its body is damaged.
        """
        self._replaying = entry
        headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in entry.headers
        ]
        return ApiRequest(
            method=entry.method,
            path=entry.path.encode("latin-1"),
            query=entry.query.encode("latin-1"),
            headers=headers,
            body=(self.log.bodies.read(entry.body),),
        )

    def end_replay(self) -> None:
        """Write down again: everything has been played back."""
        self._replaying = None

    @contextlib.contextmanager
    def _written(self, entry: LogEntry) -> Iterator[None]:
        """Write an entry down for the block, which makes its change, and before it what is owed."""
        with self._pending_lock:
            self.flush_pending()
            with self.log.appended(entry):
                yield


class _RefusedError(Exception):
    """moto has refused a request."""

    def __init__(self, reply: ApiReply) -> None:
        super().__init__()
        self.reply = reply


def _unless_refused(reply: ApiReply) -> ApiReply:
    if reply.status >= _FIRST_ERROR:
        raise _RefusedError(reply)
    return reply


def _changes_something(request: ApiRequest, service: str) -> bool:
    if service in _REST:
        return request.method in ("PUT", "POST", "DELETE")
    if service not in _SERVICES:
        return False
    return not operation_of(request).startswith(_READING) and not concerns_secrets(request)


def _begins_upload(request: ApiRequest, service: str) -> bool:
    named = {item.partition(b"=")[0] for item in request.query.split(b"&")}
    return service == "s3" and request.method == "POST" and b"uploads" in named


def _with_upload_id(reply: ApiReply, upload_id: str) -> ApiReply:
    """Call a multipart upload as it shall be called: moto names them by chance of its own."""
    found = _UPLOAD_ID.search(reply.body) if upload_id and reply.status < _FIRST_ERROR else None
    if found is None:
        return reply
    given = found[1].decode("latin-1")
    for account in get_backend("s3").values():
        for backend in account.values():
            for bucket in tuple(backend.buckets.values()):
                if given in bucket.multiparts:
                    upload = bucket.multiparts.pop(given)
                    upload.id = upload_id
                    bucket.multiparts[upload_id] = upload
    return replace(reply, body=reply.body.replace(found[1], upload_id.encode()))
