"""Of packaging/ the tests import only what has an example to run: the rest takes seconds."""

from __future__ import annotations

from pathlib import Path

PACKAGING = Path(__file__).parent / "packaging"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Pass over the modules without a doctest."""
    if collection_path.suffix != ".py" or not collection_path.is_relative_to(PACKAGING):
        return None
    return True if ">>>" not in collection_path.read_text(encoding="utf-8") else None
