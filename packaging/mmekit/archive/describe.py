"""What a package or an archive is, as far as it can be said without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.archive.contents import Contents, Member, read_contents
from mmekit.archive.files import check_length
from mmekit.archive.manifest import Manifest, read_manifest
from mmekit.archive.measured import read_measured
from mmekit.archive.package import MANIFEST_FILE, Example, merge, read_artifacts, read_package
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.properties import Properties, parse_entries, properties_of
from mmekit.archive.tarball import open_tarball
from mmekit.errors import ArchiveError
from mmekit_runtime.signature import FILE_NAME as SIGNATURE_FILE

if TYPE_CHECKING:
    from mmekit.archive.layers import ArchiveLayer
    from mmekit.archive.measured import Measured
    from mmekit_runtime.signature import Signature

_READ = (MANIFEST_FILE, PROPERTIES_FILE, SIGNATURE_FILE)
_MEASURE = "run `mme measure PACKAGE --artifacts DIR`"
_SIGN = (
    'write one after training: (folder / "signature.json").write_bytes('
    "mmekit.signature(X, y, model).to_json())"
)


@dataclass(frozen=True)
class Description:
    """A package or an archive.

    Attributes
    ----------
    name
        The model's name.
    where
        What was described.
    is_archive
        Whether it is packed.
    size
        Bytes of the archive, or of the files of a package that were looked at.
    image
        The container image that it was packed for; None when nobody said.
    worker_slots
        Whether worker slots are in it; None for a package, which gets them when it is packed.
    min_workers, max_workers
        As serving.properties says; None where DJL Serving decides.
    required_memory_mb
        What a load is admitted with, in MiB; None where nobody measured.
    measured
        Versions, imports and memory; None where nobody measured.
    signature
        What the model takes and gives; None where nobody knows.
    example
        A sample request and its answer; None where there is none that is a short text.
    lacks
        What it does not say, each with how to say it.
    layers
        The layers of an archive: those in it, and those that it names.
    """

    name: str
    where: str
    is_archive: bool
    size: int
    image: str | None
    worker_slots: bool | None
    min_workers: int | None
    max_workers: int | None
    required_memory_mb: int | None
    measured: Measured | None
    signature: Signature | None
    example: Example | None
    lacks: tuple[str, ...]
    layers: tuple[ArchiveLayer, ...] = ()


def describe(path: Path, *, artifacts: Path | None = None) -> Description:
    """Describe a package folder, an unpacked archive or a .tar.gz; nothing of it is run.

    Parameters
    ----------
    path
        A package folder, the folder of an unpacked archive (it has a manifest.json), or a .tar.gz.
    artifacts
        The artefact folder of a package: signature.json and measured.json are read from there.

    Raises
    ------
    PackageError
        The folder does not exist, or holds no package.
    ArchiveError
        The file does not exist or is damaged, or its manifest cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return _of_archive(_small_files(path), path.stat().st_size, path.name)
    if (path / MANIFEST_FILE).is_file():
        files = read_contents(path)
        return _of_archive(files, files.size, path.name)
    return _of_package(path, artifacts)


def _of_package(path: Path, artifacts: Path | None) -> Description:
    package = read_package(path)
    contents, measured = package.contents, None
    if artifacts is not None:
        contents = merge(package, read_artifacts(artifacts))
        measured = read_measured(artifacts)
    properties = _properties(contents)
    example = Example.of(package)
    if example is not None and measured is not None:
        example = example.answered(measured.answer)
    required = properties.required_memory_mb
    if required is None and measured is not None:
        required = measured.memory.required_with_slots_mb
    return _described(
        package.name,
        contents,
        measured,
        example=example,
        required=required,
        is_archive=False,
    )


def _of_archive(contents: Contents, size: int, name: str) -> Description:
    manifest = _manifest(contents)
    if manifest is None:
        return _described(
            name.removesuffix(".tar.gz"), contents, None, size=size, worker_slots=False
        )
    return _described(
        manifest.name,
        contents,
        manifest.measured,
        size=size,
        image=manifest.image,
        worker_slots=manifest.worker_slots,
        signature=manifest.signature,
        example=manifest.example,
        layers=manifest.layers,
    )


