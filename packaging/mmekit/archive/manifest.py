"""manifest.json: what is in an archive, and what its model was trained and measured with."""

from __future__ import annotations

import hashlib
import json
import stat
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmekit.archive.contents import is_apple_double
from mmekit.archive.files import check_length, read_text
from mmekit.archive.layers import (
    ArchiveLayer,
    is_byte_code,
    layers_from_content,
    layers_to_content,
)
from mmekit.archive.measured import UNREADABLE, Measured, signature_from
from mmekit.archive.package import MANIFEST_FILE, Example
from mmekit.archive.tarball import open_tarball
from mmekit.errors import ManifestError, TextError
from mmekit_runtime.layers.contents import LayerFile, digest_of
from mmekit_runtime.layers.listing import LayerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmekit_runtime.signature import Signature

FORMAT = 1
_CHUNK = 1 << 18
_HEAD = 4


@dataclass(frozen=True)
class Digest:
    """The SHA-256 (hexadecimal) and the size in bytes of one file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The manifest of one archive.

    Attributes
    ----------
    name
        The model's name: that of its package folder, or as one of many that of its artefacts'.
    mmekit
        Version of the mmekit that packed it.
    image
        The container image that requirements.txt was compared with; None for an unknown one.
    worker_slots
        Whether the archive asks for worker slots.
    measured
        Versions, imports and memory.
    files
        Every file but the manifest itself and those of inline layers, by name.
    signature
        What the model takes and gives: signature.json, or what its estimator told when it was
        measured; None where nobody knows.
    example
        A sample request and its answer; None where there is none, or none that is a short text.
    layers
        The layers that are in the archive, or that it names.
    """

    name: str
    mmekit: str
    image: str | None
    worker_slots: bool
    measured: Measured
    files: Mapping[str, Digest]
    signature: Signature | None = None
    example: Example | None = None
    layers: tuple[ArchiveLayer, ...] = ()

    def to_json(self) -> bytes:
        """Return the same text for the same manifest."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "mmekit": self.mmekit,
            "image": self.image,
            "worker_slots": self.worker_slots,
            "measured": json.loads(self.measured.to_json()),
            "files": {name: asdict(digest) for name, digest in self.files.items()},
            "signature": None if self.signature is None else json.loads(self.signature.to_json()),
            "example": None if self.example is None else asdict(self.example),
        }
        if self.layers:
            content["layers"] = layers_to_content(self.layers)
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes, *, where: str) -> Manifest:
        """Read what `to_json` wrote; ManifestError for anything else."""
        try:
            content = _of_known_format(json.loads(text))
            return cls(
                name=str(content["name"]),
                mmekit=str(content["mmekit"]),
                image=None if content["image"] is None else str(content["image"]),
                worker_slots=bool(content["worker_slots"]),
                measured=Measured.from_content(content["measured"]),
                files={
                    str(name): Digest(str(digest["sha256"]), int(digest["size"]))
                    for name, digest in content["files"].items()
                },
                # Archives that were packed before these were there can be read as well.
                signature=signature_from(content.get("signature")),
                example=Example.from_content(content.get("example")),
                layers=layers_from_content(content.get("layers", ())),
            )
        except (*UNREADABLE, LayerError) as error:
            raise ManifestError(
                f"The manifest cannot be read: {type(error).__name__}: {error}",
                where=f"{where}: {MANIFEST_FILE}",
                remedy="pack the model again with this version of mmekit",
            ) from error


def _of_known_format(content: dict[str, Any]) -> dict[str, Any]:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}")
    return content


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of an unpacked archive; None when it has none.

    Raises
    ------
    ManifestError
        The file is not one that mmekit wrote.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return None
    return Manifest.from_json(_text_of(file), where=str(folder))


def verify(path: Path) -> Manifest:
    """Compare every file of an archive, packed or unpacked, with its manifest.

    Parameters
    ----------
    path
        A .tar.gz, or a folder that one was unpacked into. Nothing is unpacked here.

    Returns
    -------
    Manifest
        The manifest, which holds for each file.

    Raises
    ------
    ManifestError
        There is no manifest, or a file was changed, added or removed; the message names all.
    ArchiveError
        The archive is missing or damaged, or reading it would cost more than the limits of
        `Limits` allow.
    """
    found, text = _digests_of_folder(path) if path.is_dir() else _digests_of_archive(path)
    if text is None:
        raise ManifestError(
            "There is no manifest", where=str(path), remedy="pack the model with `mme pack`"
        )
    manifest = Manifest.from_json(text, where=str(path))
    in_layers = tuple(f"{one.folder}/" for one in manifest.layers if one.inline)
    plain = {name: one.digest for name, one in found.items() if not name.startswith(in_layers)}
    differences = _differences(manifest.files, plain)
    differences += _differing_layers(manifest.layers, found)
    if differences:
        raise ManifestError(
            f"The files do not match the manifest: {'; '.join(differences)}",
            where=str(path),
            remedy="pack the model again; an archive must not be changed by hand",
        )
    return manifest


@dataclass(frozen=True)
class _Found:
    """A file as it is, and whether its owner may execute it."""

    digest: Digest
    mode: int


def _differences(expected: Mapping[str, Digest], found: Mapping[str, Digest]) -> list[str]:
    return [
        *(f"{name} is missing" for name in sorted(set(expected) - set(found))),
        *(f"{name} was added" for name in sorted(set(found) - set(expected))),
        *(
            f"{name} was changed"
            for name in sorted(set(expected) & set(found))
            if expected[name] != found[name]
        ),
    ]


def _differing_layers(layers: tuple[ArchiveLayer, ...], found: Mapping[str, _Found]) -> list[str]:
    differing = []
    for layer in (one for one in layers if one.inline):
        prefix = f"{layer.folder}/"
        own = {
            name.removeprefix(prefix): one for name, one in found.items() if name.startswith(prefix)
        }
        # It counts for nothing in the digest, and Python would run it all the same.
        differing += [f"{prefix}{name} was added" for name in sorted(own) if is_byte_code(name)]
        files = [
            LayerFile(name, bool(one.mode & 0o100), one.digest.sha256, one.digest.size)
            for name, one in own.items()
            if not is_byte_code(name)
        ]
        if digest_of(files).sha256 != layer.sha256:
            differing.append(f"{layer} {'was changed' if files else 'is missing'}")
    return differing


def _digests_of_folder(folder: Path) -> tuple[dict[str, _Found], bytes | None]:
    digests = {}
    text = None
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        # A server that has loaded the model leaves its byte code.
        if not path.is_file() or "__pycache__" in name:
            continue
        if name == MANIFEST_FILE:
            text = _text_of(path)
            continue
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            if is_apple_double(name, stream.peek(_HEAD)):
                continue
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        status = path.stat()
        digests[name] = _Found(Digest(digest.hexdigest(), status.st_size), _mode(status.st_mode))
    return digests, text


def _digests_of_archive(archive: Path) -> tuple[dict[str, _Found], bytes | None]:
    digests = {}
    text = None
    with open_tarball(archive) as tar:
        for member in tar:
            if not member.isreg():
                continue
            name = member.name.removeprefix("./")
            if name == MANIFEST_FILE:
                with _refusing_as_manifest():
                    check_length(name, member.size, str(archive))
                text = tar.read_whole(member)
                continue
            source = tar.extractfile(member)
            digest = hashlib.sha256()
            head: bytes | None = None
            while source is not None and (chunk := source.read(_CHUNK)):
                head = chunk if head is None else head
                tar.budget.take_time()
                digest.update(chunk)
            if is_apple_double(name, head or b""):
                continue
            digests[name] = _Found(Digest(digest.hexdigest(), member.size), _mode(member.mode))
    return digests, text


def _mode(mode: int) -> int:
    return 0o755 if mode & stat.S_IXUSR else 0o644


def _text_of(file: Path) -> bytes:
    with _refusing_as_manifest():
        return read_text(file)


@contextmanager
def _refusing_as_manifest() -> Iterator[None]:
    try:
        yield
    except TextError as error:
        raise ManifestError(error.what, where=error.where, remedy=error.remedy) from error
