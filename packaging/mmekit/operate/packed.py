"""The name that a model was packed with, which stands before what its workers print."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.archive import parse_properties
from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit.settings import Settings

__all__ = ["packed_name"]

_FILE = "serving.properties"
_MOST_BYTES = 64 << 20
"""A larger archive is not read for a name."""
_LONGEST = 1 << 20


def packed_name(settings: Settings, data_urls: Iterable[str], key: str) -> str | None:
    """Return the name that the archive of a target model gives it.

    Returns
    -------
    str or None
        None where there is no such archive, or none that says it, or it is too large to be read
        for that.
    """
    client = settings.client("s3")
    for url in data_urls:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://"):
            continue
        try:
            found = client.get_object(Bucket=bucket, Key=prefix + key)
        except ClientError:  # it is not there, or not ours to read
            continue
        if found["ContentLength"] <= _MOST_BYTES and (name := _name_in(found["Body"])):
            return name
    return None


def _name_in(body: Any) -> str | None:
    try:
        # From beginning to end, and never onto the disk.
        with tarfile.open(fileobj=body, mode="r|gz") as archive:
            for member in archive:
                if member.name.removeprefix("./") != _FILE or member.size > _LONGEST:
                    continue
                file = archive.extractfile(member)
                text = b"" if file is None else file.read()
                return parse_properties(text.decode("utf-8", "replace")).model_name
    except (tarfile.TarError, OSError, EOFError, MmekitError):
        return None
    return None
