"""Docker's engine and an image of DJL Serving, for tests, where both are there.

MMEKIT_DOCKER_IMAGE names the image: AWS's, once it has been pulled, or any other with DJL Serving
behind `serve`, Python 3.11 and numpy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

IMAGE_VARIABLE = "MMEKIT_DOCKER_IMAGE"
STOCK = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference"
OWN = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mmekit-test"


def why_not() -> str | None:
    """Return why there is nothing to be tried here, or None."""
    if not os.environ.get(IMAGE_VARIABLE):
        return f"{IMAGE_VARIABLE} names no image of DJL Serving"
    if shutil.which("docker") is None:
        return "there is no docker"
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    return f"there is no Docker engine: {asked.stderr.strip()}" if asked.returncode else None


def docker(*words: str | Path) -> str:
    """Return what docker answers."""
    told = subprocess.run(
        ["docker", *map(str, words)], capture_output=True, text=True, check=False, timeout=300
    )
    assert told.returncode == 0, f"docker {words}: {told.stderr}"
    return told.stdout.strip()


class Images:
    """The image that is named, and images that are made of it, by names of their own."""

    def __init__(self) -> None:
        self._tag = f"test-{uuid.uuid4().hex[:8]}"
        self._made: list[str] = []
        self.stock = self._named(f"{STOCK}:{self._tag}")
        docker("tag", os.environ[IMAGE_VARIABLE], self.stock)

    def derive(
        self, name: str, *changes: str, files: Mapping[str, Path] | None = None, stock: bool = False
    ) -> str:
        """Make an image with files in their places and lines as of a Dockerfile."""
        image = self._named(f"{STOCK if stock else OWN}:{self._tag}-{name}")
        container = docker("create", self.stock)
        try:
            for place, file in (files or {}).items():
                docker("cp", file, f"{container}:{place}")
            lines = [word for change in changes for word in ("--change", change)]
            docker("commit", *lines, container, image)
        finally:
            docker("rm", container)
        return image

    def remove(self) -> None:
        """Take the names away, and what nothing else needs with them."""
        docker("rmi", "--force", *reversed(self._made))

    def _named(self, image: str) -> str:
        self._made.append(image)
        return image


@contextlib.contextmanager
def images() -> Iterator[Images]:
    """Skip where there is no engine; remove what was made."""
    if reason := why_not():
        pytest.skip(reason)
    made = Images()
    try:
        yield made
    finally:
        made.remove()
