"""Layers as archives name them, and the files of those that lie beside a thin archive."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.archive.layers import file_name, is_byte_code, layer_file
from mmekit.archive.tarball import open_tarball
from mmekit.errors import DeployError
from mmekit_runtime.layers.contents import LayerFile, digest_of
from mmekit_runtime.layers.listing import (
    FOLDER,
    LISTING,
    LISTING_BYTES,
    LayerEntry,
    LayerError,
    parse_layers,
)

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterable
    from pathlib import Path

    from mmekit.archive import Manifest
    from mmekit.archive.tar_members import Tarball

__all__ = [
    "NamedLayer",
    "ThinLayer",
    "contents_of_layer",
    "named_layers",
    "thin_layers",
    "verify_layer",
]

_CHUNK = 1 << 18


@dataclass(frozen=True)
class NamedLayer:
    """A layer of one archive.

    Attributes
    ----------
    entry
        What layers.json says of it.
    is_inline
        Whether its files are in the archive.
    file
        Where packing put it beside the archive, if they are not.
    """

    entry: LayerEntry
    is_inline: bool
    file: Path

    @property
    def place(self) -> str:
        """Return where it is: ``inline``, ``beside`` the archive, or ``missing``."""
        if self.is_inline:
            return "inline"
        return "beside" if self.file.is_file() else "missing"


@dataclass(frozen=True)
class ThinLayer:
    """A layer that some archives name and do not bring along.

    Attributes
    ----------
    entry
        What layers.json says of it.
    named
        The archives, and where it would lie beside each.
    """

    entry: LayerEntry
    named: tuple[tuple[Path, Path], ...]

    @property
    def object_name(self) -> str:
        """Return what comes after the prefix."""
        return file_name(self.entry.sha256)

    @property
    def file(self) -> Path | None:
        """Return its file; None when it lies beside none of the archives."""
        return next((file for _, file in self.named if file.is_file()), None)

    def found(self) -> Path:
        """Return its file, which holds what the layer's name says.

        Raises
        ------
        DeployError
            It is missing, or was damaged or changed.
        """
        file = self.file
        if file is None:
            archive, beside = self.named[0]
            others = f" and {len(self.named) - 1} more" if len(self.named) > 1 else ""
            raise DeployError(
                f"The {self.entry} is missing: {archive.name}{others} names it, and "
                "does not bring it along.",
                where=str(beside),
                remedy="Pack it again: mme pack PACKAGE --artifacts DIR --thin --output "
                f"{archive} leaves it there; or bring the folder {beside.parent} along with the "
                "archive.",
            )
        verify_layer(file, self.entry)
        return file


def named_layers(archive: Path, manifest: Manifest | None = None) -> tuple[NamedLayer, ...]:
    """Return the layers of an archive; none for one without layers.json.

    Parameters
    ----------
    manifest
        The archive's own, where it has been read already; the archive is read otherwise.

    Raises
    ------
    DeployError
        layers.json is not one that packing wrote.
    ArchiveError
        The archive is missing or damaged.
    """
    if manifest is not None:
        found = [(one.entry, one.inline) for one in manifest.layers]
    else:
        found = _listed(archive)
    return tuple(
        NamedLayer(entry, is_inline, layer_file(archive, entry.sha256))
        for entry, is_inline in found
    )


def thin_layers(archives: Iterable[tuple[Path, Iterable[NamedLayer]]]) -> tuple[ThinLayer, ...]:
    """Return what archives name and do not bring along, each layer once, by its name."""
    entries: dict[str, LayerEntry] = {}
    named: dict[str, list[tuple[Path, Path]]] = {}
    for archive, layers in archives:
        for layer in layers:
            if not layer.is_inline:
                entries.setdefault(layer.entry.sha256, layer.entry)
                named.setdefault(layer.entry.sha256, []).append((archive, layer.file))
    return tuple(ThinLayer(entries[name], tuple(named[name])) for name in sorted(entries))


def verify_layer(file: Path, entry: LayerEntry) -> None:
    """Compare a layer's file with its name, which is the SHA-256 of what is in it.

    Raises
    ------
    DeployError
        It is another.
    ArchiveError
        It is no whole .tar.gz.
    """
    with open_tarball(file) as tar:
        files = [_measured(tar, member, file) for member in tar if not member.isdir()]
    try:
        digest = digest_of(files).sha256
    except LayerError as error:
        raise _damaged(file, str(error)) from error
    if digest != entry.sha256:
        raise _damaged(file, f"the SHA-256 of its content is {digest[:12]}…")


def contents_of_layer(layer: NamedLayer, archive: Path) -> dict[str, str]:
    """Return the files of a layer, in the archive or beside it, each with its SHA-256.

    Raises
    ------
    DeployError
        They are neither there nor there.
    """
    if not layer.is_inline:
        file = ThinLayer(layer.entry, ((archive, layer.file),)).found()
        with open_tarball(file) as tar:
            files = [_measured(tar, member, file) for member in tar if not member.isdir()]
        return {one.name: one.sha256 for one in files}
    under = f"{FOLDER}/{layer.entry.sha256}/"
    with open_tarball(archive) as tar:
        files = [
            _measured(tar, member, archive)
            for member in tar
            if member.isreg() and member.name.removeprefix("./").startswith(under)
        ]
    return {one.name.removeprefix(under): one.sha256 for one in files}


def _measured(tar: Tarball, member: tarfile.TarInfo, file: Path) -> LayerFile:
    name = member.name.removeprefix("./")
    if not member.isreg() or is_byte_code(name):
        # The digest is of files alone, and byte code, which it passes over, is never packed.
        raise _damaged(file, f"{name} is in it")
    digest, source = hashlib.sha256(), tar.extractfile(member)
    while source is not None and (chunk := source.read(_CHUNK)):
        tar.budget.take_time()
        digest.update(chunk)
    is_executable = bool(member.mode & stat.S_IXUSR)
    return LayerFile(name, is_executable, digest.hexdigest(), member.size)


def _damaged(file: Path, what: str) -> DeployError:
    return DeployError(
        f"The layer is not what its name says: {what}.",
        where=str(file),
        remedy="Remove the file and pack a model that names it again, with --thin.",
    )


def _listed(archive: Path) -> list[tuple[LayerEntry, bool]]:
    """Return what layers.json says, and of each layer whether its files are there."""
    listing, inside = None, set()
    with open_tarball(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name == LISTING and member.isreg():
                # What is longer than that is refused when it is parsed.
                is_short = member.size <= LISTING_BYTES
                listing = tar.read_whole(member) if is_short else bytes(LISTING_BYTES + 1)
            elif name.startswith(f"{FOLDER}/") and member.isreg():
                inside.add(name.split("/")[1])
    if listing is None:
        return []
    try:
        entries = parse_layers(listing)
    except LayerError as error:
        raise DeployError(
            f"A file of the archive is not what packing writes: {error}.",
            where=str(archive),
            remedy="Pack the model again.",
        ) from error
    return [(entry, entry.sha256 in inside) for entry in entries]
