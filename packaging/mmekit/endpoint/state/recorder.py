"""State that survives: changes are written down as they are made, and played back at the start."""

from __future__ import annotations

import re
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, unquote_to_bytes

from moto.backends import get_backend

from mmekit.endpoint.caller import caller_of
from mmekit.endpoint.http import Reply, Request
from mmekit.endpoint.state.log import Entry
from mmekit.endpoint.state.repeatable import make_repeatable, moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit.endpoint.caller import Caller
    from mmekit.endpoint.state.log import StateLog

__all__ = ["State", "caller_of_request", "operation_of"]

_REST = ("s3", "lambda")  # whose requests name no operation
_SERVICES = (*_REST, "iam", "sagemaker", "application-autoscaling")
_READING = ("Describe", "List", "Get", "Search", "Simulate", "Validate", "Estimate", "Detect")
_SECRET = (  # what these make or take must not lie on a disk
    "CreateAccessKey",
    "CreateLoginProfile",
    "UpdateLoginProfile",
    "ChangePassword",
    "CreateVirtualMFADevice",
    "UploadServerCertificate",
    "UploadSigningCertificate",
)
_SECRET_HEADERS = frozenset({"authorization", "x-amz-security-token", "cookie", "content-length"})
_CUSTOMER_KEY = "server-side-encryption-customer-key"
_LAST_SUCCESS = 299
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")


class State:
    """Writes down what changes, unless it is playing it back.

    Parameters
    ----------
    log
        Where it is written.
    """

    def __init__(self, log: StateLog) -> None:
        make_repeatable()
        self.log = log
        self._order = threading.Lock()
        self._playing: Entry | None = None

    def perform(self, request: Request, ask: Callable[[Request], Reply]) -> Reply:
        """Ask moto, and write the request down when it changed something.

        Requests that change something are done one after the other: their order in the log is
        the order in which they took effect.

        Raises
        ------
        OSError
            There is no room for it on the disk.
        """
        playing = self._playing
        if playing is not None:
            with moment(playing.seed, playing.at):
                reply = ask(request)
            _rename_upload(request, reply, playing.upload_id)
            return reply
        if not _changes_something(request):
            return ask(request)
        with self.log.body_kept(b"".join(request.body)) as body, self._order:
            seed, at = secrets.randbits(64), time.time()
            with moment(seed, at):
                reply = ask(request)
            if reply.status <= _LAST_SUCCESS:
                self.log.append(_entry(request, at, seed, body, _upload_id(request, reply)))
        return reply

    def keep(self, request: Request) -> None:
        """Write down a request that is answered here and not by moto.

        Raises
        ------
        OSError
            There is no room for it on the disk.
        """
        if self._playing is None:
            with self.log.body_kept(b"".join(request.body)) as body, self._order:
                self.log.append(_entry(request, time.time(), 0, body, ""))

    def note(self, change: dict[str, Any]) -> None:
        """Write down what became of an endpoint.

        Raises
        ------
        OSError
            There is no room for it on the disk.
        """
        if self._playing is None:
            with self._order:
                self.log.append(Entry(time.time(), change=change))

    def request_of(self, entry: Entry) -> Request:
        """Return the request of an entry; what is asked from now on is played back as this entry.

        Raises
        ------
        EndpointError
            Its body is damaged.
        """
        self._playing = entry
        headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in entry.headers
        ]
        return Request(
            method=entry.method,
            path=entry.path.encode("latin-1"),
            query=entry.query.encode("latin-1"),
            headers=headers,
            body=(self.log.body(entry),),
        )

    def played(self) -> None:
        """Write down again: everything has been played back."""
        self._playing = None


def caller_of_request(request: Request) -> Caller | None:
    """Return who signed a request, in its header or, as a presigned URL does, in its query."""
    caller = caller_of(request.header(b"authorization"))
    if caller is None and b"X-Amz-Credential=" in request.query:
        credential = parse_qs(request.query.decode("latin-1")).get("X-Amz-Credential", [""])[0]
        caller = caller_of(b"Credential=" + credential.encode())
    return caller


def operation_of(request: Request) -> str:
    """Return the operation that a request names, in its header or its form; "" for S3's."""
    target = request.header(b"x-amz-target")
    if target is not None:
        return target.rpartition(b".")[2].decode("latin-1")
    kind = request.header(b"content-type") or b""
    if kind.startswith(b"application/x-www-form-urlencoded"):
        form = parse_qs(b"".join(request.body).decode("latin-1"))
        return form.get("Action", [""])[0]
    return ""


def _changes_something(request: Request) -> bool:
    caller = caller_of_request(request)
    service = "s3" if caller is None and not operation_of(request) else caller and caller.service
    if service in _REST:
        return request.method in ("PUT", "POST", "DELETE")
    if service not in _SERVICES:
        return False
    operation = operation_of(request)
    return not operation.startswith(_READING) and operation not in _SECRET


def _entry(request: Request, at: float, seed: int, body: str, upload_id: str) -> Entry:
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in request.headers
        if name.decode("latin-1") not in _SECRET_HEADERS and _CUSTOMER_KEY not in str(name)
    ]
    scope = _scope(request)
    if scope:
        headers.append(("authorization", f"AWS4-HMAC-SHA256 Credential={scope}, "))
    # Of a presigned URL nothing remains but the scope: its signature would be good for others.
    query = [
        item
        for item in request.query.decode("latin-1").split("&")
        if item and not item.startswith(("X-Amz-", "AWSAccessKeyId=", "Signature=", "Expires="))
    ]
    return Entry(
        at,
        seed=seed,
        method=request.method,
        path=request.path.decode("latin-1"),
        query="&".join(query),
        headers=tuple(headers),
        body=body,
        upload_id=upload_id,
    )


def _scope(request: Request) -> str:
    """Return the credential scope of a request's signature: who, when, where, which service."""
    authorization = (request.header(b"authorization") or b"").decode("latin-1")
    _, found, rest = authorization.partition("Credential=")
    if found:
        return rest.partition(",")[0].strip()
    for name, value in parse_qsl(request.query.decode("latin-1")):
        if name == "X-Amz-Credential":
            return value
    return ""


def _upload_id(request: Request, reply: Reply) -> str:
    begins = request.method == "POST" and request.query.partition(b"=")[0] == b"uploads"
    found = _UPLOAD_ID.search(reply.body) if begins else None
    return found[1].decode("latin-1") if found else ""


def _rename_upload(request: Request, reply: Reply, upload_id: str) -> None:
    """Call a multipart upload as it was called: moto names them by chance of its own."""
    given = _upload_id(request, reply) if upload_id else ""
    if not given:
        return
    bucket = unquote_to_bytes(request.path).decode().split("/", 2)[1]
    caller = caller_of_request(request)
    backends = get_backend("s3")
    accounts = [caller.account] if caller is not None else list(backends)
    for account in accounts:
        for backend in backends[account].values():
            uploads = backend.buckets[bucket].multiparts if bucket in backend.buckets else {}
            if given in uploads:
                upload = uploads.pop(given)
                upload.id = upload_id
                uploads[upload_id] = upload
