"""What a pickled artefact says about itself, read without unpickling it.

Two things are wanted: the names that it looks for in ``__main__``, where a server has other things
than the script that trained the model, and the version of scikit-learn that wrote it, which every
estimator has in its state as ``_sklearn_version``.

The opcodes are read as far as they go. joblib puts the bytes of large arrays between them, so the
rest is searched for the opcodes that matter: the beginning and the end of a large file, and as much
of a compressed one. In skops' zip files the same stands in schema.json.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import zipfile
import zlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mmekit.archive.contents import Member

PICKLE_SUFFIXES = (".joblib", ".pkl", ".pickle", ".cloudpkl", ".skops")
"""Files of these hold objects of libraries' classes, and not only numbers."""

_MIB = 1 << 20
_PART = 8 * _MIB
_UNPACKED = 128 * _MIB
_SCHEMA = 32 * _MIB
_MOST_IN_ZIP = 4
_MOST_OPCODES = 200_000
_CHUNK = 1 << 18
_BYTE = 255
_MAIN = "__main__"
_KEY = "_sklearn_version"
_VERSION = re.compile(r"\d[\w.+!-]{0,40}")
_ZIP = b"PK\x03\x04"

# What may stand after a text: it is remembered, and a frame begins (PEP 3154).
_AFTER = rb"(?:\x94|q.|r.{4}|p\d+\n)?(?:\x95.{8})?"
# The texts of protocols from 4, from 1, and 0. The length is that of what follows.
_SHORT, _LONG, _LINE = rb"\x8c(?P<short>.)", rb"X(?P<long>.{4})", rb"V(?P<line>[^\n]{1,60})\n"
_WRITTEN_BY = re.compile(
    rb"(?:\x8c\x10_sklearn_version|X\x10\0\0\0_sklearn_version|V_sklearn_version\n)"
    + _AFTER
    + rb"(?:"
    + rb"|".join((_SHORT, _LONG, _LINE))
    + rb")",
    re.DOTALL,
)
_GLOBAL = re.compile(rb"c__main__\n(?P<line>[^\n]{1,200})\n")
_END_OF_GLOBAL = re.compile(_AFTER + rb"\x93", re.DOTALL)
_IN_SCHEMA = re.compile(r'"__class__":\s*"([^"]+)",\s*"__module__":\s*"__main__"')
_VERSION_IN_SCHEMA = re.compile(r'"_sklearn_version":\s*\{[^{}]*?"content":\s*"\\"([^"\\]+)\\""')
_NOT_IN_MAIN = re.compile(
    r"Can't get attribute '([^']+)' on <module '__main__'"
    r"|module '__main__' has no attribute '([^']+)'"
)
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")


@dataclass(frozen=True)
class Pickled:
    """What one file with pickled objects says about itself.

    Attributes
    ----------
    name
        The file.
    of_main
        Classes and functions that unpickling looks for in ``__main__``; of a file with large
        arrays not always all of them.
    scikit_learn
        The versions of scikit-learn that wrote its estimators: none when it has no estimators,
        or when they are where nobody has looked.
    """

    name: str
    of_main: tuple[str, ...]
    scikit_learn: tuple[str, ...]


def read_pickle(member: Member) -> Pickled | None:
    """Look at a file; None when it holds no pickled objects, as far as can be told.

    Some MiB are read at most, and nothing of it is executed.
    """
    with member.open() as stream:
        begin = stream.read(4)
        if begin == _ZIP:
            found = list(_read_zip(stream))
        elif _is_pickle(begin, member.name) or _decompressor(begin) is not None:
            parts = _parts(stream, begin, member.size)
            found = list(_read(parts)) if _is_pickle(parts[0], member.name) else []
        else:
            found = []
    if not found:
        return None
    names = _unique(name for names, _ in found for name in names)
    versions = _unique(version for _, versions in found for version in versions)
    return Pickled(member.name, names, tuple(v for v in versions if _VERSION.fullmatch(v)))


def name_of_main(failure: str) -> str | None:
    """Return the class or function that an error missed in ``__main__``; None for other errors.

    Examples
    --------
    >>> name_of_main("AttributeError: Can't get attribute 'Log' on <module '__main__' (built-in)>")
    'Log'
    """
    match = _NOT_IN_MAIN.search(failure)
    return None if match is None else match[1] or match[2]


def where_to_put(*names: str) -> str:
    """Return the remedy for what a pickle names of ``__main__``."""
    first = names[0].partition(".")[0]
    return (
        f"put {', '.join(names)} into a module beside model.py in the package folder, such as "
        f"features.py, import it from there in training (from features import {first}, with the "
        "package folder on sys.path), and train again"
    )


def _is_pickle(data: bytes, name: str) -> bool:
    # From protocol 2 on, a pickle begins with its protocol.
    has_protocol = data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return has_protocol or name.endswith(PICKLE_SUFFIXES)


