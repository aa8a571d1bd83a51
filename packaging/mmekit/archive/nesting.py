"""Where a model is in its unpacked archive: one answer for the server and for those who check.

Sources: Utils.getNestedModelDir of DJL 0.36, which looks once; and macOS's tar, which packs a file
``._name`` beside each that has attributes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_APPLE_DOUBLE = b"\x00\x05\x16\x07"  # RFC 1740, appendix A


def model_folder(folder: Path) -> Path:
    """Return the folder of the model: the only one in ``folder``, if nothing else is there.

    Names that begin with a dot count for nothing. It is not looked for any deeper.

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def is_apple_double(name: str, head: bytes) -> bool:
    """Whether a file is one that macOS has put beside another, by its name and first bytes."""
    return name.rpartition("/")[2].startswith("._") and head.startswith(_APPLE_DOUBLE)
