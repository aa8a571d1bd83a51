"""Models with layers, and where their layers are to be had."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from mmekit_runtime.layers import provide
from mmekit_runtime.layers.contents import digest_of_folder
from mmekit_runtime.layers.holding import platform
from mmekit_runtime.layers.listing import FOLDER, LISTING, LayerEntry, listing_of
from tests.signed_objects import SignedObjects

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def entry_of(tmp_path):
    """Make what layers.json says of a layer with given files."""

    def entry_of(files, kind="libraries", **fields):
        folder = write(tmp_path / f"layer-{len(list(tmp_path.glob('layer-*')))}", files)
        digest = digest_of_folder(folder)
        compiled = (PYTHON, platform()) if kind == "libraries" else (None, None)
        given = {"python": compiled[0], "platform": compiled[1], "says": "tabular 1.0", **fields}
        return LayerEntry(digest.sha256, kind, digest.bytes, digest.files, **given)

    return entry_of


@pytest.fixture
def model(tmp_path):
    """Make the folder of a model, as SageMaker and the local endpoint unpack it."""

    def model(name, *entries, inline=None):
        folder = tmp_path / "models" / name / "model"
        folder.mkdir(parents=True)
        (folder / LISTING).write_bytes(listing_of(entries))
        for sha256, files in (inline or {}).items():
            write(folder / FOLDER / sha256, files)
        return folder

    return model


@pytest.fixture
def store(tmp_path):
    """Return where the instance keeps layers."""
    return tmp_path / "models" / ".mmekit-layers"


@pytest.fixture
def bucket():
    """Have objects in a stand-in of S3."""
    running = SignedObjects()
    yield running
    running.close()


@pytest.fixture
def provided():
    """Provide layers, and let go of them in the end."""
    held = []

    def provided(folder, environ=None):
        held.append(provide(folder, environ or {}))
        return held[-1]

    yield provided
    for one in held:
        one.close()
