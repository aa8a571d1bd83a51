"""Looking at a package or an archive for what would go wrong in the container."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mmekit.archive.contents import Contents, model_folder, read_contents
from mmekit.archive.layers import without_layers
from mmekit.archive.manifest import read_manifest, verify
from mmekit.archive.measure import fingerprint
from mmekit.archive.measured import read_measured
from mmekit.archive.package import (
    LAYERS_ROOM_FOLDER,
    MANIFEST_FILE,
    RUNTIME_FOLDER,
    Example,
    as_served,
    join,
    read_artifacts,
    read_package,
)
from mmekit.archive.rules import RULES
from mmekit.archive.rules.files import without_secrets
from mmekit.archive.rules.subject import Subject
from mmekit.archive.runtime import HOOK_FILE, build_of
from mmekit.archive.stock_images import STOCK_IMAGE, Image
from mmekit.archive.unpack import unpack
from mmekit.errors import ArchiveError, ManifestError, TextError, UnsafeArchiveError
from mmekit.findings import Finding, ordered
from mmekit_runtime.layers.listing import LISTING, RUNTIME

_OUR_FOLDERS = (f"{RUNTIME_FOLDER}/", f"{LAYERS_ROOM_FOLDER}/")


def check(
    path: Path, *, artifacts: Path | None = None, image: Image | None = STOCK_IMAGE
) -> tuple[Finding, ...]:
    """Check a package folder, an unpacked archive or a .tar.gz.

    Nothing of it is imported or run.

    Parameters
    ----------
    path
        A package folder, the folder of an unpacked archive (it has a manifest.json), or a .tar.gz.
    artifacts
        The artefact folder of a package; what was measured is read from there.
    image
        The container image to compare libraries with; None for one that nothing is known about.

    Returns
    -------
    tuple of Finding
        Errors first.

    Raises
    ------
    PackageError
        The folder does not exist, or holds no package.
    ArchiveError
        The file does not exist.
    """
    path = Path(path)
    if not path.is_dir():
        return _check_tarball(path, image)
    if (path / MANIFEST_FILE).is_file():
        return _check_unpacked(path, str(path), image)
    try:
        subject = _subject_of_package(path, artifacts, image)
    except TextError as error:
        return (_too_long(error),)
    return check_subject(subject)


def _subject_of_package(path: Path, artifacts: Path | None, image: Image | None) -> Subject:
    package = read_package(path)
    contents, measured, measured_files = package.contents, None, None
    if artifacts is not None:
        contents = join(package, read_artifacts(artifacts))
        measured = read_measured(artifacts)
        measured_files = fingerprint(as_served(contents)) if measured is not None else None
    return Subject(
        contents=contents,
        is_archive=False,
        image=image,
        name=package.name,
        measured=measured,
        has_sample=package.sample_request is not None,
        example=Example.of(package),
        measured_files=measured_files,
        has_artifacts=artifacts is not None,
    )


def check_subject(subject: Subject) -> tuple[Finding, ...]:
    """Apply every rule; a text that is too long to be read is all that is found then."""
    try:
        hidden = subject.secrets.hidden
        return ordered(
            without_secrets(finding, hidden) for rule in RULES for finding in rule(subject)
        )
    except TextError as error:
        return (_too_long(error),)


def _check_tarball(archive: Path, image: Image | None) -> tuple[Finding, ...]:
    if not archive.exists():
        raise ArchiveError("The archive does not exist", where=str(archive))
    with tempfile.TemporaryDirectory(prefix="mmekit-check-") as temporary:
        folder = Path(temporary) / "model"
        try:
            unpack(archive, folder)
        except UnsafeArchiveError as error:
            return (_refused("unsafe-archive", error, archive),)
        except ArchiveError as error:
            return (_refused("damaged-archive", error, archive),)
        return _check_unpacked(folder, str(archive), image)


def _check_unpacked(folder: Path, where: str, image: Image | None) -> tuple[Finding, ...]:
    findings = []
    root = model_folder(folder)
    if root != folder:
        findings.append(
            Finding(
                "note",
                "nested-folder",
                f"Everything is in the folder {root.name}, where servers look as well.",
                "Pack flat: tar czf model.tar.gz -C <folder> .",
                where,
            )
        )
    manifest = None
    try:
        manifest = read_manifest(root)
        if manifest is not None:
            verify(root)
    except ManifestError as error:
        findings.append(
            Finding("error", "manifest-contradicted", error.what, error.remedy or "", where)
        )
    files = read_contents(root)
    try:
        build = build_of(files)
    except TextError as error:
        return ordered([*findings, _too_long(error)])
    layers = () if manifest is None else manifest.layers
    # The runtime is ours, and the manifest has just been compared with it.
    ours = {MANIFEST_FILE} if build is None and not layers else {MANIFEST_FILE, HOOK_FILE, LISTING}
    own = Contents.of(
        where,
        [one for one in files if not one.name.startswith(_OUR_FOLDERS) and one.name not in ours],
    )
    contents, libraries = without_layers(own, layers)
    in_layer = any(layer.kind == RUNTIME for layer in layers)
    has_slots = build is not None or (in_layer and manifest is not None and manifest.worker_slots)
    subject = Subject(
        contents=contents,
        is_archive=True,
        image=image,
        name=manifest.name if manifest is not None else None,
        measured=manifest.measured if manifest is not None else None,
        example=manifest.example if manifest is not None else None,
        worker_slots=has_slots,
        layers=layers,
        libraries=libraries,
    )
    found = check_subject(subject)
    if any(one.rule == "text-too-long" for one in found):
        return ordered([*findings, *found])
    return ordered([*findings, _worker_slots(subject, build), *found])


def _too_long(error: TextError) -> Finding:
    return Finding(
        "error", "text-too-long", f"{error.what}.", error.remedy or "", error.where or ""
    )


def _worker_slots(subject: Subject, build: str | None) -> Finding:
    if not subject.worker_slots:
        message = "There are no worker slots in it: every worker is a Python process of its own."
        remedy = "Pack with `mme pack`, without --no-worker-slots, to have them."
        return Finding("note", "worker-slots", message, remedy, subject.contents.where)
    message = "Worker slots are in its runtime. "
    if build is not None:
        message = f"Worker slots are in it, build {build}. "
    override = subject.properties.options.get("preload")
    if override is not None:
        message += f"option.preload says what is imported before the fork: {override}."
    elif subject.measured is not None and subject.measured.preload:
        message += f"Imported before the fork: {', '.join(subject.measured.preload)}."
    else:
        message += "No library is imported before the fork."
    if subject.measured is not None and subject.measured.memory.forked_mb is not None:
        memory = subject.measured.memory
        message += (
            f" One more model takes {memory.forked_mb} MiB, a process of its own would take "
            f"{memory.required_mb} MiB; required_memory_mb is about the former."
        )
    remedy = (
        "No action is needed. MMEKIT_WORKER_SLOTS=off in the container's environment runs the "
        "plain engine instead; required_memory_mb then has to be that of a whole process."
    )
    return Finding("note", "worker-slots", message, remedy, subject.contents.where)


def _refused(rule: str, error: ArchiveError, archive: Path) -> Finding:
    return Finding("error", rule, error.what, error.remedy or "", str(archive))
