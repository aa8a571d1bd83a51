"""Which entries of a state log are still needed: objects that are gone or replaced need none."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from moto.backends import get_backend

from mmekit_local.sagemaker.api import caller_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mmekit_local.aws.state.log import LogEntry

__all__ = ["compacted"]

_COPY_SOURCE = "x-amz-copy-source"
_CONDITIONS = ("if-", "x-amz-if-")


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
