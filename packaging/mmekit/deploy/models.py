"""The models of a deployment: archives that are packed where that is needed, and their objects."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit import archive
from mmekit.archive import STOCK_IMAGE
from mmekit.archive.describe import small_files
from mmekit.archive.files import sha256_of
from mmekit.archive.images import image_of
from mmekit.archive.layers import asks_for_libraries, layers_folder
from mmekit.archive.libraries import LINKS_FOLDER
from mmekit.archive.properties import parse_entries, properties_of
from mmekit.deploy.bucket import bucket_owner
from mmekit.deploy.entries import single_entries
from mmekit.deploy.layer_files import contents_of_layer, named_layers
from mmekit.deploy.objects import Upload, removal_of_object, stored_objects
from mmekit.deploy.releases import CURRENT, keyed_by_digest
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.errors import DeployError, ManifestError
from mmekit_runtime.layers.listing import BODY, LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from mmekit.archive import Image, Manifest
    from mmekit.deploy.account import Site
    from mmekit.deploy.deployment import Deployment
    from mmekit.deploy.layer_files import NamedLayer
    from mmekit.deploy.objects import StoredObject
    from mmekit.deploy.parts import ModelEntry

__all__ = [
    "PackedModel",
    "packed_models",
    "plan_objects",
    "plan_objects_removal",
    "stored_archives",
]

_SAID_AGAIN_S = 5.0
_PROPERTIES = "serving.properties"  # packing adds lines at its end
_REQUIREMENTS = "requirements.txt"  # packing leaves out what the image has


@dataclass(frozen=True)
class PackedModel:
    """An archive on this machine.

    Attributes
    ----------
    key
        Its key under the prefix.
    name
        What callers ask for: the same, or without the digest.
    path, sha256, size
        The file, the SHA-256 of its bytes, and how many they are.
    manifest
        None for an archive that `mme pack` did not make.
    layers
        What it has in common with others, along with it or only named.
    """

    key: str
    name: str
    path: Path
    sha256: str
    size: int
    manifest: Manifest | None
    layers: tuple[NamedLayer, ...] = ()

    @property
    def thin_layers(self) -> tuple[NamedLayer, ...]:
        """Return the layers that the archive names and does not bring along."""
        return tuple(layer for layer in self.layers if not layer.is_inline)


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
    entries = single_entries(deployment)
    for given in deployment.packages:
        _pack_all(given, deployment, report)
    return tuple(_packed(entry, deployment, report) for entry in entries)


def _pack_all(given: ModelEntry, deployment: Deployment, report: Report) -> None:
    """Pack the models of an entry that names a folder of artefact folders, as `mme pack` does."""
    package, folder, output = given.package, given.artifacts_in, given.archives
    if package is None or folder is None or output is None:
        return
    said = time.monotonic()

    def watch(progress: archive.SeriesProgress) -> None:
        nonlocal said
        if time.monotonic() - said > _SAID_AGAIN_S:
            said = time.monotonic()
            report(f"packing {folder}: {progress.done} of {progress.total}")

    done = archive.pack_all(
        package,
        folder,
        output,
        layers=deployment.layers,
        thin=deployment.thin,
        image=_image(package, deployment),
        say=report,
        watch=watch,
    )
    if done.failures:
        name, error = next(iter(done.failures.items()))
        others = len(done.failures) - 1
        more = f" {others} others could not be packed either." if others else ""
        raise DeployError(
            f"{error.what}.{more}".replace("..", "."),
            where=f"{folder / name}",
            remedy=f"mme pack {package} --artifacts-in {folder} --output {output} lists each.",
        )
    if done.packed:
        report(f"packed {len(done.packed)} of {len(done.packed) + len(done.unchanged)} in {folder}")


def _packed(package: ModelEntry, deployment: Deployment, report: Report) -> PackedModel:
    file = Path(package.archive or "")
    is_alone = package.artifacts_in is None
    if package.package is not None and package.artifacts is not None and is_alone:
        _pack(package.package, package.artifacts, file, deployment, report)
    if not file.is_file():
        raise DeployError(
            "The archive is missing.", where=str(file), remedy=_how_to_pack(package, file)
        )
    manifest = _manifest(file)
    layers = named_layers(file, manifest)
    if package.package is not None and package.artifacts is None and manifest is not None:
        changed = sorted(_changed(package.package, file, manifest, layers))
        if changed:
            raise DeployError(
                f"The archive is stale: since it was packed, {', '.join(changed)} changed.",
                where=str(file),
                remedy=_how_to_pack(package, file),
            )
    name, sha256 = package.key, sha256_of(file)
    key = keyed_by_digest(name, sha256) if deployment.versions else name
    return PackedModel(key, name, file, sha256, file.stat().st_size, manifest, layers)


def _pack(
    package: Path, artifacts: Path, file: Path, deployment: Deployment, report: Report
) -> None:
    if not artifacts.is_dir() and file.is_file():
        raise DeployError(
            "The artefacts are missing, so that it is not known whether the archive is stale.",
            where=str(artifacts),
            remedy="Train the model, or leave `artifacts` out of the file to deploy the archive "
            "as it is.",
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".mme-deploy-") as folder:
        packing = Path(folder, file.name)
        if deployment.thin:
            # What is there already is not compressed again, for each of a thousand models.
            layers_folder(file).mkdir(exist_ok=True)
            layers_folder(packing).symlink_to(layers_folder(file).resolve())
        packed = archive.pack(
            package,
            artifacts,
            packing,
            layers=deployment.layers,
            thin=deployment.thin,
            image=_image(package, deployment),
            say=report,
        )
        if file.is_file() and sha256_of(file) == packed.sha256:
            return
        report(f"archive {file}: packed {'anew' if file.is_file() else 'from ' + str(package)}")
        packed.path.replace(file)


def _image(package: Path, deployment: Deployment) -> Image | None:
    # Libraries are for one Python and platform: those of the image that will serve.
    if deployment.image is None or not (deployment.layers or _asks_for_libraries(package)):
        return STOCK_IMAGE
    return image_of(str(deployment.image))


def _asks_for_libraries(package: Path) -> bool:
    # As packing reads it: what is wrong with other lines is for the check to say.
    text = archive.read_package(package).contents.text(_PROPERTIES, "latin-1") or ""
    return asks_for_libraries(properties_of(parse_entries(text, skip_malformed=True)))


def _how_to_pack(package: ModelEntry, file: Path) -> str:
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


def _changed(
    package: Path, file: Path, manifest: Manifest, layers: Sequence[NamedLayer]
) -> Iterator[str]:
    """Name the files of a package that are not in its archive as they are now."""
    packed = {name: digest.sha256 for name, digest in manifest.files.items()}
    contents = archive.read_package(package).contents
    members = [member for member in contents if member.name not in (_PROPERTIES, _REQUIREMENTS)]
    if any(layer.entry.kind == LIBRARIES for layer in layers):
        # As requirements.txt, which asks for them: they are unpacked in the layer.
        members = [one for one in members if not one.name.startswith(f"{LINKS_FOLDER}/")]
    # Of what a package itself shares, too: the manifest leaves the files of layers out.
    if any(member.name not in packed for member in members):
        for layer in layers:
            if layer.entry.kind == BODY:
                packed |= contents_of_layer(layer, file)
    yield from (one.name for one in members if packed.get(one.name) != one.sha256())
    properties = contents.data(_PROPERTIES)
    with_lines = small_files(file).data(_PROPERTIES)
    if properties is not None and (with_lines is None or not with_lines.startswith(properties)):
        yield _PROPERTIES


def stored_archives(site: Site) -> tuple[StoredObject, ...]:
    """Look up what is under the prefix; nothing when there is no bucket."""
    found = stored_objects(site, site.prefix)
    return tuple(one for one in found if one.key.rpartition("/")[2] != CURRENT)


def plan_objects(
    site: Site,
    models: Sequence[PackedModel],
    stored: Sequence[StoredObject],
    kept: Collection[str] = (),
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Plan the uploads; and apart from them what is to go when the endpoint is in service.

    Parameters
    ----------
    kept
        Keys of what stays although no model has it.

    Raises
    ------
    DeployError
        Somebody else's object has the key.
    """
    there = {one.key: one for one in stored}
    # Others' buckets encrypt as they like.
    own = bool(there) and bucket_owner(site) == site.name
    uploads = tuple(
        _plan_upload(site, model, there.get(model.key), encrypts=own) for model in models
    )
    wanted = {model.key for model in models} | set(kept)
    gone = [one for one in stored if one.owner == site.name and one.key not in wanted]
    return uploads, tuple(_removal(site, one) for one in gone)


