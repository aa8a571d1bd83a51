"""Whether two models of one package differ in numbers only, as far as their files tell.

What is left, which modules and classes they need and what they take, is seen when they are loaded
(`mmekit.archive.trial`).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmekit.archive.contents import Contents, Member

_SHARE = 0.1
"""By how much of itself a file's size may differ."""

_SLACK = 64 << 10
"""Bytes by which any file may differ: they are not seen in a figure of MiB."""

_MAGIC = (
    *(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5)),
    *(b"\x78" + bytes([level]) for level in (0x01, 0x5E, 0x9C, 0xDA)),
    *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"\x93NUMPY", b"PAR1", b"GGUF"),
)
_LONGEST = max(map(len, _MAGIC))
_READ_AS_TEXT = (".py", ".properties", "requirements.txt", "MLmodel", ".toml", ".yaml", ".yml")
_SCHEMA_BYTES = 32 << 20
_CLASS = re.compile(r'"__class__":\s*"([^"]+)",\s*"__module__":\s*"([^"]+)"')


@dataclass(frozen=True)
class Outline:
    """What of a model's files has to be the same in another, and what may differ a little.

    Attributes
    ----------
    form
        Names, kinds by the first bytes, texts that are code or settings by their digests, and the
        classes that skops files name.
    sizes
        The sizes of all files, in the order of their names.
    """

    form: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, contents: Contents, shared: tuple[str, ...] = ()) -> Outline:
        """Return the outline of a model; files that are loaded once for many count as code."""
        form = tuple((one.name, *_form(one, one.name in shared)) for one in contents)
        return cls(form, tuple(one.size for one in contents))

    @property
    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(self.sizes)

    def is_like(self, measured: Outline) -> bool:
        """Whether what was measured of another model may hold for this one."""
        return self.form == measured.form and all(
            abs(own - other) <= max(_SHARE * other, _SLACK)
            for own, other in zip(self.sizes, measured.sizes, strict=True)
        )


def _form(member: Member, is_shared: bool) -> tuple[str, ...]:  # noqa: FBT001
    if is_shared or member.name.endswith(_READ_AS_TEXT):
        return ("same", member.sha256())
    with member.open() as stream:
        begin = stream.read(_LONGEST)
    kind = next((magic.hex() for magic in _MAGIC if begin.startswith(magic)), "")
    return (kind, *_classes_in(member)) if begin.startswith(b"PK\x03\x04") else (kind,)


def _classes_in(member: Member) -> tuple[str, ...]:
    """Return the classes that a skops file will make, sorted."""
    try:
        with member.open() as stream, zipfile.ZipFile(stream) as archive:
            if "schema.json" not in archive.namelist():
                return ()
            with archive.open("schema.json") as schema:
                text = schema.read(_SCHEMA_BYTES).decode("utf-8", "replace")
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return ()  # whether it loads is for loading to say
    return tuple(sorted({f"{module}:{name}" for name, module in _CLASS.findall(text)}))
