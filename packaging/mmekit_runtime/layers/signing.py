"""AWS's signature, version 4, for one GET from S3.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import time

_NOTHING = hashlib.sha256().hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials:
    """Keys, and the token where they are a role's. They are in no text that this class makes."""

    def __init__(self, access_key: str, secret_key: str, token: str = "") -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.token = token


def signed_headers(
    host: str, path: str, region: str, credentials: Credentials, now: float | None = None
) -> dict[str, str]:
    """Return the headers for a GET without a body.

    Parameters
    ----------
    host
        With the port, where it is not the usual one.
    path
        As it is sent: quoted, with the slash in front.
    now
        Seconds of the epoch; the current time by default.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {"host": host, "x-amz-content-sha256": _NOTHING, "x-amz-date": moment}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    request = "\n".join(["GET", path, "", *lines, "", names, _NOTHING])
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={credentials.access_key}/{scope}"
    authorization = f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    # Whoever sends it adds the host.
    return {name: headers[name] for name in headers if name != "host"} | {
        "authorization": authorization
    }
