"""The start with a state folder: what it holds is played back, and what is not needed goes."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from moto.backends import get_backend

from mmekit.errors import EndpointError
from mmekit_local.aws.state.entry import concerns_secrets
from mmekit_local.sagemaker.api import caller_of, caller_of_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mmekit_local.aws.cloudformation import Stacks
    from mmekit_local.aws.moto.aws import Aws
    from mmekit_local.aws.state.log import LogEntry
    from mmekit_local.aws.state.recorder import StateRecorder
    from mmekit_local.sagemaker.control.control_plane import ControlPlane
    from mmekit_local.sagemaker.control.endpoint_controller import EndpointController

__all__ = ["compacted", "restore"]

logger = logging.getLogger("mmekit.endpoint")

_FIRST_ERROR = 400
_SAID = 10
"""Of so many failures each is said: when a bucket is missing, so are all its objects."""


_COPY_SOURCE = "x-amz-copy-source"
_CONDITIONS = ("if-", "x-amz-if-")


async def restore(
    state: StateRecorder,
    aws: Aws,
    control_plane: ControlPlane,
    controller: EndpointController,
    stacks: Stacks,
) -> None:
    """Bring back what a state folder holds; endpoints begin to start.

    What cannot be brought back is said, and stays in the folder with everything else.

    Raises
    ------
    EndpointError
        The folder is damaged.
    """
    replay = _Replay(state, aws, control_plane, controller, stacks)
    if state.log.torn:
        logger.info("the last change was not written to its end, and is left out")
    with controller.restoring():
        for number, entry in enumerate(state.log.entries, 1):
            try:
                await replay.play(number, entry)
            except EndpointError as error:
                raise EndpointError(
                    f"{error.what} Entry {number} of the log needs it ({entry.summary}).",
                    where=error.where,
                    remedy=error.remedy,
                ) from error
        stacks.restored()
        state.end_replay()
        _clean_up(state, replay)


@dataclass
class _Replay:
    """Plays entries back.

    Attributes
    ----------
    kept
        The entries that are to be kept.
    failed
        How many could not be brought back.
    """

    state: StateRecorder
    aws: Aws
    control_plane: ControlPlane
    controller: EndpointController
    stacks: Stacks
    kept: list[LogEntry] = field(default_factory=list)
    failed: int = 0

    async def play(self, number: int, entry: LogEntry) -> None:
        """Play an entry back, or say what keeps it from that."""
        log = self.state.log
        try:
            failure = await self._failure(entry)
        except EndpointError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be lost by it
            failure = f"{type(error).__name__}: {error}"
        if failure and log.unanswered and number == len(log.entries):
            # The service was killed between writing it down and taking it back, or answering.
            logger.info("the last change (%s) had been refused, and is left out", entry.summary)
            return
        self.kept.append(entry)
        if failure:
            self.failed += 1
            if self.failed <= _SAID:
                what = "entry %d of the log (%s) could not be restored: %s"
                logger.error(what, number, entry.summary, failure)

    async def _failure(self, entry: LogEntry) -> str:
        """Play an entry back; return what went wrong, or ""."""
        if "stack" in entry.change:
            self.stacks.restore(entry.change)
            return ""
        if not entry.method:
            self.controller.restore(entry.change)
            return ""
        request = self.state.request_of(entry)
        caller = caller_of_request(request)
        if caller is not None and caller.service == "iam" and concerns_secrets(request):
            return ""  # by an earlier version, of what it had not kept
        if caller is not None and caller.service == "sagemaker":
            # Not moto alone: an endpoint is not only to be on record, it is to start.
            reply = await self.control_plane.answer(request, caller)
        else:
            reply = await self.aws.answer(request)
        return reply.body.decode("latin-1") if reply.status >= _FIRST_ERROR else ""


def _clean_up(state: StateRecorder, replay: _Replay) -> None:
    """Remove what is not needed, unless something is amiss: then it may be needed yet."""
    try:
        if not replay.failed:
            state.log.replace(compacted(replay.kept, state.log.bodies.read))
            return
        if len(replay.kept) < len(state.log.entries):
            state.log.replace(replay.kept, sweeps=False)
    except OSError as error:
        logger.warning("the state folder stays as long as it is: %s", error)
        return
    logger.error(
        "%d of %d changes could not be restored. All of them stay in %s, and nothing is removed "
        "there, until a start restores them all. Stop here and restore the folder from a copy if "
        "what is missing is needed.",
        replay.failed,
        len(replay.kept),
        state.log.folder,
    )


@dataclass
class _Object:
    """What a log says of one object of S3."""

    entries: list[int] = field(default_factory=list)
    last_write: int = -1
    last_upload: str = ""


def compacted(entries: Iterable[LogEntry], body_of: Callable[[str], bytes]) -> list[LogEntry]:
    """Return the entries that are needed to come to the same state; they have been played back.

    Left out are the entries of objects that no longer exist, but for their last deletion, and those
    before an object was last written as a whole; not in buckets that keep versions, nor of objects
    that others were copied from, or functions made of, or that were written on a condition. Of
    an upload that has ended only what the object was made of is kept. Of a stack only what was
    noted since it was last noted as a whole is kept.
    """
    entries = list(entries)
    objects, untouchable, versioned = _surveyed(entries, body_of)
    dropped: set[int] = set()
    for path, found in objects.items():
        if path[0] not in versioned and path not in untouchable:
            exists, uploads = _present(*path)
            dropped |= _superseded(entries, found, uploads, exists=exists)
    dropped |= _superseded_stack_notes(entries)
    return [entry for number, entry in enumerate(entries) if number not in dropped]


def _superseded_stack_notes(entries: list[LogEntry]) -> set[int]:
    """Return what was noted of a stack before it was last noted as a whole."""
    last = {
        entry.change["stack"]["id"]: number
        for number, entry in enumerate(entries)
        if isinstance(entry.change.get("stack"), dict)
    }
    stack_of = {
        number: stack["id"] if isinstance(stack, dict) else stack
        for number, entry in enumerate(entries)
        if (stack := entry.change.get("stack")) is not None
    }
    return {number for number, stack in stack_of.items() if number < last.get(stack, 0)}


def _surveyed(
    entries: list[LogEntry], body_of: Callable[[str], bytes]
) -> tuple[dict[tuple[str, str], _Object], set[tuple[str, str]], set[str]]:
    """Return the objects, those that others were made of, and the buckets with versions."""
    objects: dict[tuple[str, str], _Object] = {}
    sources: set[tuple[str, str]] = set()
    versioned: set[str] = set()
    for number, entry in enumerate(entries):
        path = _path(entry)
        if path is None:
            # It has to be there when the function is made again, whatever became of it since.
            sources |= _code(entry, body_of)
            continue
        bucket, key = path
        query = dict(parse_qsl(entry.query, keep_blank_values=True))
        headers = dict(entry.headers)
        source = headers.get(_COPY_SOURCE)
        if source is not None:
            sources.add(_split(unquote(source).partition("?")[0]))
        if not key:
            if "versioning" in query:
                versioned.add(bucket)
            continue
        if any(name.startswith(_CONDITIONS) for name in headers):
            sources.add(path)  # what it was then decides whether it may be written now
        found = objects.setdefault(path, _Object())
        found.entries.append(number)
        upload = query.get("uploadId", "")
        whole = entry.method == "PUT" and not set(query) - {"x-id"}
        if whole or (entry.method == "POST" and upload):
            found.last_write, found.last_upload = number, upload
    return objects, sources, versioned


def _superseded(
    entries: list[LogEntry], found: _Object, uploads: set[str], *, exists: bool
) -> set[int]:
    """Return which entries of an object are not needed: it may be uploaded just now."""
    parts = {number: _upload(entries[number]) for number in found.entries}
    needed = {number for number, upload in parts.items() if upload in uploads}
    plain = [number for number, upload in parts.items() if not upload]
    if exists:
        needed |= {number for number in plain if number >= found.last_write}
        if found.last_upload:
            needed |= {number for number, one in parts.items() if one == found.last_upload}
    else:
        # What wrote it may not be among them: a form, or a request to a host named by the bucket.
        needed |= set([number for number in plain if _deletes(entries[number])][-1:])
    return set(found.entries) - needed


def _deletes(entry: LogEntry) -> bool:
    """Say whether an entry deletes an object, and not only something that it has."""
    query = dict(parse_qsl(entry.query, keep_blank_values=True))
    return entry.method == "DELETE" and not set(query) - {"x-id", "versionId"}


def _upload(entry: LogEntry) -> str:
    """Return the multipart upload that an entry begins or belongs to; "" when to none."""
    return entry.upload_id or dict(parse_qsl(entry.query)).get("uploadId", "")


def _code(entry: LogEntry, body_of: Callable[[str], bytes]) -> set[tuple[str, str]]:
    """Return the object that a function of Lambda's is made of by an entry, if it is."""
    if not entry.path.rstrip("/").endswith(("/functions", "/code")):
        return set()
    try:
        members = json.loads(body_of(entry.body))
        code = members.get("Code", members)
        return {(code["S3Bucket"], code["S3Key"])}
    except (ValueError, KeyError, AttributeError):
        return set()


def _path(entry: LogEntry) -> tuple[str, str] | None:
    """Return bucket and key of a request to S3 that names them in its path, else None."""
    headers = dict(entry.headers)
    caller = caller_of(headers.get("authorization", "").encode("latin-1"))
    if not entry.method or (caller is not None and caller.service != "s3"):
        return None
    host = re.sub(r":\d+$", "", headers.get("host", ""))
    if host != "localhost":
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:  # perhaps the bucket is in it
            return None
    return _split(unquote(entry.path))


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix("/").partition("/")
    return bucket, key


def _present(bucket: str, key: str) -> tuple[bool, set[str]]:
    """Return whether any account has such an object, and which uploads of it have not ended."""
    exists, uploads = False, set()
    for account in get_backend("s3").values():
        for backend in account.values():
            found = backend.buckets.get(bucket)
            if found is not None:
                exists = exists or key in found.keys
                uploads |= {one.id for one in found.multiparts.values() if one.key_name == key}
    return exists, uploads
