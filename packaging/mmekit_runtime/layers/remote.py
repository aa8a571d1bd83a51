"""Layers in S3: one GET each, with the role's credentials and nothing but the standard library."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from .listing import LayerError
from .signing import Credentials, signed_headers
from .unpacking import TruncatedLayerError, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .listing import LayerEntry

ATTEMPTS = 4
PATIENCE_S = 45.0
"""No attempt begins later: a server gives a worker two minutes to start."""

_PAUSE_S = 0.2
_TIMEOUT_S = 15.0
_DEFAULT_REGION = "us-east-1"
_WORTH_ANOTHER = (429, 500, 502, 503, 504)
_REGION_HEADER = "x-amz-bucket-region"
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_CONTAINER = "http://169.254.170.2"
_CREDENTIALS_BYTES = 64 << 10
_HINTS = {
    "ExpiredToken": "the credentials have expired",
    "InvalidAccessKeyId": "the credentials are none of S3's",
    "InvalidToken": "the credentials are none of S3's",
    "SignatureDoesNotMatch": "the credentials are none of S3's",
    "RequestTimeTooSkewed": "the clock here is wrong",
    "NoSuchBucket": "there is no such bucket",
    403: "the role needs s3:GetObject there",
    404: "it is not there; `mme layers push` uploads it",
}


class _Location(NamedTuple):
    """Where an object is asked for, in one region."""

    scheme: str
    host: str
    path: str


class _Unreachable(Exception):  # noqa: N818
    """No answer, or none that lasts; the text says why."""


def fetch(prefix: str, entry: LayerEntry, folder: str, environ: Mapping[str, str]) -> None:
    """Get a layer's tar.gz from below a prefix, and unpack it into an empty folder.

    Raises
    ------
    LayerError
        It is not to be had there; one line, with no secret in it.
    OSError
        A file cannot be written.
    """
    where = f"{prefix.rstrip('/')}/{entry.sha256}.tar.gz"
    bucket, _, key = where.removeprefix("s3://").partition("/")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    credentials = _credentials(environ, where)
    until = time.monotonic() + PATIENCE_S
    attempt = moves = 0
    while True:
        attempt += 1
        try:
            with _ask(_location(bucket, key, region, environ), region, credentials, environ) as got:
                unpack(got, folder, entry)
                return
        except urllib.error.HTTPError as error:
            with error:
                other = error.headers.get(_REGION_HEADER, region)
                if other != region and re.fullmatch(r"[a-z0-9-]{1,32}", other) and not moves:
                    region, attempt, moves = other, 0, 1
                    continue
                reason = _refusal(error)
            if error.code not in _WORTH_ANOTHER:
                raise LayerError(f"{where}: {reason}") from None
        except (_Unreachable, TruncatedLayerError) as error:
            reason = str(error)
        except LayerError as error:
            raise LayerError(f"{where}: {error}") from error
        if attempt >= ATTEMPTS or time.monotonic() > until:
            raise LayerError(f"{where}: {reason}, {attempt} times")
        _empty(folder)
        time.sleep(_PAUSE_S * 2**attempt)


def _location(bucket: str, key: str, region: str, environ: Mapping[str, str]) -> _Location:
    path = f"/{quote(key, safe='/-_.~')}"
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https"):
            raise LayerError("AWS_ENDPOINT_URL is no address of http or https")
        base = parts.path.rstrip("/")
        # Without a name and a password, if there are such in it.
        host = parts.netloc.rpartition("@")[2]
        return _Location(parts.scheme, host, f"{base}/{bucket}{path}")
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if "." in bucket:
        # No certificate is for the names that such a bucket would give.
        return _Location("https", f"s3.{region}.{domain}", f"/{bucket}{path}")
    return _Location("https", f"{bucket}.s3.{region}.{domain}", path)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes nobody elsewhere: a signature is for one host."""

    def redirect_request(self, *_: object) -> None:
        """Leave it an error."""


