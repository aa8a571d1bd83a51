"""Layers as archives name them, and the files of those that lie beside a thin archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.archive.tarball import open_tarball
from mmekit.errors import DeployError
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

    from mmekit.archive.tar_members import Tarball

__all__ = ["FOLDER", "NamedLayer", "ThinLayer", "named_layers", "thin_layers", "verify_layer"]

_CHUNK = 1 << 18
_EXECUTABLE = 0o100


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
        return f"{self.entry.sha256}.tar.gz"

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


def named_layers(archive: Path) -> tuple[NamedLayer, ...]:
    """Return the layers of an archive; none for one without layers.json.

    Raises
    ------
    DeployError
        layers.json is not one that packing wrote.
    ArchiveError
        The archive is missing or damaged.
    """
    listing, inside = None, set()
    with open_tarball(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name == LISTING and member.isreg():
                listing = _text_of(tar, member)
            elif name.startswith(f"{FOLDER}/") and member.isreg():
                inside.add(name.split("/")[1])
    if listing is None:
        return ()
    try:
        entries = parse_layers(listing)
    except LayerError as error:
        what = str(error)
        raise DeployError(
            f"{what[0].upper()}{what[1:]}.",
            where=str(archive),
            remedy="Pack the model again.",
        ) from error
    folder = archive.parent / FOLDER
    return tuple(
        NamedLayer(entry, entry.sha256 in inside, folder / f"{entry.sha256}.tar.gz")
        for entry in entries
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
    lines = {}
    with open_tarball(file) as tar:
        for member in tar:
            if not member.isdir():
                name = member.name.removeprefix("./")
                lines[name] = _line(tar, member, name, file)
    digest = hashlib.sha256()
    for name in sorted(lines, key=str.encode):
        digest.update(lines[name])
    if digest.hexdigest() != entry.sha256:
        raise _damaged(file, f"the SHA-256 of its content is {digest.hexdigest()[:12]}…")


def _line(tar: Tarball, member: tarfile.TarInfo, name: str, file: Path) -> bytes:
    if not member.isreg() or "__pycache__" in name.split("/") or name.endswith(".pyc"):
        # The digest is of files alone, and byte code, which it passes over, is never packed.
        raise _damaged(file, f"{name} is in it")
    digest, source = hashlib.sha256(), tar.extractfile(member)
    while source is not None and (chunk := source.read(_CHUNK)):
        tar.budget.take_time()
        digest.update(chunk)
    mode = 0o755 if member.mode & _EXECUTABLE else 0o644
    return f"{mode:o} {digest.hexdigest()} {member.size} {name}\n".encode()


def _damaged(file: Path, what: str) -> DeployError:
    return DeployError(
        f"The layer is not what its name says: {what}.",
        where=str(file),
        remedy="Remove the file and pack a model that names it again, with --thin.",
    )


def _text_of(tar: Tarball, member: tarfile.TarInfo) -> bytes:
    if member.size > LISTING_BYTES:
        return bytes(LISTING_BYTES + 1)  # which parse_layers refuses
    return tar.read_whole(member)
