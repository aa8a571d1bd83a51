"""The signature among a package's or an archive's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit_runtime.signature import FILE_NAME, Signature

if TYPE_CHECKING:
    from mmekit.archive.package import Contents

__all__ = ["FILE_NAME", "signature_among"]


def signature_among(contents: Contents) -> Signature | None:
    """Return what signature.json says; None where there is none, or nobody can read it."""
    member = contents.files.get(FILE_NAME)
    try:
        return None if member is None else Signature.from_json(member.read())
    except (ValueError, TypeError, AttributeError):
        return None
