"""layers.json: which layers an archive has, or names."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from . import holding

LISTING, LISTING_BYTES = holding.LISTING, holding.LISTING_BYTES
FOLDER = "layers"
"""Under which inline layers lie in an archive, each in a folder of its name."""

LIBRARIES, BODY, RUNTIME = KINDS = ("libraries", "body", "runtime")
FORMAT = 1
_DIGITS = frozenset("0123456789abcdef")


class LayerError(RuntimeError):
    """A layer is not to be had, or not what it is called; one line that says what to do."""


@dataclass(frozen=True)
class LayerEntry:
    """One layer.

    Attributes
    ----------
    sha256
        Its name: of its content, as hexadecimal digits.
    kind
        ``libraries``, ``body`` or ``runtime``.
    bytes, files
        Of all its files together, and how many they are.
    says
        What is in it, for messages.
    python, platform
        For which Python (``3.11``) and platform (``linux-x86_64``) its compiled code is; None where
        there is none.
    """

    sha256: str
    kind: str
    bytes: int
    files: int
    says: str
    python: str | None = None
    platform: str | None = None

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"layer {self.sha256[:12]} ({self.kind}, {self.bytes / 1e6:.1f} MB: {self.says})"


def read_layers(model_dir: str) -> tuple[LayerEntry, ...]:
    """Return the layers that a model's folder names; none where there is no layers.json.

    Raises
    ------
    LayerError
        It is not one that packing has written.
    """
    file = os.path.join(model_dir, LISTING)
    try:
        with open(file, "rb") as stream:
            data = stream.read(LISTING_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise LayerError(f"{LISTING} cannot be read: {error.strerror or error}") from error
    return parse_layers(data)


def parse_layers(data: bytes) -> tuple[LayerEntry, ...]:
    """Return what a layers.json says.

    Raises
    ------
    LayerError
        It is not one that packing has written.
    """
    if len(data) > LISTING_BYTES:
        raise LayerError(f"{LISTING} has more than {LISTING_BYTES} bytes: pack the model again")
    try:
        content = json.loads(data)
        entries = tuple(_entry(one) for one in _of_known_format(content)["layers"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise LayerError(f"{LISTING} cannot be read ({reason}): pack the model again") from error
    if len({entry.kind for entry in entries}) != len(entries):
        raise LayerError(f"{LISTING} names two layers of one kind: pack the model again")
    return entries


def listing_of(entries: tuple[LayerEntry, ...]) -> bytes:
    """Return the layers.json for layers: the same bytes for the same entries."""
    content = {"format": FORMAT, "layers": [vars(entry) for entry in entries]}
    return (json.dumps(content, sort_keys=True) + "\n").encode()


def _of_known_format(content: Any) -> Any:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}")
    return content


def _entry(given: dict[str, object]) -> LayerEntry:
    if set(given) != set(LayerEntry.__dataclass_fields__):
        raise ValueError(f"a layer with {', '.join(sorted(given))}")
    sha256, kind = given["sha256"], given["kind"]
    if (
        not isinstance(sha256, str)
        or len(sha256) != holding.SHA256_DIGITS
        or not set(sha256) <= _DIGITS
    ):
        raise ValueError(f"{sha256!r} is no SHA-256")
    if kind not in KINDS:
        raise ValueError(f"a layer of the kind {kind!r}")
    for name in ("bytes", "files"):
        number = given[name]
        if type(number) is not int or number < 0:
            raise ValueError(f"{name} {number!r}")
    texts = (given["says"], given["python"] or "", given["platform"] or "")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is none")
    return LayerEntry(**given)  # type: ignore[arg-type]
