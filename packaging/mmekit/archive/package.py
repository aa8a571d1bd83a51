"""What an archive is made of: a package folder, its artefacts, and the files in both.

A package folder (``model_packages/<name>``) holds what a person writes: model.py,
serving.properties, requirements.txt and a sample request with its answer. An artefact folder holds
what training left behind. Names inside either are relative, with forward slashes.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from mmekit.archive.conventions import (
    CODE_REQUIREMENTS,
    INFERENCE_FILE,
    convention_of,
    packed_properties,
)
from mmekit.archive.nesting import is_apple_double
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.properties import parse_entries, properties_of
from mmekit.archive.texts import see_length
from mmekit.errors import PackageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MODEL_FILE = "model.py"
REQUIREMENTS_FILE = "requirements.txt"
MEASURED_FILE = "measured.json"
MANIFEST_FILE = "manifest.json"
RUNTIME_FOLDER = "mmekit_runtime"

# A sample's suffix says its content type.
CONTENT_TYPES = MappingProxyType(
    {
        ".json": "application/json",
        ".jsonl": "application/jsonlines",
        ".csv": "text/csv",
        ".txt": "text/plain",
        ".npy": "application/x-npy",
        ".npz": "application/x-npz",
        ".jpg": "image/jpeg",
        ".png": "image/png",
    }
)

_CHUNK = 1 << 20
_SAMPLES = ("sample_request", "sample_response")
# What editors, caches and file managers leave behind.
_UNWANTED_NAMES = frozenset(
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
    """One file: on disk (``path``) or made up in memory (``data``)."""

    name: str
    size: int
    path: Path | None = None
    data: bytes = b""

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
        see_length(name, member.size, self.where)
        return member.read()

    def with_members(self, *members: Member) -> Contents:
        """Return a copy in which the given files are added or replaced."""
        return Contents.of(self.where, [*self, *members])

    def without(self, *names: str) -> Contents:
        """Return a copy without the named files."""
        return Contents.of(self.where, [member for member in self if member.name not in names])


@dataclass(frozen=True)
class Sample:
    """A sample request: its body and the content type that its suffix stands for."""

    path: Path
    content_type: str

    @property
    def body(self) -> bytes:
        """Return the request's body."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class Package:
    """A package folder.

    Attributes
    ----------
    folder
        The folder.
    name
        The folder's name, which is the model's.
    contents
        What goes into the archive; samples and tests (``test_*.py`` beside model.py) are not among
        it.
    sample_request
        The sample request; None when there is none.
    """

    folder: Path
    name: str
    contents: Contents
    sample_request: Sample | None


def read_package(folder: Path) -> Package:
    """Read a package folder.

    Whether what is in it makes sense is for `mmekit.archive.check` to say.

    Raises
    ------
    PackageError
        There is no such folder, or it is not one of a package.
    """
    root = Path(folder).resolve()
    contents = read_contents(root)
    if not {MODEL_FILE, PROPERTIES_FILE, INFERENCE_FILE} & set(contents.files):
        raise PackageError(
            f"The folder holds neither {MODEL_FILE} nor {PROPERTIES_FILE} nor {INFERENCE_FILE}",
            where=str(folder),
            remedy="name a package folder, such as model_packages/<name>",
        )
    samples = [name for name in contents.files if _is_sample(name)]
    requests = [name for name in samples if name.startswith("sample_request")]
    request = None
    if requests:
        path = root / requests[0]
        request = Sample(path, CONTENT_TYPES[path.suffix])
    tests = [name for name in contents.files if _is_test(name)]
    return Package(root, root.name, contents.without(*samples, *tests, MEASURED_FILE), request)


def read_artifacts(folder: Path) -> Contents:
    """Read an artefact folder.

    Raises
    ------
    PackageError
        There is no such folder, or nothing is in it.
    """
    contents = read_contents(Path(folder)).without(MEASURED_FILE)
    if not contents.files:
        raise PackageError(
            "The artefact folder is empty",
            where=str(folder),
            remedy="train the model first: its files belong there",
        )
    return contents


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


def merge(package: Package, artifacts: Contents) -> Contents:
    """Join a package with its artefacts, in a form that runs on every rung.

    That differs from `join` for a package that was made for another convention than a ``handle``
    in model.py.

    Raises
    ------
    PackageError
        As `join` has it.
    """
    return as_served(join(package, artifacts))


def as_served(contents: Contents) -> Contents:
    """Return a model's files with an entry point that runs on every rung.

    Where the package has code/requirements.txt and no other, that is copied to where DJL Serving
    looks for it.
    """
    text = contents.text(PROPERTIES_FILE, "latin-1") or ""
    entries = parse_entries(text, skip_malformed=True)
    convention = convention_of(contents, properties_of(entries))
    if convention is None or convention.is_packed:
        return contents
    properties = packed_properties(text.encode("latin-1"), entries, convention)
    added = [Member.made_of(PROPERTIES_FILE, properties)]
    if REQUIREMENTS_FILE not in contents and CODE_REQUIREMENTS in contents:
        added.append(Member.made_of(REQUIREMENTS_FILE, contents.data(CODE_REQUIREMENTS) or b""))
    return contents.with_members(*added)


def join(package: Package, artifacts: Contents) -> Contents:
    """Join a package with its artefacts, as they are; they may lie in one folder.

    Raises
    ------
    PackageError
        Both hold a file of the same name, or one has a name that packing itself gives.
    """
    if Path(artifacts.where).resolve() == package.folder:
        artifacts = artifacts.without(*artifacts.files)
    doubles = sorted(set(package.contents.files) & set(artifacts.files))
    if doubles:
        raise PackageError(
            f"The package and its artefacts both hold {', '.join(doubles)}",
            where=f"{package.folder} and {artifacts.where}",
            remedy="rename or remove one of them",
        )
    joined = Contents.of(str(package.folder), [*package.contents, *artifacts])
    for name in joined.files:
        if name == MANIFEST_FILE or name.startswith(f"{RUNTIME_FOLDER}/"):
            raise PackageError(
                f"{name} is a name that packing itself gives",
                where=joined.where,
                remedy="rename the file",
            )
    return joined


def _is_of_macos(path: Path) -> bool:
    if not path.name.startswith("._") or not path.is_file():
        return False
    with path.open("rb") as stream:
        return is_apple_double(path.name, stream.read(4))


def _is_sample(name: str) -> bool:
    path = Path(name)
    return path.stem in _SAMPLES and path.suffix in CONTENT_TYPES and path.name == name


def _is_test(name: str) -> bool:
    return name.startswith("test_") and name.endswith(".py") and "/" not in name


def _walk(folder: Path, prefix: str, parents: tuple[Path, ...]) -> Iterator[Member]:
    real = folder.resolve()
    if real in parents:
        raise PackageError("A link leads back to a folder above it", where=str(folder))
    for path in sorted(folder.iterdir()):
        if path.name in _UNWANTED_NAMES or path.name.endswith(_UNWANTED_SUFFIXES):
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
                "This is neither a file nor a folder, or a link that leads nowhere",
                where=str(path),
                remedy="remove it",
            )
