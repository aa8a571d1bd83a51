"""Images of one's own on AWS: built by Docker, kept by the Elastic Container Registry."""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from mmekit.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["ImagePush"]

# SageMaker takes an image, and no index of an image and its attestations, which is what buildx
# makes unless told otherwise.
_NO_ATTESTATIONS = "BUILDX_NO_DEFAULT_ATTESTATIONS"
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.[a-z.]+")
_FROM = re.compile(r"^FROM\s+(?:--platform=\S+\s+)?(\S+)", re.MULTILINE | re.IGNORECASE)
_ARGUMENT = re.compile(r"^ARG\s+(\w+)=(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class ImagePush:
    """An image to be built and pushed; `ImageError` says what is missing, or who refused.

    Attributes
    ----------
    folder
        The one with the Dockerfile.
    repository
        Created when it is not there.
    arguments
        ``--build-arg``.
    region
        None takes what AWS's own configuration says.
    """

    folder: Path
    repository: str
    tag: str = "latest"
    arguments: tuple[tuple[str, str], ...] = ()
    region: str | None = None

    def run(self, say: Callable[[str], object] = print) -> str:
        """Do it and return the URI; `say` gets every command before it runs, never a password."""
        registries = self._registries("")  # nothing is asked of AWS without a Dockerfile
        try:
            account = self._session.client("sts").get_caller_identity()["Account"]
            registries = self._registries(account)
            self._ensure_repository()
            for registry in registries:
                # What `aws ecr get-login-password` asks for. It opens every registry of the region
                # that the identity may read, AWS's own among them.
                ecr = self._session.client("ecr", region_name=_region_of(registry))
                token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
                user, _, password = base64.b64decode(token).decode().partition(":")
                # As an argument, the password could be read in the list of processes.
                login = ["docker", "login", "--username", user, "--password-stdin", registry]
                _run(login, say, password.encode())
        except (BotoCoreError, ClientError) as error:
            what, remedy = f"AWS refused: {error}", "Log in to AWS, with leave to use ECR and STS."
            where = f"ECR in {self._session.region_name}"
            raise ImageError(what, where=where, remedy=remedy) from error
        build, push = self._commands(registries[0])
        _run(build, say)
        _run(push, say)
        return push[-1]

    def script(self) -> list[str]:
        """Return `run` as lines for a shell with Docker and the AWS CLI; nobody is asked."""
        registries = self._registries("$ACCOUNT")
        name, where = f" {self.repository}", f"--region {self._session.region_name}"
        return [
            "ACCOUNT=$(aws sts get-caller-identity --query Account --output text)",
            f"aws ecr describe-repositories --repository-names{name} {where} > /dev/null || \\",
            f"  aws ecr create-repository --repository-name{name} {where}",
            *(
                f"aws ecr get-login-password --region {_region_of(registry)} "
                f"| docker login --username AWS --password-stdin {registry}"
                for registry in registries
            ),
            f"export {_NO_ATTESTATIONS}=1",
            *(" ".join(map(_quoted, command)) for command in self._commands(registries[0])),
        ]

    @cached_property
    def _session(self) -> Any:
        session = boto3.Session(region_name=self.region)
        if session.region_name is None:
            remedy = "Name one with --region, or in AWS's own configuration."
            raise ImageError("There is no region.", where="AWS_DEFAULT_REGION", remedy=remedy)
        return session

    def _registries(self, account: str) -> list[str]:
        """Return where to log in: the account's own, and the ECR registries that FROM names."""
        try:
            dockerfile = (self.folder / "Dockerfile").read_text(encoding="utf-8")
        except FileNotFoundError:
            what, remedy = "There is no Dockerfile.", "Name the folder with the Dockerfile."
            raise ImageError(what, where=str(self.folder), remedy=remedy) from None
        region = self._session.region_name
        partition = self._session.get_partition_for_region(region)
        domain = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
        given = {**dict(_ARGUMENT.findall(dockerfile)), **dict(self.arguments)}
        found = [f"{account}.dkr.ecr.{region}.{domain}"]
        for image in _FROM.findall(dockerfile):
            named = re.sub(r"\$\{?(\w+)\}?", lambda name: given.get(name[1], ""), image)
            registry = named.partition("/")[0]
            if _ECR.fullmatch(registry) and registry not in found:
                found.append(registry)
        return found

    def _ensure_repository(self) -> None:
        ecr = self._session.client("ecr")
        try:
            ecr.describe_repositories(repositoryNames=[self.repository])
        except ecr.exceptions.RepositoryNotFoundException:
            scanning = {"scanOnPush": True}
            ecr.create_repository(
                repositoryName=self.repository, imageScanningConfiguration=scanning
            )

    def _commands(self, host: str) -> tuple[list[str], list[str]]:
        uri = f"{host}/{self.repository}:{self.tag}"
        given = [w for name, value in self.arguments for w in ("--build-arg", f"{name}={value}")]
        build = ["docker", "build", "--platform", "linux/amd64", "--tag", uri, *given]
        return [*build, str(self.folder)], ["docker", "push", uri]


def _quoted(word: str) -> str:
    return f'"{word}"' if word.startswith("$ACCOUNT") else shlex.quote(word)


def _region_of(registry: str) -> str:
    return registry.split(".")[3]


def _run(command: list[str], say: Callable[[str], object], secret: bytes | None = None) -> None:
    say(shlex.join(command))
    variables = {**os.environ, _NO_ATTESTATIONS: "1"}
    try:
        subprocess.run(command, check=True, input=secret, env=variables)
    except FileNotFoundError as error:
        remedy = "Install Docker; --dry-run shows what to run where it is."
        raise ImageError("There is no docker.", where="PATH", remedy=remedy) from error
    except subprocess.CalledProcessError as error:
        what = f"docker {command[1]} failed with exit code {error.returncode}."
        remedy = "What docker says is above."
        raise ImageError(what, where=shlex.join(command), remedy=remedy) from error
