"""From one deployment to another: the models that are current there, copied by their digests."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from mmekit.archive.files import sha256_of
from mmekit.deploy.account import code_of, is_denied
from mmekit.deploy.content import Content, older_versions, plan_older_versions
from mmekit.deploy.current import coming_releases, stored_releases
from mmekit.deploy.layers import plan_layers, short_name, stored_layers
from mmekit.deploy.models import plan_objects, stored_archives
from mmekit.deploy.objects import Upload
from mmekit.deploy.releases import CURRENT, ModelVersion, keyed_by_digest
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.deploy.account import Site
    from mmekit.deploy.objects import StoredObject

__all__ = ["Promotion", "plan_promotion", "read_promotion"]

_COPIED_AT_ONCE = 5 << 30  # CopyObject takes no larger objects
_NAMED = 5


@dataclass(frozen=True)
class Promotion:
    """What is brought to another deployment.

    Attributes
    ----------
    source
        Where from.
    release
        The number of the release that is current there.
    archives
        Its objects, by the names of the models.
    layers
        Those that the archives name.
    prunes
        Whether models that only the other has leave it.
    """

    source: Site
    release: int
    archives: Mapping[str, StoredObject]
    layers: tuple[StoredObject, ...]
    prunes: bool = False

    def __str__(self) -> str:
        """Say where it comes from."""
        return f"{self.source.name}, release {self.release}"


def read_promotion(source: Site, *, prunes: bool = False) -> Promotion:
    """Look up what is current in a deployment, and whether it is all there.

    Raises
    ------
    DeployError
        There are no releases, or what is current is not what current.json says.
    """
    stored = stored_releases(source)
    where = f"{source.data_url}{CURRENT}"
    if stored is None:
        raise DeployError(
            f"{source.name} has no releases: there is no {CURRENT} of it.",
            where=where,
            remedy="Set `versions: true` in its file and deploy it: what is rehearsed there is "
            "what is promoted.",
        )
    there = {one.key: one for one in stored_archives(source)}
    models = stored.releases.models
    faults = [
        f"{version.key} of {name} {'is gone' if version.key not in there else 'has other bytes'}"
        for name, version in sorted(models.items())
        if version.key not in there or there[version.key].sha256 != version.sha256
    ]
    archives = {name: there[one.key] for name, one in models.items() if one.key in there}
    needed = {layer for one in archives.values() for layer in one.layers}
    layers = [one for one in stored_layers(source) if one.key.removesuffix(".tar.gz") in needed]
    lost = needed - {one.key.removesuffix(".tar.gz") for one in layers}
    faults += [f"the layer {short_name(one)} is gone" for one in sorted(lost)]
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise DeployError(
            f"What is current in {source.name} is not there: {'; '.join(faults[:_NAMED])}{more}.",
            where=where,
            remedy=f"Deploy {source.name} again.",
        )
    return Promotion(source, stored.releases.current.number, archives, tuple(layers), prunes)


def plan_promotion(site: Site, promotion: Promotion, *, is_new: bool) -> Content:
    """Plan what becomes of the content of the bucket that models are brought to.

    Raises
    ------
    DeployError
        It is the same place, its file does not have versions, or somebody else's object is in the
        way.
    """
    _check(site, promotion)
    stored = () if is_new else stored_archives(site)
    layers_there = () if is_new else stored_layers(site)
    brought = {
        name: ModelVersion(keyed_by_digest(name, str(one.sha256)), str(one.sha256))
        for name, one in promotion.archives.items()
    }
    wanted, note = _wanted(site, promotion, brought)
    coming = coming_releases(site, wanted, stored, how="promote", source=str(promotion))
    there = {one.key: one for one in stored}
    uploads = tuple(
        _plan_copy(site, promotion, "archive", promotion.archives[name], version.key, there)
        for name, version in sorted(brought.items())
    )
    of_layers = {one.key: one for one in layers_there}
    layers = tuple(
        _plan_copy(site, promotion, "layer", one, one.key, of_layers) for one in promotion.layers
    )
    kept = older_versions(site, coming, stored, set())
    new = tuple(promotion.archives.values())
    keys = {one.key for one in kept} | {one.key for one in brought.values()}
    _, gone = plan_objects(site, (), stored, keys)
    _, gone_layers = plan_layers(site, (), layers_there, stored, (*kept, *new))
    return Content(
        stored,
        layers,
        uploads,
        plan_older_versions(site, coming, kept, layers_there),
        (*gone, *gone_layers),
        any(one.layers for one in (*kept, *new)),
        coming,
        note,
    )


def _check(site: Site, promotion: Promotion) -> None:
    source = promotion.source
    if not site.deployment.versions:
        raise DeployError(
            f"{site.name} has no versions, so that nothing could be made current there.",
            where=site.name,
            remedy="Set `versions: true` in its file; `packages` may be left out then.",
        )
    if (site.data_url, site.account.partition) == (source.data_url, source.account.partition):
        raise DeployError(
            f"Both deployments have their models at {site.data_url}.",
            where=f"{source.name}, {site.name}",
            remedy="Promote to a deployment with another `name`, `bucket` or `prefix`.",
        )


def _wanted(
    site: Site, promotion: Promotion, brought: Mapping[str, ModelVersion]
) -> tuple[dict[str, ModelVersion], str]:
    """Return what shall be current, and what one should know of it."""
    stored = stored_releases(site)
    before = {} if stored is None else dict(stored.releases.models)
    only_here = sorted(before.keys() - brought.keys())
    notes = []
    if only_here and promotion.prunes:
        before = {}
    elif only_here:
        names = ", ".join(only_here[:_NAMED]) + (" and more" if only_here[_NAMED:] else "")
        notes.append(
            f"{len(only_here)} that {promotion.source.name} does not have stay as they are: {names}"
            " (--prune removes them)"
        )
    if site.deployment.packages:
        notes.append(
            "its file names packages, which `mme deploy` makes current again; leave `packages` out "
            "where models are promoted"
        )
    return {**before, **brought}, "; ".join(notes)


def _plan_copy(
    site: Site,
    promotion: Promotion,
    kind: str,
    stored: StoredObject,
    key: str,
    there: Mapping[str, StoredObject],
) -> Step:
    name = key if kind == "archive" else short_name(key)
    found = there.get(key)
    # A layer's name is what is in it: its file may have been packed by another version of zlib.
    is_same = found is not None and (kind == "layer" or found.sha256 == stored.sha256)
    if is_same:
        return Step(Action.KEEP, kind, name, note="the same bytes are there")
    if found is not None and found.owner != site.name:
        raise DeployError(
            f"Under the key {key} is an object that this deployment did not upload, and it is "
            "other bytes.",
            where=f"{site.data_url}{key}",
            remedy="Remove the object, or give the deployment another `prefix`.",
        )
    source = promotion.source
    places = {"archive": (source.prefix, site.prefix)}
    before, after = places.get(kind, (source.layers_prefix, site.layers_prefix))
    copy = _Copy(source, site, before + stored.key, after + key, stored, f"{kind} {name}")
    difference = (
        () if found is None else (Difference("sha256", str(found.sha256), str(stored.sha256)),)
    )
    return Step(
        Action.CREATE if found is None else Action.CHANGE,
        kind,
        name,
        difference,
        note=f"copied from {source.name}",
        perform=copy.perform,
    )


@dataclass(frozen=True)
class _Copy:
    """An object that is brought from one bucket to another."""

    source: Site
    site: Site
    key: str
    new_key: str
    stored: StoredObject
    name: str

    def perform(self, report: Report) -> None:
        if self.stored.sha256 is None or not self._is_copied_by_s3(self.stored.sha256, report):
            self._send(report)

    def _is_copied_by_s3(self, sha256: str, report: Report) -> bool:
        """Let S3 copy it and reckon its SHA-256; say whether it may and can."""
        if self.stored.size > _COPIED_AT_ONCE:
            return False
        s3 = self.site.account.client("s3")
        try:
            copied = s3.copy_object(
                Bucket=self.site.bucket,
                Key=self.new_key,
                CopySource={"Bucket": self.source.bucket, "Key": self.key},
                ChecksumAlgorithm="SHA256",
                Metadata=self._upload(Path(), sha256).metadata(self.site.name, None),
                MetadataDirective="REPLACE",
                ContentType="application/gzip",
            )
        except ClientError as error:
            # The other account may not read here; nor may who could, with a key of its own.
            if not is_denied(error) and code_of(error) != "NoSuchBucket":
                raise
            report(f"{self.name}: S3 may not copy it for {self.site.name}, so it goes through here")
            return False
        reckoned = copied["CopyObjectResult"].get("ChecksumSHA256", "")
        if base64.b64decode(reckoned.partition("-")[0]).hex() != sha256:
            s3.delete_object(Bucket=self.site.bucket, Key=self.new_key)
            raise self._differs()
        return True

    def _send(self, report: Report) -> None:
        with tempfile.TemporaryDirectory(prefix="mme-promote-") as folder:
            file = Path(folder, "object")
            s3 = self.source.account.client("s3")
            s3.download_file(self.source.bucket, self.key, str(file))
            sha256 = sha256_of(file)
            if self.stored.sha256 not in (None, sha256):
                raise self._differs()
            self._upload(file, sha256).send(
                self.site.account.client("s3"), self.site.bucket, report, deployment=self.site.name
            )

    def _upload(self, file: Path, sha256: str) -> Upload:
        kind, _, name = self.name.partition(" ")
        size = self.stored.size
        return Upload(kind, name, file, size, self.new_key, sha256, self.stored.layers)

    def _differs(self) -> DeployError:
        return DeployError(
            f"The {self.name} is not the bytes that its digest says. Nothing has become current.",
            where=f"s3://{self.source.bucket}/{self.key}",
            remedy=f"Deploy {self.source.name} again, with the archive that was rehearsed.",
        )
