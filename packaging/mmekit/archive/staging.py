"""A model's folders as a server would have them: its own files, and apart what it shares."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.archive.contents import read_contents
from mmekit.archive.files import read_text
from mmekit.archive.layers import layer_file, shared_names, shared_patterns
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.properties import parse_entries, properties_of
from mmekit.archive.unpack import unpack
from mmekit.errors import ArchiveError, PackageError
from mmekit_runtime.layers import SHARED_FOLDER_VARIABLE
from mmekit_runtime.layers.contents import digest_of_folder, layer_files
from mmekit_runtime.layers.listing import (
    BODY,
    FOLDER,
    LIBRARIES,
    RUNTIME,
    LayerEntry,
    LayerError,
    read_layers,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mmekit.archive.contents import Contents, Member
    from mmekit.archive.properties import Properties


@dataclass(frozen=True)
class StagedModel:
    """Where the files of a model are.

    Attributes
    ----------
    folder
        Its own.
    shared
        Those that it shares with others, under the same names; None where it shares none.
    libraries
        Those that came with it, for the Python that runs; None where there are none.
    """

    folder: Path
    shared: Path | None = None
    libraries: Path | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What whoever starts a worker adds to its environment."""
        return {} if self.shared is None else {SHARED_FOLDER_VARIABLE: str(self.shared)}


def stage(contents: Contents, properties: Properties, folder: Path, shared: Path) -> StagedModel:
    """Lay out the files of a model, and what ``option.shared`` names in a folder of its own.

    They are links, because artefacts may be large; nothing in a model's folder is ever written to.
    """
    names = frozenset(shared_names(contents.files, properties))
    lay_out((one for one in contents if one.name not in names), folder)
    if not names:
        return StagedModel(folder)
    lay_out((contents.files[name] for name in names), shared)
    return StagedModel(folder, shared)


def staged_model(sources: Sequence[Path], scratch: Path) -> StagedModel:
    """Return a model's folders, made of a package folder and its artefacts, or of an archive.

    Parameters
    ----------
    sources
        Folders, or an archive. A file of an earlier one goes before its like in a later one.
    scratch
        A new folder to work in.

    Raises
    ------
    PackageError
        One of them is not there.
    ArchiveError
        The archive is damaged, or names a layer that does not lie beside it or is another.
    """
    folder, layers = scratch / "model", scratch / FOLDER
    folder.mkdir()
    for source in sources:
        if source.is_file():
            unpack(source, folder)
        elif not source.is_dir():
            raise PackageError("There is no such folder or archive", where=str(source))
        else:
            _link_entries(source, folder)
    entries = {one.kind: one for one in _listed(folder)}
    if not entries:
        return _sharing(folder, scratch)
    libraries = entries.get(LIBRARIES)
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if libraries is not None and libraries.python != running:
        del entries[LIBRARIES]  # what is installed here has to do
    inline = folder / FOLDER
    if inline.is_symlink():  # of a folder that stays as it is
        layers = inline.resolve()
        inline.unlink()
    elif inline.is_dir():
        inline.rename(layers)
    found = {kind: _layer(one, sources, layers, scratch) for kind, one in entries.items()}
    if RUNTIME in found:
        _link_entries(found[RUNTIME], folder)
    return StagedModel(folder, found.get(BODY), found.get(LIBRARIES))


def _sharing(folder: Path, scratch: Path) -> StagedModel:
    """Set apart what a model shares, of a folder that holds everything."""
    file = folder / PROPERTIES_FILE
    text = read_text(file).decode("latin-1") if file.is_file() else ""
    properties = properties_of(parse_entries(text, skip_malformed=True))
    if not shared_patterns(properties):
        return StagedModel(folder)
    contents = read_contents(folder)
    return stage(contents, properties, scratch / "own", scratch / "shared")


def _listed(folder: Path) -> tuple[LayerEntry, ...]:
    try:
        return read_layers(str(folder))
    except LayerError as error:
        raise ArchiveError(f"{error}", where=str(folder)) from None


def _layer(entry: LayerEntry, sources: Sequence[Path], layers: Path, scratch: Path) -> Path:
    folder = layers / entry.sha256
    if folder.is_dir():
        is_unpacked = folder.is_relative_to(scratch)
        where = sources[0] if is_unpacked else folder
        _require_named(entry, folder, where, "pack the model again")
        if is_unpacked:  # another is the user's, and stays as it is
            _remove_byte_code(folder)
        return folder
    file = layer_file(sources[0], entry.sha256)
    if not file.is_file():
        raise ArchiveError(
            f"{entry} is missing: the archive only names it",
            where=str(file),
            remedy="pack the model again with --thin, which writes its layers beside the archive, "
            "or without",
        )
    unpack(file, folder)
    _require_named(entry, folder, file, "remove the file, and pack the model again")
    _remove_byte_code(folder)
    return folder


def _require_named(entry: LayerEntry, folder: Path, where: Path, remedy: str) -> None:
    """Expect a layer to be what its name says, as an instance does before it uses one."""
    try:
        found = digest_of_folder(folder).sha256
    except (OSError, LayerError) as error:
        raise ArchiveError(
            f"{entry} cannot be used: {error}", where=str(where), remedy=remedy
        ) from None
    if found != entry.sha256:
        raise ArchiveError(
            f"What should be {entry} holds another layer, {found[:12]}",
            where=str(where),
            remedy=remedy,
        )


def _remove_byte_code(folder: Path) -> None:
    """Leave what Python has compiled out of a layer: its name says nothing about that."""
    kept = {path for _, path in layer_files(folder)}
    for path in folder.rglob("*"):
        if str(path) not in kept and not path.is_dir():
            path.unlink()


def _link_entries(source: Path, folder: Path) -> None:
    # Links: a sentence model has a hundred megabytes. __pycache__ stays out of the user's folder.
    for entry in source.iterdir():
        if entry.name != "__pycache__" and not (folder / entry.name).exists():
            (folder / entry.name).symlink_to(entry)


def lay_out(members: Iterable[Member], folder: Path) -> None:
    """Put files into a folder: links to those that are on disk."""
    for member in members:
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.path is None:
            target.write_bytes(member.data)
        else:
            target.symlink_to(member.path.absolute())
