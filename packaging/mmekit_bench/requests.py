"""The first part of every request, made and signed beforehand."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mmekit.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmekit_bench.plan import Destination, Payload

__all__ = ["RequestHeads", "Signer"]

_ALGORITHM = "AWS4-HMAC-SHA256"
# The runtime's too: the client is called sagemaker-runtime, and its signing name is this.
_SERVICE = "sagemaker"


class Signer:
    """Signs POST requests to one host: AWS Signature Version 4, as fast as a load needs it.

    botocore takes a quarter of a millisecond to sign, which a load generator cannot bear; this
    takes some ten microseconds. A test holds both against each other. Source: "Create a signed AWS
    API request" in AWS's IAM user guide, and ``botocore.auth.SigV4Auth``.

    Parameters
    ----------
    credentials
        Of botocore; those that expire are refreshed by it when they are read.
    region, host
        Whom the requests go to.
    """

    def __init__(self, credentials: Any, region: str, host: str) -> None:
        self._credentials = credentials
        self._region = region
        self._host = host
        self._key: tuple[str, str, bytes] = ("", "", b"")

    def sign(
        self, path: str, headers: Mapping[str, str], body_sha256: str, moment: float
    ) -> dict[str, str]:
        """Return the headers to add to those given.

        Parameters
        ----------
        path
            The URL's path, in which nothing needs escaping.
        headers
            Those to be signed, without Host, which is signed as well.
        body_sha256
            The body's SHA-256 in hexadecimal digits.
        moment
            Seconds since 1970. AWS accepts the signature for five minutes around it.
        """
        credentials = self._credentials.get_frozen_credentials()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
        added = {"X-Amz-Date": stamp}
        if credentials.token:
            added["X-Amz-Security-Token"] = credentials.token
        signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
        signed.update((name.lower(), value) for name, value in added.items())
        signed["host"] = self._host
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        request = f"POST\n{path}\n\n{lines}\n{names}\n{body_sha256}"
        scope = f"{stamp[:8]}/{self._region}/{_SERVICE}/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        key = self._signing_key(credentials.secret_key, stamp[:8])
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        added["Authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return added

    def _signing_key(self, secret: str, day: str) -> bytes:
        if self._key[:2] != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, _SERVICE, "aws4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._key = (secret, day, key)
        return self._key[2]


class RequestHeads:
    """The first part of every request, made once; those that are signed, once a second.

    A signature's time counts whole seconds: within one, signing anew would yield the same bytes.
    """

    def __init__(self, destination: Destination, targets: Sequence[str], payload: Payload) -> None:
        self._destination = destination
        self._targets = targets
        self._common = {"Content-Type": payload.content_type}
        self._length = len(payload.body)
        self._body_sha256 = hashlib.sha256(payload.body).hexdigest()
        self._host = urlsplit(destination.origin).netloc
        self._signer = _signer(self._host, destination) if destination.endpoint else None
        self._made: list[bytes | None] = [None] * len(targets)

    def __getitem__(self, number: int) -> bytes:
        """Return request line and headers for a target, ready to be sent."""
        return self._made[number] or self._make(number)

    def expire(self) -> None:
        """Forget signatures; to be called whenever a second has passed."""
        if self._signer is not None:
            self._made = [None] * len(self._targets)

    def headers(self, number: int) -> dict[str, str]:
        """Return a request's headers, but for Host and Content-Length."""
        headers = dict(self._common)
        if self._destination.endpoint is not None and self._targets[number]:
            headers["X-Amzn-SageMaker-Target-Model"] = self._targets[number]
        if self._signer is not None:
            path = self.path(number)
            headers |= self._signer.sign(path, headers, self._body_sha256, time.time())
        return headers

    def path(self, number: int) -> str:
        """Return what stands in the request line."""
        if self._destination.endpoint is not None:
            return f"/endpoints/{self._destination.endpoint}/invocations"
        name = quote(self._targets[number], safe="")
        return self._destination.path or f"/models/{name}/invoke"

    def _make(self, number: int) -> bytes:
        lines = [f"POST {self.path(number)} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in self.headers(number).items()]
        lines += [f"Content-Length: {self._length}", "", ""]
        head = "\r\n".join(lines).encode("utf-8")
        self._made[number] = head
        return head


def _signer(host: str, destination: Destination) -> Any:
    import boto3
    from botocore.credentials import Credentials

    settings = destination.settings
    if settings.target == "local":
        credentials: Any = Credentials("local", "local")  # nobody verifies them
    else:
        credentials = boto3.Session(profile_name=destination.profile).get_credentials()
        if credentials is None:
            raise EndpointError(
                "There are no AWS credentials.",
                where="MME_TARGET=aws",
                remedy="Log in (aws sso login, aws configure), or set AWS_PROFILE.",
            )
    return Signer(credentials, settings.region, host)
