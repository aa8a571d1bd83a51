"""The files of a package, of an artefact folder or of an archive, and how a folder of them is read.

Names are relative, with forward slashes.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmekit.archive.files import check_length
from mmekit.errors import PackageError
from mmekit_runtime.signature import FILE_NAME as SIGNATURE_FILE
from mmekit_runtime.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


_CHUNK = 1 << 20
# What editors, caches and file managers leave behind.
UNWANTED_NAMES = frozenset(
    {
        ".DS_Store",
        ".git",
        ".gitignore",
        ".gitkeep",
        ".idea",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".vscode",
        "Thumbs.db",
        "__MACOSX",
        "__pycache__",
    }
)
_UNWANTED_SUFFIXES = (".pyc", ".pyo", ".swp", "~")


@dataclass(frozen=True)
class Member:
    """One file: on disk (``path``) or made up in memory (``data``); its mode in an archive."""

    name: str
    size: int
    path: Path | None = None
    data: bytes = b""
    mode: int = 0o644

    @classmethod
    def made_of(cls, name: str, data: bytes) -> Member:
        """Return a file that exists in memory only."""
        return cls(name, len(data), None, data)

    def open(self) -> BinaryIO:
        """Open the content for reading."""
        return io.BytesIO(self.data) if self.path is None else self.path.open("rb")

    def read(self) -> bytes:
        """Return the content."""
        return self.data if self.path is None else self.path.read_bytes()

    def sha256(self) -> str:
        """Return the content's SHA-256 as hexadecimal digits."""
        digest = hashlib.sha256()
        with self.open() as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True)
class Contents:
    """The files of a package, of an artefact folder or of a whole archive.

    Attributes
    ----------
    where
        What findings and errors call the place.
    files
        The files by name, sorted.
    """

    where: str
    files: Mapping[str, Member]

    @classmethod
    def of(cls, where: str, members: Iterable[Member]) -> Contents:
        """Collect members."""
        by_name = {member.name: member for member in members}
        return cls(where, dict(sorted(by_name.items())))

    def __contains__(self, name: object) -> bool:
        """Return whether there is a file of that name."""
        return name in self.files

    def __iter__(self) -> Iterator[Member]:
        """Iterate over the files in the order of their names."""
        return iter(self.files.values())

    @property
    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(member.size for member in self)

    def text(self, name: str, encoding: str = "utf-8") -> str | None:
        """Return a file's text (undecodable bytes replaced); None when there is no such file.

        Raises
        ------
        TextError
            It is longer than anybody writes one.
        """
        data = self.data(name)
        return None if data is None else data.decode(encoding, "replace")

    def data(self, name: str) -> bytes | None:
        """Return the bytes of a file that is read as a text, as `text` does."""
        member = self.files.get(name)
        if member is None:
            return None
        check_length(name, member.size, self.where)
        return member.read()

    @property
    def signature(self) -> Signature | None:
        """Return what signature.json says; None where there is none, or nobody can read it."""
        data = self.data(SIGNATURE_FILE)
        try:
            return None if data is None else Signature.from_json(data)
        except (ValueError, TypeError, AttributeError):
            return None

    def with_members(self, *members: Member) -> Contents:
        """Return a copy in which the given files are added or replaced."""
        return Contents.of(self.where, [*self, *members])

    def without(self, *names: str) -> Contents:
        """Return a copy without the named files."""
        left = frozenset(names)
        return Contents.of(self.where, [member for member in self if member.name not in left])


def read_contents(folder: Path) -> Contents:
    """Return every file below a folder, without what caches and editors leave behind.

    Links are followed, as a model hub's download folder consists of them.

    Raises
    ------
    PackageError
        There is no such folder, or something in it cannot be read.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise PackageError(f"The folder {problem}", where=str(folder), remedy="check the path")
    return Contents.of(str(folder), _walk(folder, "", ()))


def outward_links(contents: Contents) -> tuple[str, ...]:
    """Name the links in a package folder that lead out of it.

    Those among the artefacts, which may come from a model hub's cache, are none of them.
    """
    root = Path(contents.where)
    found = set()
    for member in contents:
        if member.path is None or not member.path.is_relative_to(root):
            continue
        steps = [member.path, *member.path.parents]
        for step in reversed(steps[: steps.index(root)]):
            if step.is_symlink() and not step.resolve().is_relative_to(root.resolve()):
                found.add(step.relative_to(root).as_posix())
                break
    return tuple(sorted(found))


def _is_of_macos(path: Path) -> bool:
    if not path.name.startswith("._") or not path.is_file():
        return False
    with path.open("rb") as stream:
        return is_apple_double(path.name, stream.read(4))


def _walk(folder: Path, prefix: str, parents: tuple[Path, ...]) -> Iterator[Member]:
    real = folder.resolve()
    if real in parents:
        raise PackageError("A symbolic link leads back to a folder above it", where=str(folder))
    for path in sorted(folder.iterdir()):
        if path.name in UNWANTED_NAMES or path.name.endswith(_UNWANTED_SUFFIXES):
            continue
        if _is_of_macos(path):
            continue
        name = prefix + path.name
        if path.is_dir():
            yield from _walk(path, f"{name}/", (*parents, real))
        elif path.is_file():
            yield Member(name, path.stat().st_size, path)
        else:
            raise PackageError(
                "This is neither a file nor a folder, or it is a broken link",
                where=str(path),
                remedy="remove it",
            )


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
