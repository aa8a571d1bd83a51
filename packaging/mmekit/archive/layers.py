"""Layers of an archive: what it has in common with others, in folders named by their content.

A layer is made of files that are there anyway: shared artefacts (``option.shared``), unpacked
wheels, the runtime. Its name is the SHA-256 of names, modes and contents; what that is computed of,
and what an archive says of its layers, is in `mmekit_runtime.layers`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from mmekit import __version__
from mmekit.archive.contents import Member
from mmekit.archive.files import atomic_file
from mmekit.archive.tarball import GzipWriter, TarWriter, parent_folders
from mmekit.errors import PackageError
from mmekit_runtime.layers.contents import LayerFile, counts, digest_of
from mmekit_runtime.layers.listing import (
    BODY,
    FOLDER,
    FORMAT,
    LIBRARIES,
    LISTING,
    RUNTIME,
    LayerEntry,
    LayerError,
    listing_of,
    parse_layers,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mmekit.archive.contents import Contents
    from mmekit.archive.properties import Properties

SHARED_OPTION = "shared"
LIBRARIES_OPTION = "layers"
_MOST_SAID = 160  # characters of what messages call a layer
_MODES = {False: 0o644, True: 0o755}
_ENTRY_FIELDS = tuple(field.name for field in fields(LayerEntry))


@dataclass(frozen=True)
class LayerSource:
    """Where a part of a layer came from.

    Attributes
    ----------
    name
        A distribution, or an artefact.
    version, sha256, license
        Of a distribution: its version, the SHA-256 of its wheel, and what it says of its license.
    """

    name: str
    version: str | None = None
    sha256: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class ArchiveLayer(LayerEntry):
    """A layer as the manifest of an archive has it.

    Attributes
    ----------
    inline
        Whether its files lie in the archive; the archive only names it otherwise.
    sources
        What it was made of.
    """

    inline: bool = True
    sources: tuple[LayerSource, ...] = ()

    @property
    def entry(self) -> LayerEntry:
        """What layers.json says of it."""
        return LayerEntry(**{name: getattr(self, name) for name in _ENTRY_FIELDS})

    @property
    def folder(self) -> str:
        """Where its files are in an archive that holds them."""
        return f"{FOLDER}/{self.sha256}"


@dataclass(frozen=True)
class PackedLayer:
    """A layer and its files, with the names that they have in it."""

    layer: ArchiveLayer
    members: tuple[Member, ...]

    def in_archive(self) -> tuple[Member, ...]:
        """Return its files as an archive holds them; none for a layer that is only named."""
        if not self.layer.inline:
            return ()
        folder = self.layer.folder
        return tuple(replace(one, name=f"{folder}/{one.name}") for one in self.members)

    def write(self, folder: Path, level: int | None) -> Path:
        """Write it as a .tar.gz into a folder, unless it is there already; return the file.

        Raises
        ------
        OSError
            It cannot be written.
        """
        file = folder / file_name(self.layer.sha256)
        if not file.is_file():
            with atomic_file(file) as stream:
                gzip = GzipWriter(stream, level)
                tar = TarWriter(gzip)
                for parent in parent_folders(one.name for one in self.members):
                    tar.add_folder(parent)
                for member in sorted(self.members, key=lambda one: one.name.encode()):
                    with member.open() as content:
                        tar.add_file(member.name, member.size, content, mode=member.mode)
                tar.close()
                gzip.close()
        return file


def file_name(sha256: str) -> str:
    """Return what a layer is called that lies outside of archives.

    Examples
    --------
    >>> file_name("ab12")
    'ab12.tar.gz'
    """
    return f"{sha256}.tar.gz"


def layers_folder(archive: Path) -> Path:
    """Return where packing puts the layers that a thin archive only names: beside it."""
    return archive.parent / FOLDER


def layer_file(archive: Path, sha256: str) -> Path:
    """Return where a layer lies that a thin archive names."""
    return layers_folder(archive) / file_name(sha256)


def make_layer(
    kind: str,
    members: Iterable[Member],
    says: str,
    sources: tuple[LayerSource, ...],
    *,
    inline: bool,
    python: str | None = None,
    platform: str | None = None,
) -> PackedLayer:
    """Return a layer of files; what Python makes of them by itself does not belong to it.

    Raises
    ------
    PackageError
        A file's name cannot be a part of it.
    """
    kept = tuple(one for one in members if not is_byte_code(one.name))
    files = (LayerFile(one.name, bool(one.mode & 0o100), one.sha256(), one.size) for one in kept)
    try:
        digest = digest_of(files)
    except LayerError as error:
        raise PackageError(f"A layer cannot be made: {error}", remedy="rename the file") from None
    layer = ArchiveLayer(
        digest.sha256,
        kind,
        digest.bytes,
        digest.files,
        says if len(says) <= _MOST_SAID else f"{says[: _MOST_SAID - 3]}...",
        python,
        platform,
        inline,
        sources,
    )
    return PackedLayer(layer, kept)


def make_body(contents: Contents, names: Iterable[str], *, inline: bool) -> PackedLayer:
    """Return the layer of the files that a model shares with others."""
    # As in an archive, nobody's modes: two checkouts of one file have the same layer.
    members = tuple(replace(contents.files[name], mode=_MODES[False]) for name in sorted(names))
    largest = sorted(members, key=lambda one: (-one.size, one.name))
    says = largest[0].name + (f" and {len(members) - 1} more" if len(members) > 1 else "")
    sources = tuple(LayerSource(one.name) for one in members)
    return make_layer(BODY, members, says, sources, inline=inline)


def make_runtime(members: Iterable[Member]) -> PackedLayer:
    """Return the layer of mmekit_runtime, which a thin archive names."""
    says = f"mmekit {__version__}"
    source = LayerSource("mmekit", __version__)
    return make_layer(RUNTIME, members, says, (source,), inline=False)


def listing_member(layers: Iterable[PackedLayer]) -> Member:
    """Return layers.json."""
    return Member.made_of(LISTING, listing_of(tuple(one.layer.entry for one in layers)))


def shared_patterns(properties: Properties) -> tuple[str, ...]:
    """Return what ``option.shared`` names: files, folders, and patterns of files."""
    text = properties.options.get(SHARED_OPTION, "")
    return tuple(one.strip().rstrip("/") for one in text.split(",") if one.strip().rstrip("/"))


def is_named_by(pattern: str, name: str) -> bool:
    """Whether an entry of ``option.shared`` stands for a file.

    Examples
    --------
    >>> is_named_by("body", "body/weights.bin"), is_named_by("*.bin", "body/weights.bin")
    (True, True)
    >>> is_named_by("body", "body.bin")
    False
    """
    return name == pattern or name.startswith(f"{pattern}/") or fnmatchcase(name, pattern)


def shared_names(names: Iterable[str], properties: Properties) -> tuple[str, ...]:
    """Return those of a model's files that it shares with others, sorted."""
    patterns = shared_patterns(properties)
    return tuple(sorted(one for one in names if any(is_named_by(it, one) for it in patterns)))


