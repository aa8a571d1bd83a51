"""The entries of a state log: what is written of a request, and how lines are written and read.

What playing a request back needs is written, and no secret. A line is the CRC-32 of the rest, a
space, and JSON. The first names the format and the log; each of the others is an entry and has its
number, from 1. So a line that was changed is noticed, and so is one that is missing, stands twice
or stands elsewhere.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from mmekit.errors import EndpointError
from mmekit_local.redaction import is_secret
from mmekit_local.sagemaker.api import operations_of

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit_local.sagemaker.api import ApiRequest

__all__ = [
    "LogContent",
    "LogEntry",
    "body_of",
    "concerns_secrets",
    "damaged",
    "entry_of",
    "header_line",
    "line_of",
    "read_log",
]

_FORMAT = "mmekit-state-2"
_FIRST_FORMAT = "mmekit-state-1"
"""Neither the log nor its entries have a name or number."""
_REMEDY = "Restore the state folder from a copy, or name another one with --state."

# The host may name a bucket, the account is chosen by moto's own header, and of a form that nobody
# signed moto reads the region off the end of the user agent.
_HEADERS = frozenset({"host", "cache-control", "expires", "user-agent", "x-moto-account-id"})
_FAMILIES = ("content-", "if-", "x-amz-")
_METADATA = "x-amz-meta-"
"""What it has is the object's, whatever its name."""
_PRESIGNED = frozenset(
    {"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders"}
    | {"x-amz-content-sha256", "expires"}
)
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;,]+))', re.IGNORECASE)
_FIELD = re.compile(rb"""(?<!\w)name\*?=(?:[\w-]*'[\w-]*')?("[^"\r\n]*"|[^\s;]+)""", re.IGNORECASE)
_WITHHELD = (  # what operations on these make or take must not lie on a disk
    "AccessKey",
    "LoginProfile",
    "ChangePassword",
    "MFADevice",
    "ServerCertificate",
    "SigningCertificate",
    "ServiceSpecificCredential",
)


@dataclass(frozen=True)
class LogEntry:
    """One change: a request to AWS that succeeded, or something that became of an endpoint.

    Attributes
    ----------
    at
        When, in seconds since the epoch.
    seed
        What chance was drawn from.
    method, path, query, headers, body
        Of the request, without secrets; `body` is the SHA-256 of its bytes. A change that is no
        request has no method.
    upload_id
        The identifier of the multipart upload that the request began.
    change
        What became of an endpoint; JSON.
    """

    at: float
    seed: int = 0
    method: str = ""
    path: str = ""
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    upload_id: str = ""
    change: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What an entry is about, for people."""
        return (
            f"{self.method} {self.path}" if self.method else f"change of {', '.join(self.change)}"
        )


@dataclass(frozen=True)
class LogContent:
    """What a log says.

    Attributes
    ----------
    identity
        The log's name; "" for one of the first format, or none.
    size
        Its bytes, without a torn last line.
    torn
        Whether its last line has no end, and is left out.
    """

    identity: str
    entries: list[LogEntry]
    size: int
    torn: bool


def header_line(identity: str) -> bytes:
    """Return the first line of a log."""
    return _line({"format": _FORMAT, "log": identity})


def line_of(entry: LogEntry, number: int) -> bytes:
    """Return the line of an entry; what is at its default is left out."""
    members = {one.name: getattr(entry, one.name) for one in fields(entry)}
    kept = {name: value for name, value in members.items() if value or name == "at"}
    return _line({"number": number, **kept})


def read_log(path: Path) -> LogContent:
    """Read a log.

    Raises
    ------
    EndpointError
        It is damaged, or no log of mmekit's.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise damaged(path, f"it cannot be read: {error.strerror}") from error
    lines = content.split(b"\n")
    # A kill, or a full disk, leaves the beginning of a line. One that has its end was written.
    torn = lines.pop()
    read = [
        _members_of(path, number, line, last=number == len(lines) and not torn)
        for number, line in enumerate(lines, 1)
    ]
    if not read:
        if not _could_begin(torn):
            raise damaged(path, "it is no log of mmekit")
        return LogContent("", [], 0, bool(torn))
    known = read[0].get("format")
    if known not in (_FORMAT, _FIRST_FORMAT):
        raise damaged(path, "it is no log of this version of mmekit")
    entries = []
    for number, members in enumerate(read[1:], 1):
        # Entries that were added to a log of the first format have their numbers too.
        found = members.pop("number", number if known == _FIRST_FORMAT else None)
        if found != number:
            what = f"line {number + 1} has entry {found} where entry {number} belongs"
            raise damaged(path, f"{what}: lines are missing, or not in their order")
        entries.append(_entry_of(path, number, members))
    return LogContent(str(read[0].get("log", "")), entries, len(content) - len(torn), bool(torn))


def damaged(path: Path, what: str, remedy: str = _REMEDY) -> EndpointError:
    """Return the error for a state folder that cannot be trusted."""
    return EndpointError(f"The state is damaged: {what}.", where=str(path), remedy=remedy)