def _described(  # noqa: PLR0913 - what is known of each kind of source
    name: str,
    contents: Contents,
    measured: Measured | None,
    *,
    size: int | None = None,
    image: str | None = None,
    worker_slots: bool | None = None,
    required: int | None = None,
    signature: Signature | None = None,
    example: Example | None = None,
    layers: tuple[ArchiveLayer, ...] = (),
    is_archive: bool = True,
) -> Description:
    properties = _properties(contents)
    told = None if measured is None else measured.signature
    signature = signature or contents.signature or told
    return Description(
        name=name,
        where=contents.where,
        is_archive=is_archive,
        size=contents.size if size is None else size,
        image=image,
        worker_slots=worker_slots,
        min_workers=properties.min_workers,
        max_workers=properties.max_workers,
        required_memory_mb=properties.required_memory_mb if required is None else required,
        measured=measured,
        signature=signature,
        example=example,
        lacks=tuple(_lacks(measured, signature, example)),
        layers=layers,
    )


def _lacks(
    measured: Measured | None, signature: Signature | None, example: Example | None
) -> list[str]:
    lacks = []
    if signature is None or not signature.inputs:
        lacks.append(f"a signature: {_SIGN}")
    elif not signature.outputs:
        lacks.append("outputs in its signature: give y to mmekit.signature")
    if example is None:
        lacks.append("a sample request that is text: add sample_request.json to the package")
    elif example.answer is None:
        lacks.append("the sample's answer: add sample_response.json to the package")
    if measured is None:
        lacks.append(f"a measurement: {_MEASURE}")
    return lacks


def _properties(contents: Contents) -> Properties:
    text = contents.text(PROPERTIES_FILE, "latin-1") or ""
    return properties_of(parse_entries(text, skip_malformed=True))


def _small_files(archive: Path) -> Contents:
    """Return what describes an archive; nothing is unpacked."""
    if not archive.exists():
        raise ArchiveError("The archive does not exist", where=str(archive))
    return small_files(archive)


def small_files(
    archive: Path, content: bytes | None = None, *, is_beginning: bool = False
) -> Contents:
    """Return manifest.json, serving.properties and signature.json of an archive.

    Parameters
    ----------
    content
        The archive itself, where it is in memory already; ``archive`` is only its name then.
    is_beginning
        The content is only how it begins: what is in it is returned, and nothing is verified.

    Raises
    ------
    ArchiveError
        It is damaged, or reading it would cost more than the limits allow.
    TextError
        One of the three is too long.
    """
    found = {}
    try:
        with open_tarball(archive, content) as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if name in _READ and member.isreg():
                    check_length(name, member.size, str(archive))
                    found[name] = Member.made_of(name, tar.read_whole(member))
    except ArchiveError:
        if not is_beginning:
            raise
    return Contents.of(str(archive), found.values())


def example_in(files: Contents) -> Example | None:
    """Return a request for the model of an archive whose `small_files` these are.

    None where neither a sample nor a signature is in it.

    Raises
    ------
    ArchiveError
        Its manifest cannot be read.
    """
    return _example(_manifest(files), files.signature)


def names_in(files: Contents, name: str) -> tuple[str, ...]:
    """Return what the model of such an archive may be called where it runs.

    Parameters
    ----------
    name
        What its archive is called, where it is not known what packing has called the model.
    """
    called = _properties(files).model_name
    if called is not None:
        return (called,)
    manifest = _manifest(files)
    return tuple(dict.fromkeys((name,) if manifest is None else (manifest.name, name)))


def example_of(archive: Path, content: bytes | None = None) -> Example | None:
    """Return a request for an archive's model, packed or unpacked: its sample, or a made-up one.

    None where neither a sample nor a signature is in it.

    Raises
    ------
    ArchiveError
        It is damaged, or its manifest cannot be read.
    """
    if content is not None or not archive.is_dir():
        return example_in(small_files(archive, content))
    signature, file = None, archive / SIGNATURE_FILE
    if file.is_file():
        made = Member(SIGNATURE_FILE, file.stat().st_size, file)
        signature = Contents.of(str(archive), [made]).signature
    return _example(read_manifest(archive), signature)


def _manifest(files: Contents) -> Manifest | None:
    member = files.files.get(MANIFEST_FILE)
    return None if member is None else Manifest.from_json(member.read(), where=files.where)


def _example(manifest: Manifest | None, signature: Signature | None) -> Example | None:
    if manifest is not None:
        signature = manifest.signature or signature
        if manifest.example is not None:
            return manifest.example
    return Example.made_of(signature) if signature is not None and signature.inputs else None
