"""What `cdk synth` wrote, put on the local endpoint service: assets, then stacks.

The `cdk` command does this on AWS, with roles and a bucket that `cdk bootstrap` has made. Here
nothing is to be bootstrapped, and no Node.js is needed.

Source of the files' forms: aws-cdk's cloud-assembly-schema (manifest.json, *.assets.json).
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mmekit.settings import Settings

__all__ = ["Assembly", "Published"]

# The first day that a zip can tell: the same files are the same bytes on any day.
_SOME_TIME = (1980, 1, 1, 0, 0, 0)
_REDO = "Synthesise it again: cdk synth, or python app.py with CDK_OUTDIR set."
_CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"]
# botocore's waiters look every 30 s, and the local service is done in seconds. Half an hour in all.
_WAIT = {"Delay": 1, "MaxAttempts": 1800}


@dataclass(frozen=True)
class Published:
    """What has been published.

    Attributes
    ----------
    files
        The URLs of the objects that have been written.
    there
        How many were there already: their names are hashes of what is in them.
    images
        The URIs of images that stacks name and that nobody builds here.
    """

    files: tuple[str, ...]
    there: int
    images: tuple[str, ...]


class Assembly:
    """A folder such as cdk.out.

    Parameters
    ----------
    folder
        It.
    settings
        Say where the local service is.

    Raises
    ------
    DeployError
        The target is AWS, or the folder is none of the kind.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        if settings.target != "local":
            raise DeployError(
                "This command is for the local service; on AWS use cdk.",
                where="MME_TARGET",
                remedy="Set MME_TARGET to local, or run cdk bootstrap and cdk deploy.",
            )
        self._folder = folder
        self._settings = settings
        self._artifacts = self._read("manifest.json").get("artifacts", {})
        if not self._stacks:
            what = "There is no stack in it."
            raise DeployError(what, where=str(folder / "manifest.json"), remedy=_REDO)

    def publish(self) -> Published:
        """Upload every file that the stacks refer to, and what cdk bootstrap leaves behind.

        Raises
        ------
        DeployError
            A file is missing, or the service does not answer.
        """
        written, images, there = [], [], 0
        with self._asking("s3"):
            s3 = self._settings.client("s3")
            for bucket, key, source in self._files():
                if _exists(s3, bucket, key):
                    there += 1
                    continue
                if not _exists(s3, bucket):
                    s3.create_bucket(**self._bucket(bucket))
                s3.put_object(Bucket=bucket, Key=key, Body=self._content(source))
                written.append(f"s3://{bucket}/{key}")
            images = list(self._images())
            self._mark_as_bootstrapped()
        return Published(tuple(written), there, tuple(images))

    def deploy(self, say: Callable[[str], object]) -> dict[str, dict[str, str]]:
        """Create or update every stack, and wait; return their outputs by the stack's name.

        Parameters
        ----------
        say
            Gets a line for each step.

        Raises
        ------
        DeployError
            A stack failed; the reasons are CloudFormation's.
        """
        self.publish()
        outputs = {}
        for name, artifact in self._stacks:
            with self._asking(name):
                outputs[name] = self._deploy(name, artifact["properties"], say)
        return outputs

    def destroy(self, say: Callable[[str], object]) -> None:
        """Delete every stack, the last first, and wait.

        Raises
        ------
        DeployError
            Something could not be deleted.
        """
        formation = self._settings.client("cloudformation")
        for name, _ in reversed(self._stacks):
            with self._asking(name):
                found = _described(formation, name)
                if found is None:
                    say(f"{name}: does not exist")
                    continue
                formation.delete_stack(StackName=name)
                self._wait(formation, "stack_delete_complete", found["StackId"])
                say(f"{name}: deleted")

    @property
    def _stacks(self) -> list[tuple[str, dict[str, Any]]]:
        """The stacks, each after those it depends on, which is the manifest's own order."""
        return [
            (artifact.get("properties", {}).get("stackName", name), artifact)
            for name, artifact in self._artifacts.items()
            if artifact.get("type") == "aws:cloudformation:stack"
        ]

    def _deploy(
        self, name: str, properties: dict[str, Any], say: Callable[[str], object]
    ) -> dict[str, str]:
        formation = self._settings.client("cloudformation")
        request = {
            "StackName": name,
            # A template within the request may have 51,200 bytes at most.
            "TemplateURL": self._template_url(properties),
            "Capabilities": _CAPABILITIES,
        }
        found = _described(formation, name)
        # CloudFormation updates no stack whose creation was rolled back: it can only be deleted.
        if found is not None and found["StackStatus"] in ("ROLLBACK_COMPLETE", "CREATE_FAILED"):
            formation.delete_stack(StackName=name)
            self._wait(formation, "stack_delete_complete", found["StackId"])
            found = None
        if found is None:
            say(f"{name}: creating")
            formation.create_stack(**request)
            self._wait(formation, "stack_create_complete", name)
        else:
            say(f"{name}: updating")
            try:
                formation.update_stack(**request)
                self._wait(formation, "stack_update_complete", name)
            except ClientError as error:
                # It has no code of its own: a ValidationError, as for a wrong template.
                if "No updates are to be performed" not in str(error):
                    raise
        described = _described(formation, name) or {}
        say(f"{name}: {described['StackStatus']}")
        return {one["OutputKey"]: one["OutputValue"] for one in described.get("Outputs", ())}

    def _template_url(self, properties: dict[str, Any]) -> str:
        url = str(properties["stackTemplateAssetObjectUrl"])
        bucket, _, key = self._located(url.removeprefix("s3://")).partition("/")
        # The manifest says s3://, and TemplateURL takes https:// only.
        return f"https://{bucket}.s3.{self._settings.region}.amazonaws.com/{key}"

    def _wait(self, formation: Any, waiter: str, stack: str) -> None:
        try:
            formation.get_waiter(waiter).wait(StackName=stack, WaiterConfig=_WAIT)
        except WaiterError as error:
            events = formation.describe_stack_events(StackName=stack)["StackEvents"]
            reasons = [
                f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
                for event in reversed(events)
                if event["ResourceStatus"].endswith("_FAILED") and "ResourceStatusReason" in event
            ]
            status = (_described(formation, stack) or {}).get("StackStatus", "it is gone")
            raise DeployError(
                f"The stack failed: {'; '.join(reasons) or status}",
                where=stack,
                remedy="Correct it, synthesise and deploy again: the change was rolled back.",
            ) from error

    def _files(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield bucket, key and source of every file asset."""
        for described in self._assets("files"):
            for destination in described["destinations"].values():
                bucket = self._located(destination["bucketName"])
                yield bucket, self._located(destination["objectKey"]), described["source"]

    def _images(self) -> Iterator[str]:
        for described in self._assets("dockerImages"):
            for destination in described["destinations"].values():
                account, region = self._account, self._settings.region
                host = f"{account}.dkr.ecr.{region}.amazonaws.com"
                yield f"{host}/{self._located(destination['repositoryName'])}:" + str(
                    destination["imageTag"]
                )

    def _assets(self, kind: str) -> Iterator[dict[str, Any]]:
        for artifact in self._artifacts.values():
            if artifact.get("type") == "cdk:asset-manifest":
                described = self._read(artifact["properties"]["file"])
                yield from described.get(kind, {}).values()

    def _content(self, source: dict[str, Any]) -> bytes:
        path = self._folder / str(source["path"])
        if not path.exists():
            raise DeployError("An asset is missing.", where=str(path), remedy=_REDO)
        if source["packaging"] == "file":
            return path.read_bytes()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    entry = zipfile.ZipInfo(file.relative_to(path).as_posix(), _SOME_TIME)
                    # A zip has Unix' modes in the upper half: what may be executed stays so.
                    entry.external_attr = file.stat().st_mode << 16
                    archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    def _mark_as_bootstrapped(self) -> None:
        """Leave the version behind that stacks hold their rule against."""
        for artifact in self._artifacts.values():
            properties = artifact.get("properties", {})
            name = properties.get("bootstrapStackVersionSsmParameter")
            if name is not None:
                version = str(properties.get("requiresBootstrapStackVersion", 6))
                ssm = self._settings.client("ssm")
                ssm.put_parameter(Name=name, Value=version, Type="String", Overwrite=True)

    def _bucket(self, name: str) -> dict[str, Any]:
        region = self._settings.region
        if region == "us-east-1":
            return {"Bucket": name}
        return {"Bucket": name, "CreateBucketConfiguration": {"LocationConstraint": region}}

    def _located(self, text: str) -> str:
        """Put account and region in; a stack that is bound to others cannot be deployed here."""
        return (
            text.replace("${AWS::AccountId}", self._account)
            .replace("${AWS::Region}", self._settings.region)
            .replace("${AWS::Partition}", "aws")
        )

    @cached_property
    def _account(self) -> str:
        return str(self._settings.client("sts").get_caller_identity()["Account"])

    def _read(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            what = f"It is no folder of synthesised stacks: {error.strerror}."
            raise DeployError(what, where=str(path), remedy=_REDO) from error
        except ValueError as error:
            raise DeployError(f"It is not JSON: {error}", where=str(path), remedy=_REDO) from error
        return found

    def _asking(self, where: str) -> _Asking:
        return _Asking(where, self._settings)


@dataclass(frozen=True)
class _Asking:
    """Says in our words what AWS refused in its own."""

    where: str
    settings: Settings

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ClientError):
            raise DeployError(str(error), where=self.where) from error
        if isinstance(error, BotoCoreError):
            remedy = (
                f"Start the local service: mme up. It is looked for at {self.settings.local_url}."
            )
            raise DeployError(str(error), where=self.where, remedy=remedy) from error


def _exists(s3: Any, bucket: str, key: str | None = None) -> bool:
    try:
        if key is None:
            s3.head_bucket(Bucket=bucket)
        else:
            s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NoSuchBucket"):
            return False
        raise
    return True


def _described(formation: Any, stack: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = formation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return found
