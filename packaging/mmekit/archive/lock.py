"""requirements.lock: which wheels a model's layer of libraries is made of.

It lies beside requirements.txt, belongs into version control as that does, and is written by
packing. As long as requirements.txt and what is known of the image stay as they are, it decides;
otherwise it is made anew.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit.archive.image import Image

_FORMAT = 1
_KEY = re.compile(r"^# key: (\S+)$", re.MULTILINE)
_LINE = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$")


@dataclass(frozen=True)
class LockedWheel:
    """One wheel: its distribution's canonical name and version, and its SHA-256."""

    name: str
    version: str
    sha256: str

    @property
    def line(self) -> str:
        """How a requirements file asks for it."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class RequirementsLock:
    """A requirements.lock.

    Attributes
    ----------
    key
        What it was resolved for: the requirements and the image.
    wheels
        Sorted by name.
    """

    key: str
    wheels: tuple[LockedWheel, ...]

    def to_text(self, image: Image) -> str:
        """Return the file's text, which pip and uv can read as well."""
        lines = [
            "# Written by `mme pack`: the wheels of the layer of libraries, what requirements.txt",
            f"# asks for and {image.name} (Python {image.python}, {image.platform}) lacks.",
            "# Remove the file, and the newest versions are taken.",
            f"# key: {self.key}",
            *(wheel.line for wheel in self.wheels),
        ]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str) -> RequirementsLock | None:
        """Read what `to_text` wrote; None for anything else, which counts as no lock."""
        key = _KEY.search(text)
        lines = [one for one in text.splitlines() if one.strip() and not one.startswith("#")]
        found = [_LINE.fullmatch(one.strip()) for one in lines]
        if key is None or not all(found):
            return None
        wheels = (LockedWheel(canonicalize_name(it[1]), it[2], it[3]) for it in found if it)
        return cls(key[1], tuple(sorted(wheels, key=lambda one: one.name)))


def key_of(lines: Iterable[str], image: Image) -> str:
    """Return what a lock is for: it changes with the requirements, and with what the image has."""
    holds = {**dict.fromkeys(image.unversioned, ""), **image.resolved, **image.pinned}
    said = [
        f"{_FORMAT} {image.name} {image.python} {image.platform}",
        *(f"{name}=={version}" for name, version in sorted(holds.items())),
        *lines,
    ]
    text = "\n".join(said)
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
