"""SageMaker's model registry: approved model packages become archives, archives model packages."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.archive import container_environment, verify
from mmekit.archive.files import sha256_of
from mmekit.deploy.account import deploy_errors, is_missing
from mmekit.deploy.layer_files import named_layers
from mmekit.deploy.objects import SHA256, Upload
from mmekit.deploy.releases import keyed_by_digest
from mmekit.errors import DeployError, ManifestError
from mmekit.settings import CPU_TAG, Settings

if TYPE_CHECKING:
    from mmekit.archive import Manifest
    from mmekit.deploy.account import Site
    from mmekit.deploy.parts import ModelEntry
    from mmekit.deploy.step import Report

__all__ = ["RegisteredModel", "fetch_registered", "place_of_registry", "register"]

_APPROVED = "Approved"
_PENDING = "PendingManualApproval"
_TYPES = ["application/json", "text/csv", "application/x-npy", "application/jsonlines"]
_CREATED_BY = {"Key": "mmekit:registered", "Value": "true"}


@dataclass(frozen=True)
class RegisteredModel:
    """A model package.

    Attributes
    ----------
    arn
        Its name.
    url
        Where its archive is.
    status
        Whether it may be deployed: Approved, PendingManualApproval, Rejected.
    is_new
        Whether it was made now; the newest of the group was the same archive otherwise.
    """

    arn: str
    url: str
    status: str
    is_new: bool

    def __str__(self) -> str:
        """Return it as text, with how to approve it."""
        what = "registered as" if self.is_new else "is registered already as"
        lines = [f"{what} {self.arn} ({self.status})", f"  archive: {self.url}"]
        return "\n".join([*lines, *([] if self.status == _APPROVED else [f"  {_how(self.arn)}"])])


def fetch_registered(site: Site, report: Report) -> None:
    """Bring the archives of the model packages that the file names to this machine.

    Raises
    ------
    DeployError
        A package is not there, not approved, not one archive, or not the bytes that it says.
    """
    for entry in site.deployment.packages:
        if entry.model_package or entry.model_package_group:
            _fetch(site, entry, report)


def register(archive: Path, group: str, report: Report) -> RegisteredModel:
    """Upload an archive, and make it the newest version of a model package group.

    It waits for an approval. The group is made where there is none.

    Raises
    ------
    DeployError
        It is a thin archive; or the bucket is not there, or AWS refuses.
    """
    thin = [one for one in named_layers(archive) if not one.is_inline]
    if thin:
        raise DeployError(
            "A thin archive is not whole without its layers, and the registry keeps none.",
            where=str(archive),
            remedy="Pack it without --thin to register it.",
        )
    settings = Settings()
    with deploy_errors(settings):
        return _registered(settings, archive, group, report)


def place_of_registry() -> tuple[str, bool]:
    """Return where `register` makes a version, as text, and whether that is a real account.

    Raises
    ------
    DeployError
        AWS refuses.
    SettingsError
        A setting cannot be used.
    """
    settings = Settings()
    if settings.target == "local":
        return f"the local service, {settings.local_url}", False
    with deploy_errors(settings):
        account = settings.client("sts").get_caller_identity()["Account"]
    bucket = settings.bucket_in(account)
    place = f"AWS account {account}, {settings.region}"
    return f"{place}, s3://{bucket}/{settings.prefix}-registry/", True


def _registered(settings: Settings, archive: Path, group: str, report: Report) -> RegisteredModel:
    sagemaker, s3 = settings.client("sagemaker"), settings.client("s3")
    sha256, size = sha256_of(archive), archive.stat().st_size
    key = f"{settings.prefix}-registry/{group}/{keyed_by_digest(archive.name, sha256)}"
    # The account's own where none is named, whatever account a role of the settings is in.
    bucket = settings.bucket_in(settings.client("sts").get_caller_identity()["Account"])
    url = f"s3://{bucket}/{key}"
    _make_group(sagemaker, group)
    newest = _newest(sagemaker, group)
    if newest is not None:
        found = sagemaker.describe_model_package(ModelPackageName=newest["ModelPackageArn"])
        if found.get("CustomerMetadataProperties", {}).get(SHA256) == sha256:
            status = str(found["ModelApprovalStatus"])
            return RegisteredModel(str(found["ModelPackageArn"]), _url(found), status, is_new=False)
    if _digest_of_object(s3, bucket, key) != sha256:
        Upload("archive", archive.name, archive, size, key, sha256).send(
            s3, bucket, report, deployment=None
        )
    manifest = _manifest(archive)
    made = sagemaker.create_model_package(
        ModelPackageGroupName=group,
        ModelPackageDescription=f"{archive.name}, SHA-256 {sha256}",
        ModelApprovalStatus=_PENDING,
        InferenceSpecification=_specification(settings, url),
        CustomerMetadataProperties={SHA256: sha256, **_facts(manifest)},
    )
    return RegisteredModel(str(made["ModelPackageArn"]), url, _PENDING, is_new=True)


def _make_group(sagemaker: Any, group: str) -> None:
    try:
        sagemaker.describe_model_package_group(ModelPackageGroupName=group)
    except ClientError as error:
        if not _is_unknown(error):
            raise
        # Of a group: a version takes no tags of its own.
        sagemaker.create_model_package_group(
            ModelPackageGroupName=group,
            ModelPackageGroupDescription="Archives of mmekit",
            Tags=[_CREATED_BY],
        )


def _specification(settings: Settings, url: str) -> dict[str, Any]:
    image = settings.image_uri
    environment = container_environment() if image.endswith(f":{CPU_TAG}") else {}
    return {
        "Containers": [{"Image": image, "ModelDataUrl": url, "Environment": environment}],
        "SupportedContentTypes": _TYPES,
        "SupportedResponseMIMETypes": _TYPES,
        "SupportedRealtimeInferenceInstanceTypes": [settings.instance_type],
    }


def _facts(manifest: Manifest | None) -> dict[str, str]:
    if manifest is None:
        return {}
    measured = manifest.measured
    libraries = ", ".join(f"{name} {measured.libraries[name]}" for name in measured.required)
    facts = {
        "model": manifest.name,
        "mmekit": manifest.mmekit,
        "python": measured.python,
        "libraries": libraries[:256],
        "memory_mb": str(measured.memory.required_mb),
        "forked_memory_mb": str(measured.memory.forked_mb or ""),
    }
    return {name: value for name, value in facts.items() if value}


def _manifest(archive: Path) -> Manifest | None:
    try:
        return verify(archive)
    except ManifestError as error:
        if "There is no manifest" in error.what:
            return None
        raise


def _fetch(site: Site, entry: ModelEntry, report: Report) -> None:
    package = _package(site, entry)
    url, arn = _url(package), str(package["ModelPackageArn"])
    bucket, _, key = url.removeprefix("s3://").partition("/")
    s3 = site.account.client("s3")
    expected = package.get("CustomerMetadataProperties", {}).get(SHA256)
    expected = expected or _digest_of_object(s3, bucket, key)
    file = Path(entry.archive or "")
    if expected is not None and file.is_file() and sha256_of(file) == expected:
        report(f"archive {file}: {arn}, here already")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".mme-registry-") as folder:
        fetched = Path(folder, file.name)
        try:
            s3.download_file(bucket, key, str(fetched))
        except ClientError as error:
            if not is_missing(error):
                raise
            raise DeployError(
                f"The archive of {arn} is not there.",
                where=url,
                remedy="Register the model anew: mme pack … --register GROUP.",
            ) from error
        sha256 = sha256_of(fetched)
        if expected not in (None, sha256):
            raise DeployError(
                f"The archive is not the one that was registered as {arn}: its SHA-256 is "
                f"{sha256[:12]}…, not {str(expected)[:12]}….",
                where=url,
                remedy="Register the model anew: mme pack … --register GROUP.",
            )
        fetched.replace(file)
    digest = "" if expected else "; nothing says which SHA-256 it should have"
    report(f"archive {file}: fetched, {arn}{digest}")
    image = package["InferenceSpecification"]["Containers"][0].get("Image")
    if image != site.image:
        report(f"  it was registered for {image}; this deployment has {site.image}")


def _package(site: Site, entry: ModelEntry) -> dict[str, Any]:
    """Return the description of an approved model package."""
    sagemaker = site.account.client("sagemaker")
    arn = entry.model_package
    if arn is None:
        group = str(entry.model_package_group)
        newest = _newest(sagemaker, group, ModelApprovalStatus=_APPROVED)
        if newest is None:
            raise _nothing_approved(sagemaker, group)
        arn = str(newest["ModelPackageArn"])
    try:
        package: dict[str, Any] = sagemaker.describe_model_package(ModelPackageName=arn)
    except ClientError as error:
        if not _is_unknown(error):
            raise
        raise DeployError(
            "There is no such model package.",
            where=arn,
            remedy="aws sagemaker list-model-packages --model-package-group-name GROUP lists them.",
        ) from error
    status = package.get("ModelApprovalStatus")
    if status != _APPROVED:
        raise DeployError(
            f"The model package is {status}, and only one that is Approved is deployed.",
            where=arn,
            remedy=_how(arn),
        )
    return package


def _nothing_approved(sagemaker: Any, group: str) -> DeployError:
    newest = _newest(sagemaker, group)
    if newest is None:
        return DeployError(
            "There is no model package in this group, or no such group.",
            where=group,
            remedy=f"Register a model: mme pack PACKAGE --artifacts DIR -o FILE --register {group}",
        )
    arn = str(newest["ModelPackageArn"])
    return DeployError(
        f"No model package of this group is Approved; the newest is "
        f"{newest.get('ModelApprovalStatus')}.",
        where=arn,
        remedy=_how(arn),
    )


def _newest(sagemaker: Any, group: str, **filters: str) -> dict[str, Any] | None:
    try:
        listed = sagemaker.list_model_packages(
            ModelPackageGroupName=group,
            SortBy="CreationTime",
            SortOrder="Descending",
            **filters,
        )["ModelPackageSummaryList"]
    except ClientError as error:
        if _is_unknown(error):
            return None
        raise
    return listed[0] if listed else None


def _url(package: dict[str, Any]) -> str:
    """Return where the one archive of a model package is."""
    containers = package.get("InferenceSpecification", {}).get("Containers", [])
    container = containers[0] if len(containers) == 1 else {}
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    url = container.get("ModelDataUrl")
    if url is None and source.get("CompressionType") == "Gzip":
        url = source.get("S3Uri")
    if not str(url).startswith("s3://"):
        raise DeployError(
            "The model package is not one container with one .tar.gz in S3.",
            where=str(package["ModelPackageArn"]),
            remedy="A multi-model endpoint takes archives: register one with mme pack … "
            "--register GROUP.",
        )
    return str(url)


def _digest_of_object(s3: Any, bucket: str, key: str) -> str | None:
    try:
        digest: str | None = s3.head_object(Bucket=bucket, Key=key)["Metadata"].get(SHA256)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return digest


def _is_unknown(error: ClientError) -> bool:
    # SageMaker's code for it is ValidationException, as for a wrong parameter: the text tells.
    return is_missing(error) or any(
        said in str(error) for said in ("does not exist", "not found", "Could not find")
    )


def _how(arn: str) -> str:
    return (
        f"Approve it: aws sagemaker update-model-package --model-package-arn {arn} "
        "--model-approval-status Approved; or in SageMaker Studio."
    )