class _Lasting:
    """An answer whose connection may break while it is read."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self, size: int, /) -> bytes:
        """Return some bytes; none at the end."""
        try:
            return bytes(self._answer.read(size))
        except (OSError, http.client.HTTPException) as error:
            raise _Unreachable(f"the connection broke ({_name_of(error)})") from error


@contextlib.contextmanager
def _ask(
    location: _Location, region: str, credentials: Credentials, environ: Mapping[str, str]
) -> Any:
    scheme, host, path = location
    headers = signed_headers(host, path, region, credentials)
    try:
        answer = _open(f"{scheme}://{host}{path}", headers, environ.get("AWS_CA_BUNDLE"))
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Unreachable(f"{host} cannot be reached ({_name_of(error)})") from error
    with answer:
        yield _Lasting(answer)


def _open(url: str, headers: Mapping[str, str], bundle: str | None = None, *proxies: Any) -> Any:
    handlers = [_NoRedirect, *proxies]
    if url.startswith("https:"):
        context = ssl.create_default_context(cafile=bundle)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=_TIMEOUT_S)  # noqa: S310


def _name_of(error: BaseException) -> str:
    """Return what went wrong, and nothing of what was sent."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, OSError):
        return reason.strerror or str(reason) or type(reason).__name__
    return type(reason).__name__


def _refusal(error: urllib.error.HTTPError) -> str:
    found = None
    with contextlib.suppress(OSError, http.client.HTTPException):
        found = _CODE.search(error.read(1 << 12))
    code = found[1].decode() if found else ""
    hint = _HINTS.get(code) or _HINTS.get(error.code)
    said = f"the answer is {error.code} {code}".rstrip()
    return f"{said}: {hint}" if hint else said


def _empty(folder: str) -> None:
    with os.scandir(folder) as entries:
        for one in list(entries):
            shutil.rmtree(one.path) if one.is_dir(follow_symlinks=False) else os.unlink(one.path)


def _credentials(environ: Mapping[str, str], where: str) -> Credentials:
    """Return the worker's credentials: its variables', or those that its container is given."""
    found = (
        environ.get("AWS_ACCESS_KEY_ID", ""),
        environ.get("AWS_SECRET_ACCESS_KEY", ""),
        environ.get("AWS_SESSION_TOKEN", ""),
    )
    if not found[0] or not found[1]:
        found = _of_container(environ, where)
    if not all(one.isascii() and one.isprintable() and " " not in one for one in found):
        raise LayerError(f"{where}: the credentials have characters that no key has")
    return Credentials(*found)


def _of_container(environ: Mapping[str, str], where: str) -> tuple[str, str, str]:
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = _CONTAINER + relative if relative else environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if not url:
        raise LayerError(
            f"{where}: there are no credentials here: neither AWS_ACCESS_KEY_ID nor a role's "
            f"(AWS_CONTAINER_CREDENTIALS_RELATIVE_URI)"
        )
    if not _may_be_asked(url):
        raise LayerError(f"{where}: AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor here")
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    try:
        if file := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            with open(file, encoding="ascii") as stream:
                token = stream.read(_CREDENTIALS_BYTES).strip()
        headers = {"Authorization": token} if token else {}
        for attempt in range(ATTEMPTS):
            try:
                # Whatever proxy there is, it is not for this address, nor for what is answered.
                with _open(url, headers, None, urllib.request.ProxyHandler({})) as answer:
                    given = json.loads(answer.read(_CREDENTIALS_BYTES))
                break
            except OSError as error:
                code = getattr(error, "code", 500)
                if attempt + 1 == ATTEMPTS or code not in _WORTH_ANOTHER:
                    raise
                time.sleep(_PAUSE_S * 2**attempt)
        return given["AccessKeyId"], given["SecretAccessKey"], given.get("Token") or ""
    except urllib.error.HTTPError as error:
        with error:
            why = f"the answer is {error.code}"
    except (OSError, http.client.HTTPException) as error:
        why = _name_of(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        why = "the answer cannot be read"
    # Without the error, whose text may have what was sent or answered.
    raise LayerError(f"{where}: the container's credentials are not to be had: {why}")


def _may_be_asked(url: str) -> bool:
    """Whether credentials may come from there: encrypted, or not over a network."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return parts.scheme == "https"
    if parts.hostname == "localhost":
        return True
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return False
    # 169.254.170.2 and .23 are Amazon's own, for ECS and EKS.
    return address.is_loopback or address.is_link_local or str(address) == "fd00:ec2::23"