def _parts(stream: BinaryIO, begin: bytes, size: int) -> list[bytes]:
    """Return what of a file is looked at, decompressed: all, or its beginning and its end."""
    decompressor = _decompressor(begin)
    if decompressor is not None:
        stream.seek(0)
        return _decompressed(stream, decompressor)
    if size <= 2 * _PART:
        return [begin + stream.read()]
    parts = [begin + stream.read(_PART)]
    # scikit-learn puts _sklearn_version last into a state, behind the arrays.
    stream.seek(-_PART, io.SEEK_END)
    return [*parts, stream.read(_PART)]


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _decompressor(begin: bytes) -> _Decompressor | None:
    """Return what takes a file of joblib's apart; None for one that is not compressed."""
    if begin[:1] == b"\x78" or begin[:2] == b"\x1f\x8b":
        return zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip
    if begin[:3] == b"BZh":
        return bz2.BZ2Decompressor()
    if begin == b"\xfd7zX" or begin[:3] == b"\x5d\0\0":
        # A header may ask for a dictionary of gigabytes, which is taken before a byte comes out.
        return lzma.LZMADecompressor(memlimit=256 * _MIB)
    return None


def _decompressed(stream: BinaryIO, decompressor: _Decompressor) -> list[bytes]:
    begin, end, size = bytearray(), b"", 0
    try:
        while size < _UNPACKED and (chunk := stream.read(_CHUNK)):
            piece = decompressor.decompress(chunk, _UNPACKED)
            size += len(piece)
            if len(begin) < _PART:
                begin += piece
            else:
                end = (end + piece)[-_PART:]
    except (zlib.error, lzma.LZMAError, OSError, EOFError):
        pass  # damaged, or not what it began like: whether it loads is for measuring to say
    return [bytes(begin), end]


def _read(parts: list[bytes]) -> Iterator[tuple[list[str], list[str]]]:
    opcodes = _Opcodes(parts[0])
    yield opcodes.names, opcodes.versions
    places = [place for place, text in opcodes.memo.items() if text == _MAIN]
    for part in parts:
        yield _search(part, places)


class _Opcodes:
    """A pickle's opcodes, as far as they follow each other.

    Attributes
    ----------
    names
        What is looked for in ``__main__``.
    versions
        What follows ``_sklearn_version``.
    memo
        The texts that the pickle remembers by number, and None for everything else.
    """

    def __init__(self, data: bytes) -> None:
        self.names: list[str] = []
        self.versions: list[str] = []
        self.memo: dict[int, str | None] = {}
        # The last two things that were put on the stack, where they are texts.
        self._texts: tuple[str | None, str | None] = (None, None)
        try:
            for opcode, argument, _ in islice(pickletools.genops(data), _MOST_OPCODES):
                self._take(opcode.name, argument)
        except (ValueError, IndexError):
            pass  # an array's bytes, the end of what was read, or no pickle

    def _take(self, kind: str, argument: Any) -> None:
        if kind == "MEMOIZE":
            # MEMOIZE has no number: it takes that of how many there are (PEP 3154).
            self.memo[len(self.memo)] = self._texts[1]
        elif kind in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self._texts[1]
        elif kind in _TEXTS:
            self._push(argument)
        elif kind in ("GET", "BINGET", "LONG_BINGET"):
            self._push(self.memo.get(int(argument)))
        elif kind != "FRAME":
            self._take_global(kind, argument)
            self._push(None)

    def _take_global(self, kind: str, argument: Any) -> None:
        module, name = self._texts
        if kind == "GLOBAL":
            module, _, name = argument.partition(" ")
        if kind in ("GLOBAL", "STACK_GLOBAL") and module == _MAIN and name is not None:
            self.names.append(name)

    def _push(self, text: str | None) -> None:
        self._texts = (self._texts[1], text)
        if self._texts[0] == _KEY and text is not None:
            self.versions.append(text)


def _search(data: bytes, places: list[int]) -> tuple[list[str], list[str]]:
    """Return names of ``__main__`` and versions by the opcodes around them, wherever they are."""
    names = [match["line"].decode("utf-8", "replace") for match in _GLOBAL.finditer(data)]
    # A text is there once, and then by its number: one byte of BINGET, four of LONG_BINGET.
    remembered = [re.escape(b"h%c" % place) for place in places if place <= _BYTE]
    remembered += [re.escape(b"j" + place.to_bytes(4, "little")) for place in places]
    module = rb"(?:" + rb"|".join([rb"\x8c\x08__main__", *remembered]) + rb")"
    for match in re.finditer(module + _AFTER + _SHORT, data, re.DOTALL):
        end = match.end() + match["short"][0]
        if _END_OF_GLOBAL.match(data, end):
            names.append(data[match.end() : end].decode("utf-8", "replace"))
    versions = []
    for match in _WRITTEN_BY.finditer(data):
        text = match["line"]
        if text is None:
            length = int.from_bytes(match["short"] or match["long"], "little")
            text = data[match.end() : match.end() + min(length, 60)]
        versions.append(text.decode("utf-8", "replace"))
    return names, versions


def _read_zip(stream: BinaryIO) -> Iterator[tuple[list[str], list[str]]]:
    """Look at skops' schema, and at the pickle inside of a file of torch.save."""
    # Both are there once; a zip may name either a thousand times.
    left = _MOST_IN_ZIP
    try:
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                if left == 0:
                    return
                if info.filename == "schema.json":
                    left -= 1
                    with archive.open(info) as schema:
                        text = schema.read(_SCHEMA).decode("utf-8", "replace")
                    yield _IN_SCHEMA.findall(text), _VERSION_IN_SCHEMA.findall(text)
                elif info.filename.endswith("/data.pkl"):
                    left -= 1
                    with archive.open(info) as pickled:
                        data = pickled.read(_PART)
                    yield from _read([data])
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return  # damaged, encrypted, or of a method that is not here


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