def _line(members: dict[str, Any]) -> bytes:
    text = json.dumps(members, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _could_begin(torn: bytes) -> bool:
    """Say whether something without a line's end may be the torn first line of a log."""
    checksum, text = torn[:9], torn[9:]
    shape = all(one in b"0123456789abcdef" for one in checksum[:8]) and checksum[8:] in (b"", b" ")
    begun = (b'{"format":"%s"' % name.encode() for name in (_FORMAT, _FIRST_FORMAT))
    return shape and any(one.startswith(text[: len(one)]) for one in begun)


def _members_of(path: Path, number: int, line: bytes, *, last: bool) -> dict[str, Any]:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        remedy = _REMEDY
        if last:
            remedy += (
                " If the machine lost its power while the line was written, remove the line: "
                "nobody was told that it is there."
            )
        raise damaged(path, f"line {number} is not what was written", remedy)
    try:
        members = json.loads(text)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise damaged(path, f"line {number} is not understood")
    return members


def _entry_of(path: Path, number: int, members: dict[str, Any]) -> LogEntry:
    try:
        headers = tuple((str(name), str(value)) for name, value in members.pop("headers", ()))
        return LogEntry(headers=headers, **members)
    except (TypeError, ValueError) as error:
        raise damaged(path, f"entry {number} is not understood: {error}") from error


def entry_of(request: ApiRequest, at: float, seed: int, body: str, upload_id: str) -> LogEntry:
    """Return the entry of a request.

    Parameters
    ----------
    request
        The request.
    at, seed, body, upload_id
        As `Entry` has them.
    """
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in request.headers
        if _is_kept(name.decode("latin-1"))
    ]
    scope = _scope(request)
    if scope:
        # moto tells services and regions apart by it. Without the signature it is of use to nobody.
        headers.append(("authorization", f"AWS4-HMAC-SHA256 Credential={scope}, "))
    return LogEntry(
        at,
        seed=seed,
        method=request.method,
        path=request.path.decode("latin-1"),
        query=_without_secrets(request.query.decode("latin-1")),
        headers=tuple(headers),
        body=body,
        upload_id=upload_id,
    )


def body_of(request: ApiRequest, service: str) -> bytes:
    """Return the body of a request as it is kept: a form without secrets, all else as it is.

    Parameters
    ----------
    request
        The request.
    service
        moto's name of the service that answers it.
    """
    body = b"".join(request.body)
    kind = (request.header(b"content-type") or b"").decode("latin-1")
    if service == "s3" and request.method == "POST" and (boundary := _BOUNDARY.search(kind)):
        return _form_without_secrets(body, (boundary[1] or boundary[2]).encode("latin-1"))
    if service == "iam":
        # Latin-1 brings every byte back, whatever the form is written in.
        return _without_secrets(body.decode("latin-1")).encode("latin-1")
    return body


def _is_kept(name: str) -> bool:
    if name.startswith(_METADATA):
        return True
    known = name in _HEADERS or name.startswith(_FAMILIES)
    # Of the body as it came: here it is without chunks, and without secrets.
    return known and name != "content-length" and not is_secret(name)


def _is_credential(name: str) -> bool:
    """Say whether a parameter or a field is a secret, or is only of use together with one."""
    return not name.startswith(_METADATA) and (name in _PRESIGNED or is_secret(name))


def _without_secrets(query: str) -> str:
    """Return a query, or a form, without what proves who sent it.

    Of a presigned URL nothing remains but the scope: its signature would be good for others.
    """
    named = ((unquote(item.partition("=")[0]).lower(), item) for item in query.split("&"))
    return "&".join(item for name, item in named if item and not _is_credential(name))


def _form_without_secrets(body: bytes, boundary: bytes) -> bytes:
    """Return a multipart form without the fields that prove who sent it."""
    # At the beginning of a line alone: an object's bytes may have the same elsewhere.
    start, *parts = re.split(rb"(?:^|(?<=\n))--" + re.escape(boundary), body)
    kept = [start]
    for part in parts:
        head = re.split(rb"\r?\n\r?\n", part, maxsplit=1)[0]
        names = [found.strip(b'"').decode("latin-1") for found in _FIELD.findall(head)]
        if "file" in names or not any(_is_credential(one.lower()) for one in names):
            kept.append(b"--" + boundary + part)
    return b"".join(kept)


def _scope(request: ApiRequest) -> str:
    """Return the credential scope of a request's signature: who, when, where, which service."""
    authorization = (request.header(b"authorization") or b"").decode("latin-1")
    _, found, rest = authorization.partition("Credential=")
    if found:
        return rest.partition(",")[0].strip()
    for name, value in parse_qsl(request.query.decode("latin-1")):
        if name.lower() == "x-amz-credential":
            return value
    return ""


def concerns_secrets(request: ApiRequest) -> bool:
    """Say whether a request is about secrets of IAM's, which are not kept."""
    return any(word in one for one in operations_of(request) for word in _WITHHELD)
