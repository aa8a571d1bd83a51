"""Signatures among the files of packages and archives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit_runtime.signature import FILE_NAME, Signature

if TYPE_CHECKING:
    from mmekit.archive.package import Contents

__all__ = ["FILE_NAME", "signature_among", "signature_from"]


def signature_among(contents: Contents) -> Signature | None:
    """Return what signature.json says; None where there is none, or nobody can read it."""
    data = contents.data(FILE_NAME)
    try:
        return None if data is None else Signature.from_json(data)
    except (ValueError, TypeError, AttributeError):
        return None


def signature_from(content: Any) -> Signature | None:
    """Read a signature that is a part of other JSON; ValueError says what is wrong."""
    return None if content is None else Signature.from_json(json.dumps(content))
