"""The name of a layer: the SHA-256 of its files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def digest_of(files: Iterable[tuple[str, int, int, str]]) -> str:
    """Return what a layer is called: SHA-256 over a line for each file, in the order of names.

    Parameters
    ----------
    files
        Name (relative, forward slashes), mode (0o755 or 0o644), size in bytes, and SHA-256 as
        hexadecimal digits of each file.
    """
    digest = hashlib.sha256()
    for name, mode, size, sha256 in sorted(files, key=lambda one: one[0].encode()):
        digest.update(f"{mode:o} {sha256} {size} {name}\n".encode())
    return digest.hexdigest()
