"""Models in skops' format: importing it brings in all of scikit-learn and torch, so only here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def dump(model: Any, path: Path) -> None:
    """Write a model, as its user does."""
    import skops.io

    skops.io.dump(model, path)


def untrusted(path: Path) -> list[str]:
    """Return the types that skops does not trust by itself."""
    import skops.io

    return list(skops.io.get_untrusted_types(file=path))
