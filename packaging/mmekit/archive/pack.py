"""Packing: a package folder and its artefacts become one archive, the same on every machine.

What goes in is given: the package's files, the artefacts, measured.json, mmekit_runtime and
mmekit's version. No clock, user, umask, folder or order of a file system has a say, and in the
default form no compressor either.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmekit import __version__
from mmekit.archive.check import check_subject
from mmekit.archive.completed import completed
from mmekit.archive.contents import Contents, Member
from mmekit.archive.files import atomic_file, check_length
from mmekit.archive.layers import (
    ArchiveLayer,
    PackedLayer,
    layers_folder,
    listing_member,
    make_body,
    make_runtime,
    shared_names,
)
from mmekit.archive.libraries import make_libraries
from mmekit.archive.manifest import Digest, Manifest
from mmekit.archive.measure import fingerprint, measure
from mmekit.archive.measured import read_measured
from mmekit.archive.package import (
    MANIFEST_FILE,
    MEASURED_FILE,
    RUNTIME_FOLDER,
    Example,
    Package,
    merge,
    read_artifacts,
    read_package,
)
from mmekit.archive.rules.subject import Subject
from mmekit.archive.runtime import layers_room, packed_runtime, runtime_hook
from mmekit.archive.stock_images import STOCK_IMAGE, Image
from mmekit.archive.tarball import GzipWriter, TarWriter, parent_folders
from mmekit.errors import ArchiveError, CheckError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit.archive.measured import Measured
    from mmekit.findings import Finding

_logger = logging.getLogger("mmekit.archive")

THIN_LEVEL = 6
"""What thin archives and their layers are compressed with: they are fetched far more often."""


@dataclass(frozen=True)
class Packed:
    """A new archive.

    Attributes
    ----------
    path
        The .tar.gz.
    sha256
        SHA-256 of the .tar.gz, as hexadecimal digits.
    size
        Bytes of the .tar.gz.
    files
        Names of the files in it, sorted.
    findings
        What the check found; no errors among it.
    layers
        The layers that are in it, or that it names.
    """

    path: Path
    sha256: str
    size: int
    files: tuple[str, ...]
    findings: tuple[Finding, ...]
    layers: tuple[ArchiveLayer, ...] = ()


def pack(  # noqa: PLR0913 - what can be chosen about an archive
    package: Path,
    artifacts: Path,
    output: Path,
    *,
    worker_slots: bool = True,
    layers: bool = False,
    thin: bool = False,
    compress: int | None = None,
    image: Image | None = STOCK_IMAGE,
    say: Callable[[str], object] = _logger.info,
) -> Packed:
    """Write a model.tar.gz; measure the model first when nobody has, or other files were measured.

    Files have mode 0644 and folders 0755. Samples, caches and what the image provides of
    requirements.txt are left out. What ``option.shared`` names becomes a layer, which other
    archives may have as well.

    Parameters
    ----------
    package
        The package folder.
    artifacts
        The artefact folder. Its measured.json is read; where there is none, or one of other
        artefacts or code than these, the model is loaded once in a process of its own, and it is
        written.
    output
        The archive to write; it appears whole or not at all.
    worker_slots
        Whether stock DJL Serving shall turn this model's workers into slots of one forked process.
        It adds sitecustomize.py and the part of mmekit_runtime that does it, and where the package
        has no such line minWorkers=1, maxWorkers=16 and retry_threshold=10; required_memory_mb
        is then what a forked process takes, not a whole worker.
    layers
        Whether what requirements.txt asks for and the image lacks becomes a layer, so that nothing
        is installed at a load; ``option.layers=true`` in serving.properties does the same. The
        wheels are those of requirements.lock beside it, which is written when there is none, or
        one for other requirements or another image.
    thin
        Whether the archive only names its layers, mmekit_runtime among them. They are written to
        ``layers/<SHA-256>.tar.gz`` beside the archive, unless they are there already.
    compress
        None stores: the same bytes everywhere, and the fastest to unpack; artefacts that should
        be small are better compressed when they are written (``joblib.dump(..., compress=3)``).
        1 to 9 is zlib's level; the bytes then depend on the build of zlib as well. For a thin
        archive and its layers, None is 6, and 0 stores.
    image
        The container image that will serve; None for one that nothing is known about.
    say
        Is told when the model is measured anew.

    Returns
    -------
    Packed
        Where it is, and what is in it.

    Raises
    ------
    CheckError
        The check found errors; nothing was written.
    LibrariesError
        What requirements.txt asks for cannot be had as wheels for the image.
    MissingExtraError
        A layer of libraries is asked for, and uv is not installed.
    MeasureError
        The model does not load, or does not answer its sample.
    PackageError
        A folder is missing, or both hold a file of the same name.
    TextError
        serving.properties or another text is longer than anybody writes one.
    ArchiveError
        The archive cannot be written.
    """
    packing = Packing(
        read_package(package),
        worker_slots=worker_slots,
        layers=layers,
        thin=thin,
        compress=compress,
        image=image,
        say=say,
    )
    given = packing.given(Path(artifacts))
    measured = read_measured(artifacts)
    if measured is None or measured.fingerprint != fingerprint(given.contents):
        # What can be seen without running it is said before it is run.
        packing.refuse_errors(given)
        if measured is not None:
            say(
                f"{packing.package.name}: {MEASURED_FILE} does not match the files; measuring again"
            )
        measured = measure(package, artifacts)
    with tempfile.TemporaryDirectory(prefix="mmekit-pack-") as scratch:
        libraries = packing.libraries(given, Path(scratch))
        return packing.write(given, measured, libraries, Path(output))


@dataclass(frozen=True)
class Packing:
    """What is the same about all archives of one package; the options are those of `pack`."""

    package: Package
    worker_slots: bool = True
    layers: bool = False
    thin: bool = False
    compress: int | None = None
    image: Image | None = STOCK_IMAGE
    say: Callable[[str], object] = _logger.info

    def given(self, artifacts: Path, name: str | None = None) -> Subject:
        """Return what is there before anything is measured or added.

        Parameters
        ----------
        name
            What the model is called, as one of many of its package; None for the package's name.
        """
        return Subject(
            contents=merge(self.package, read_artifacts(artifacts)),
            # What was measured is added last: before that, its absence is no news.
            is_archive=False,
            image=self.image,
            name=name or self.package.name,
            is_one_of_many=name is not None,
            has_sample=self.package.sample_request is not None,
            example=Example.of(self.package),
            worker_slots=self.worker_slots,
        )

    def refuse_errors(self, given: Subject) -> None:
        """Raise CheckError for what can be seen without running it."""
        _refuse_errors(check_subject(completed(given)))

    def makes_libraries(self, given: Subject) -> bool:
        """Whether a layer is made of requirements.txt."""
        return self.layers or given.makes_libraries

    def libraries(self, given: Subject, scratch: Path) -> PackedLayer | None:
        """Return the layer of libraries, whose files are in ``scratch``; None for none."""
        if not self.makes_libraries(given):
            return None
        return make_libraries(
            *(given.contents, self.package.folder, self.image, scratch),
            inline=not self.thin,
            say=self.say,
        )

    def write(
        self,
        given: Subject,
        measured: Measured,
        libraries: PackedLayer | None,
        output: Path,
        proceed: Callable[[], object] = bool,
    ) -> Packed:
        """Write the archive; ``proceed`` is called all the while, and may raise to end it."""
        example = given.example.answered(measured.answer) if given.example is not None else None
        subject = completed(
            replace(given, is_archive=True, measured=measured, example=example), libraries
        )
        contents, layers = _in_layers(subject, libraries, thin=self.thin)
        subject = replace(subject, layers=tuple(one.layer for one in layers))
        findings = check_subject(subject)
        _refuse_errors(findings)
        manifest = Manifest(
            name=subject.name or "",
            mmekit=__version__,
            image=None if self.image is None else self.image.name,
            worker_slots=subject.worker_slots,
            measured=measured,
            files={member.name: Digest(member.sha256(), member.size) for member in contents},
            signature=subject.signature,
            example=subject.example,
            layers=subject.layers,
        )
        text = manifest.to_json()
        # What is too long to be read again must not be written.
        check_length(MANIFEST_FILE, len(text), subject.contents.where)
        inline = (member for layer in layers for member in layer.in_archive())
        contents = contents.with_members(Member.made_of(MANIFEST_FILE, text), *inline)
        level = THIN_LEVEL if self.thin and self.compress is None else self.compress or None
        with _storing(output):
            for layer in layers:
                if not layer.layer.inline:
                    layer.write(layers_folder(output), level)
            # Last: an archive whose layers are not there is of no use to anybody.
            sha256, size = _write(contents, output, level, proceed)
        return Packed(output, sha256, size, tuple(contents.files), findings, manifest.layers)


def _in_layers(
    completed: Subject, libraries: PackedLayer | None, *, thin: bool
) -> tuple[Contents, list[PackedLayer]]:
    """Return what is the archive's own, and the layers that hold the rest."""
    contents, layers = completed.contents, [] if libraries is None else [libraries]
    shared = shared_names(contents.files, completed.properties)
    if shared:
        layers.append(make_body(contents, shared, inline=not thin))
        contents = contents.without(*shared)
    runtime = packed_runtime(worker_slots=completed.worker_slots, layers=thin or bool(layers))
    if thin:
        in_layer = [one for one in runtime if one.name.startswith(f"{RUNTIME_FOLDER}/")]
        layers.append(make_runtime(in_layer))
        contents = contents.with_members(*layers_room(), runtime_hook())
    else:
        contents = contents.with_members(*runtime)
    if layers:
        contents = contents.with_members(listing_member(layers))
    return contents, layers


