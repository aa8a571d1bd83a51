"""Which entries of a state log are still needed: objects that are gone or replaced need none."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from moto.backends import get_backend

from mmekit.endpoint.caller import caller_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mmekit.endpoint.state.log import Entry

__all__ = ["compacted"]

_COPY_SOURCE = "x-amz-copy-source"


@dataclass
class _Object:
    """What a log says of one object of S3."""

    entries: list[int] = field(default_factory=list)
    last_write: int = -1
    last_upload: str = ""


def compacted(entries: Iterable[Entry], body_of: Callable[[Entry], bytes]) -> list[Entry]:
    """Return the entries that are needed to come to the same state; they have been played back.

    Left out are the entries of objects that no longer exist, but for their last deletion, and those
    before an object was last written as a whole; not in buckets that keep versions, nor of objects
    that others were copied from, or functions made of. Of a stack only what was noted
    since it was last noted as a whole is kept.
    """
    entries = list(entries)
    objects, untouchable, versioned = _surveyed(entries, body_of)
    dropped: set[int] = set()
    for path, found in objects.items():
        if path[0] not in versioned and path not in untouchable:
            dropped |= _superseded(entries, found, exists=_exists(*path))
    dropped |= _retold(entries)
    return [entry for number, entry in enumerate(entries) if number not in dropped]


def _retold(entries: list[Entry]) -> set[int]:
    """Return what was noted of a stack before it was last noted as a whole."""
    last = {
        entry.change["stack"]["id"]: number
        for number, entry in enumerate(entries)
        if isinstance(entry.change.get("stack"), dict)
    }
    told = {
        number: stack["id"] if isinstance(stack, dict) else stack
        for number, entry in enumerate(entries)
        if (stack := entry.change.get("stack")) is not None
    }
    return {number for number, stack in told.items() if number < last.get(stack, 0)}


def _surveyed(
    entries: list[Entry], body_of: Callable[[Entry], bytes]
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
        source = dict(entry.headers).get(_COPY_SOURCE)
        if source is not None:
            sources.add(_split(unquote(source).partition("?")[0]))
        if not key:
            if "versioning" in query:
                versioned.add(bucket)
            continue
        found = objects.setdefault(path, _Object())
        found.entries.append(number)
        upload = query.get("uploadId", "")
        whole = entry.method == "PUT" and not set(query) - {"x-id"}
        if whole or (entry.method == "POST" and upload):
            found.last_write, found.last_upload = number, upload
    return objects, sources, versioned


def _superseded(entries: list[Entry], found: _Object, *, exists: bool) -> set[int]:
    if not exists:
        # What wrote it may not be among them: a form, or a request to a host named by the bucket.
        deletions = [number for number in found.entries if entries[number].method == "DELETE"]
        return set(found.entries) - set(deletions[-1:])
    return {
        number
        for number in found.entries
        if number < found.last_write
        and (not found.last_upload or found.last_upload != _upload(entries[number]))
    }


def _upload(entry: Entry) -> str:
    """Return the multipart upload that an entry begins or belongs to; "" when to none."""
    return entry.upload_id or dict(parse_qsl(entry.query)).get("uploadId", "")


def _code(entry: Entry, body_of: Callable[[Entry], bytes]) -> set[tuple[str, str]]:
    """Return the object that a function of Lambda's is made of by an entry, if it is."""
    if not entry.path.rstrip("/").endswith(("/functions", "/code")):
        return set()
    try:
        members = json.loads(body_of(entry))
        code = members.get("Code", members)
        return {(code["S3Bucket"], code["S3Key"])}
    except (ValueError, KeyError, AttributeError):
        return set()


def _path(entry: Entry) -> tuple[str, str] | None:
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


def _exists(bucket: str, key: str) -> bool:
    """Say whether any account has such an object, or an upload of it that has not ended."""
    for account in get_backend("s3").values():
        for backend in account.values():
            found = backend.buckets.get(bucket)
            if found is None:
                continue
            uploads = (upload.key_name for upload in found.multiparts.values())
            if key in found.keys or key in uploads:
                return True
    return False
