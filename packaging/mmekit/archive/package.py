"""A package folder, its sample, and its artefacts, which become one archive.

A package folder (``model_packages/<name>``) holds what a person writes: model.py,
serving.properties, requirements.txt and a sample request with its answer. An artefact folder holds
what training left behind. Names inside either are relative, with forward slashes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmekit.archive.contents import Contents, Member, read_contents
from mmekit.archive.conventions import (
    CODE_REQUIREMENTS,
    INFERENCE_FILE,
    convention_of,
    packed_properties,
)
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.properties import parse_entries, properties_of
from mmekit.errors import PackageError
from mmekit_runtime.layers.listing import LISTING

if TYPE_CHECKING:
    from mmekit_runtime.signature import Column, Signature


MODEL_FILE = "model.py"
REQUIREMENTS_FILE = "requirements.txt"
LOCK_FILE = "requirements.lock"
MEASURED_FILE = "measured.json"
MANIFEST_FILE = "manifest.json"
RUNTIME_FOLDER = "mmekit_runtime"
LAYERS_ROOM_FOLDER = "mmekit_layers"

_RESERVED_FILES = (MANIFEST_FILE, LISTING)
_RESERVED_FOLDERS = (f"{RUNTIME_FOLDER}/", f"{LAYERS_ROOM_FOLDER}/")

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

_SAMPLES = ("sample_request", "sample_response")
MOST_BYTES = 64 << 10
_VALUES = {
    "boolean": True,
    "integer": 1,
    "long": 1,
    "float": 0.5,
    "double": 0.5,
    "datetime": "2026-03-01T12:00:00",
    "string": "text",
    "any": "value",
}
_TIMES = {"date": "2026-03-01", "time": "12:30:00"}


@dataclass(frozen=True)
class SampleRequest:
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
        What goes into the archive; samples, tests (``test_*.py`` beside model.py) and
        requirements.lock are not among it.
    sample_request
        The sample request; None when there is none.
    """

    folder: Path
    name: str
    contents: Contents
    sample_request: SampleRequest | None


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
        request = SampleRequest(path, CONTENT_TYPES[path.suffix])
    tests = [name for name in contents.files if _is_test(name)]
    left_out = (*samples, *tests, MEASURED_FILE, LOCK_FILE)
    return Package(root, root.name, contents.without(*left_out), request)


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


def merge(package: Package, artifacts: Contents) -> Contents:
    """Join a package with its artefacts, in a form that runs on every platform.

    That differs from `join` for a package that was made for another convention than a ``handle``
    in model.py.

    Raises
    ------
    PackageError
        As `join` has it.
    """
    return as_served(join(package, artifacts))


def as_served(contents: Contents) -> Contents:
    """Return a model's files with an entry point that runs on every platform.

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
        if name in _RESERVED_FILES or name.startswith(_RESERVED_FOLDERS):
            raise PackageError(
                f"{name} is a reserved name, which packing writes",
                where=joined.where,
                remedy="rename the file",
            )
    return joined


def _is_sample(name: str) -> bool:
    path = Path(name)
    return path.stem in _SAMPLES and path.suffix in CONTENT_TYPES and path.name == name


def _is_test(name: str) -> bool:
    return name.startswith("test_") and name.endswith(".py") and "/" not in name


@dataclass(frozen=True)
class Example:
    """A request that a model answers.

    Attributes
    ----------
    content_type, request
        The request's Content-Type and body.
    answer
        The body of its answer, where that is known.
    """

    content_type: str
    request: str
    answer: str | None = None

    @classmethod
    def of(cls, package: Package) -> Example | None:
        """Return a package's sample; None for one that is no text, or more than 64 KiB."""
        sample = package.sample_request
        if sample is None or sample.path.stat().st_size > MOST_BYTES:
            return None
        try:
            request = sample.body.decode()
        except UnicodeDecodeError:
            return None
        return cls(sample.content_type, request, _answer(package))

    def answered(self, answer: str | None) -> Example:
        """Return it with what a model answers; as it is where that is None, or it has none."""
        if answer is None or self.answer is None:
            return self
        return replace(self, answer=answer or None)

    @classmethod
    def made_of(cls, signature: Signature) -> Example:
        """Return a request with one record, made of what the columns may hold."""
        record = {column.name: _value(column) for column in signature.inputs}
        text = json.dumps({"instances": [record]}, ensure_ascii=False)
        return cls("application/json", text)

    @classmethod
    def from_content(cls, content: dict[str, Any] | None) -> Example | None:
        """Read what a manifest holds."""
        if content is None:
            return None
        answer = content["answer"]
        return cls(
            str(content["content_type"]),
            str(content["request"]),
            None if answer is None else str(answer),
        )


def _answer(package: Package) -> str | None:
    file = package.folder / "sample_response.json"
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _value(column: Column) -> Any:
    among = column.known if column.known is not None else column.categories
    if among:
        return among[0]
    if "," in (column.dtype or ""):
        return "2026-03-01T12:00:00+00:00"
    return _TIMES.get(column.dtype or "", _VALUES.get(column.type, "value"))
