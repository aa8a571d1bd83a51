"""The archives that a deployment names: packed where that is needed, checked, hashed."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit import archive
from mmekit.archive.describe import small_files
from mmekit.errors import DeployError, ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive import Manifest
    from mmekit.deploy.deployment import Deployment, Package
    from mmekit.deploy.step import Report

__all__ = ["PackedModel", "packed_models"]

_CHUNK = 1 << 20
_PROPERTIES = "serving.properties"  # packing adds lines at its end
_REQUIREMENTS = "requirements.txt"  # packing leaves out what the image has


@dataclass(frozen=True)
class PackedModel:
    """An archive on this machine.

    Attributes
    ----------
    key
        Its key under the prefix.
    path, sha256, size
        The file, the SHA-256 of its bytes, and how many they are.
    manifest
        None for an archive that `mme pack` did not make.
    """

    key: str
    path: Path
    sha256: str
    size: int
    manifest: Manifest | None


def packed_models(deployment: Deployment, report: Report) -> tuple[PackedModel, ...]:
    """Return the archives of a deployment, packed anew where their package or artefacts changed.

    A package with artefacts is packed to see whether its archive is still what comes out: packing
    is reproducible, and dates of files say nothing.

    Raises
    ------
    DeployError
        An archive is missing or stale, and there are no artefacts to pack it from; or it is
        damaged.
    PackageError
        A package cannot be packed.
    """
    return tuple(_packed(package, report) for package in deployment.packages)


def _packed(package: Package, report: Report) -> PackedModel:
    file = package.archive
    if package.package is not None and package.artifacts is not None:
        _pack(package.package, package.artifacts, file, report)
    if not file.is_file():
        raise DeployError(
            "The archive is missing.", where=str(file), remedy=_how_to_pack(package, file)
        )
    manifest = _manifest(file)
    if package.package is not None and package.artifacts is None and manifest is not None:
        changed = sorted(_changed(package.package, file, manifest))
        if changed:
            raise DeployError(
                f"The archive is stale: since it was packed, {', '.join(changed)} changed.",
                where=str(file),
                remedy=_how_to_pack(package, file),
            )
    return PackedModel(package.key, file, _sha256(file), file.stat().st_size, manifest)


def _pack(package: Path, artifacts: Path, file: Path, report: Report) -> None:
    if not artifacts.is_dir() and file.is_file():
        raise DeployError(
            "The artefacts are missing, so nobody can say whether the archive is stale.",
            where=str(artifacts),
            remedy="Train the model, or leave `artifacts` out of the file to deploy the archive "
            "as it is.",
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".mme-deploy-") as folder:
        packed = archive.pack(package, artifacts, Path(folder, file.name), say=report)
        if file.is_file() and _sha256(file) == packed.sha256:
            return
        report(f"archive {file}: packed {'anew' if file.is_file() else 'from ' + str(package)}")
        packed.path.replace(file)


def _how_to_pack(package: Package, file: Path) -> str:
    source = package.package or "PACKAGE"
    return (
        f"Pack it: mme pack {source} --artifacts DIR --output {file}; or name the folder with the "
        "artefacts as `artifacts`, and deploy packs it."
    )


def _manifest(file: Path) -> Manifest | None:
    try:
        return archive.verify(file)
    except ManifestError as error:
        if "There is no manifest" in error.what:
            return None
        raise


def _changed(package: Path, file: Path, manifest: Manifest) -> Iterator[str]:
    """Name the files of a package that are not in its archive as they are now."""
    for member in archive.read_package(package).contents:
        if member.name == _PROPERTIES:
            packed = small_files(file).data(_PROPERTIES)
            if packed is None or not packed.startswith(member.read()):
                yield member.name
        elif member.name != _REQUIREMENTS:
            digest = manifest.files.get(member.name)
            if digest is None or digest.sha256 != member.sha256():
                yield member.name


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
