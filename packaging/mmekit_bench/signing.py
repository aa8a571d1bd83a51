"""AWS Signature Version 4 for invocations, at a cost that a load generator can bear.

botocore takes a quarter of a millisecond to sign; this takes some ten microseconds. A test holds
both against each other. Source: "Create a signed AWS API request" in AWS's IAM user guide, and
``botocore.auth.SigV4Auth``.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Signer"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE = "sagemaker"


class Signer:
    """Signs POST requests to one host.

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