def plan_objects_removal(site: Site, stored: Sequence[StoredObject]) -> tuple[Step, ...]:
    """Plan to remove what the deployment uploaded."""
    return tuple(
        _removal(site, one)
        if one.owner == site.name
        else Step(Action.KEEP, "archive", one.key, note="not uploaded by this deployment")
        for one in stored
    )


def _plan_upload(
    site: Site, model: PackedModel, there: StoredObject | None, *, encrypts: bool
) -> Step:
    if there is None:
        return Step(
            Action.CREATE,
            "archive",
            model.key,
            size=model.size,
            perform=lambda report: _upload(site, model, None, report),
        )
    key = site.deployment.kms_key
    is_own = there.owner == site.name
    if there.sha256 == model.sha256 and is_own and encrypts and there.kms_key != key:
        # A bucket's new key is for what is uploaded from then on, and the role loses the old one.
        return Step(
            Action.CHANGE,
            "archive",
            model.key,
            (Difference("key", there.kms_key or "S3's own", key or "S3's own"),),
            note="encrypted anew",
            size=model.size,
            perform=lambda report: _upload(site, model, None, report),
        )
    if there.sha256 == model.sha256:
        return Step(Action.KEEP, "archive", model.key, note="the same bytes are there")
    if not is_own:
        raise DeployError(
            f"Under the key {model.key} is an object that this deployment did not upload, and it "
            "is not known to be the same.",
            where=f"{site.data_url}{model.key}",
            remedy="Give the package another `key`, or remove the object.",
        )
    change = Difference("sha256", (there.sha256 or "unknown")[:12], model.sha256[:12])
    return Step(
        Action.CHANGE,
        "archive",
        model.key,
        (change,),
        note="instances that have it keep the old one, so the endpoint gets new ones. A new key "
        "would need none",
        size=model.size,
        perform=lambda report: _upload(site, model, there, report),
    )


def _removal(site: Site, stored: StoredObject) -> Step:
    return removal_of_object(site, "archive", stored.key, site.prefix + stored.key)


def _upload(site: Site, model: PackedModel, old: StoredObject | None, report: Report) -> None:
    upload = Upload(
        "archive",
        model.key,
        model.path,
        model.size,
        site.prefix + model.key,
        model.sha256,
        tuple(layer.entry.sha256 for layer in model.thin_layers),
    )
    s3 = site.account.client("s3")
    upload.send(s3, site.bucket, report, deployment=site.name, replaced=old)