def without_layers(
    contents: Contents, layers: Iterable[ArchiveLayer]
) -> tuple[Contents, dict[str, Member]]:
    """Return a model's own files, shared ones under their names, and those of its libraries."""
    own = dict(contents.files)
    libraries: dict[str, Member] = {}
    for layer in (one for one in layers if one.inline):
        prefix = f"{layer.folder}/"
        for name in [one for one in own if one.startswith(prefix)]:
            member = replace(own.pop(name), name=name.removeprefix(prefix))
            if layer.kind == BODY:
                own[member.name] = member
            elif layer.kind == LIBRARIES:
                libraries[member.name] = member
    return contents.of(contents.where, own.values()), libraries


def asks_for_libraries(properties: Properties) -> bool:
    """Whether ``option.layers`` asks for a layer of what requirements.txt names."""
    return properties.options.get(LIBRARIES_OPTION, "").strip().lower() == "true"


def is_byte_code(name: str) -> bool:
    """Whether a file is one that Python writes into a layer that is in use."""
    return not counts(name)


def layers_to_content(layers: Iterable[ArchiveLayer]) -> list[dict[str, Any]]:
    """Return what a manifest holds."""
    return [asdict(one) for one in layers]


def layers_from_content(content: Iterable[Mapping[str, Any]]) -> tuple[ArchiveLayer, ...]:
    """Read what a manifest holds.

    Raises
    ------
    LayerError, KeyError, TypeError
        It is nothing that packing has written.
    """
    given = list(content)
    plain = [{name: one[name] for name in _ENTRY_FIELDS} for one in given]
    entries = parse_layers(json.dumps({"format": FORMAT, "layers": plain}).encode())
    return tuple(
        ArchiveLayer(
            **vars(entry),
            inline=bool(one["inline"]),
            sources=tuple(LayerSource(**source) for source in one["sources"]),
        )
        for entry, one in zip(entries, given, strict=True)
    )