def _refuse_errors(findings: tuple[Finding, ...]) -> None:
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise CheckError(
            f"The check found an error{more}: {first.message}",
            where=first.where,
            remedy=first.remedy,
            findings=findings,
        )


def _write(
    contents: Contents, output: Path, level: int | None, proceed: Callable[[], object]
) -> tuple[str, int]:
    with atomic_file(output) as stream:
        hashing = _HashingStream(stream, proceed)
        gzip = GzipWriter(hashing, level)
        tar = TarWriter(gzip)
        for folder in parent_folders(contents.files):
            tar.add_folder(folder)
        for member in contents:
            with member.open() as content:
                tar.add_file(member.name, member.size, content, mode=member.mode)
        tar.close()
        gzip.close()
    return hashing.sha256.hexdigest(), hashing.size


@contextmanager
def _storing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"The archive cannot be written: {error.strerror or error}",
            where=str(output),
            remedy="free space on that disk, or choose another place",
        ) from error


class _HashingStream:
    """A stream that knows the SHA-256 and the size of what went through it."""

    def __init__(self, stream: BinaryIO, proceed: Callable[[], object]) -> None:
        self._stream = stream
        self._proceed = proceed
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._proceed()
        self.sha256.update(data)
        self.size += len(data)
        self._stream.write(data)
