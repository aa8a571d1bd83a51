"""Who calls which service: the credential scope of a request's signature."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

__all__ = ["Caller", "caller_of"]


class Caller(NamedTuple):
    """Account, region and service that a signature (AWS Signature Version 4) speaks for."""

    account: str
    region: str
    service: str


def caller_of(authorization: bytes | None) -> Caller | None:
    """Return the caller that an Authorization header names, or None when it names none.

    The signature itself is not verified: on loopback there is nobody to keep out, and moto
    does not do it either.
    """
    if authorization is None:
        return None
    return _caller_of_scope(authorization.partition(b",")[0])


@lru_cache(maxsize=1024)
def _caller_of_scope(scope: bytes) -> Caller | None:
    # AWS4-HMAC-SHA256 Credential=<access key>/<date>/<region>/<service>/aws4_request
    _, found, credential = scope.decode("latin-1").partition("Credential=")
    parts = credential.strip().split("/")
    if not found or len(parts) != 5:  # noqa: PLR2004 - the five parts shown above
        return None
    access_key, _, region, service, _ = parts

    from moto.iam.models import get_account_id_from

    return Caller(get_account_id_from(access_key), region, service.lower())
