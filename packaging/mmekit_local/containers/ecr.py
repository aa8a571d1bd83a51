"""Images of one's own on AWS: built by Docker, kept by the Elastic Container Registry."""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["push_commands", "push_image"]

# SageMaker takes an image, and no index of an image and its attestations, which is what buildx
# makes unless told otherwise.
_NO_ATTESTATIONS = "BUILDX_NO_DEFAULT_ATTESTATIONS"

_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.[a-z.]+")
_FROM = re.compile(r"^FROM\s+(?:--platform=\S+\s+)?(?P<image>\S+)", re.MULTILINE | re.IGNORECASE)
_ARGUMENT = re.compile(r"^ARG\s+(?P<name>\w+)=(?P<value>\S+)", re.MULTILINE | re.IGNORECASE)


def push_image(
    folder: Path,
    repository: str,
    *,
    tag: str = "latest",
    arguments: Sequence[tuple[str, str]] = (),
    region: str | None = None,
    say: Callable[[str], object] = print,
) -> str:
    """Build an image and push it; return its URI.

    Parameters
    ----------
    folder
        The one with the Dockerfile.
    repository
        Created when it is not there.
    arguments
        ``--build-arg``.
    region
        None takes what AWS's own configuration says.
    say
        Gets every command before it is run; never the password.

    Raises
    ------
    ImageError
        There is no Dockerfile, no docker, no region; AWS or Docker refused.
    """
    dockerfile = _dockerfile(folder)
    session = _session(region)
    try:
        host = _host(session, session.client("sts").get_caller_identity()["Account"])
        _ensure_repository(session, repository)
        for registry in _registries(host, dockerfile, arguments):
            user, password = _credentials(session, registry)
            login = ["docker", "login", "--username", user, "--password-stdin", registry]
            _run(login, say, password.encode())
    except (BotoCoreError, ClientError) as error:
        what, remedy = f"AWS refused: {error}", "Log in to AWS, with leave to use ECR and STS."
        raise ImageError(what, where=f"ECR in {session.region_name}", remedy=remedy) from error
    uri = f"{host}/{repository}:{tag}"
    for command in _commands(folder, uri, arguments):
        _run(command, say)
    return uri


def push_commands(
    folder: Path,
    repository: str,
    *,
    tag: str = "latest",
    arguments: Sequence[tuple[str, str]] = (),
    region: str | None = None,
) -> list[str]:
    """Return what `push_image` does as lines for a shell that has Docker and the AWS CLI.

    Nobody is asked: the account stands as ``$ACCOUNT``.

    Raises
    ------
    ImageError
        There is no Dockerfile or no region.
    """
    dockerfile = _dockerfile(folder)
    session = _session(region)
    host = _host(session, "$ACCOUNT")
    name, where = f"--repository-name{{}} {repository}", f"--region {session.region_name}"
    logins = [
        f"aws ecr get-login-password --region {_region_of(registry)} "
        f"| docker login --username AWS --password-stdin {registry}"
        for registry in _registries(host, dockerfile, arguments)
    ]
    commands = _commands(folder, f"{host}/{repository}:{tag}", arguments)
    return [
        "ACCOUNT=$(aws sts get-caller-identity --query Account --output text)",
        f"aws ecr describe-repositories {name.format('s')} {where} > /dev/null || \\",
        f"  aws ecr create-repository {name.format('')} {where}",
        *logins,
        f"export {_NO_ATTESTATIONS}=1",
        *(" ".join(_quoted(word) for word in command) for command in commands),
    ]


def _commands(folder: Path, uri: str, arguments: Sequence[tuple[str, str]]) -> list[list[str]]:
    options = [word for name, value in arguments for word in ("--build-arg", f"{name}={value}")]
    build = ["docker", "build", "--platform", "linux/amd64", "--tag", uri, *options, str(folder)]
    return [build, ["docker", "push", uri]]


def _quoted(word: str) -> str:
    return f'"{word}"' if word.startswith("$ACCOUNT") else shlex.quote(word)


def _dockerfile(folder: Path) -> str:
    try:
        return (folder / "Dockerfile").read_text(encoding="utf-8")
    except FileNotFoundError:
        remedy = "Name the folder with the Dockerfile."
        raise ImageError("There is no Dockerfile.", where=str(folder), remedy=remedy) from None


def _session(region: str | None) -> Any:
    import boto3

    session = boto3.Session(region_name=region)
    if session.region_name is None:
        remedy = "Name one with --region, or in AWS's own configuration."
        raise ImageError("There is no region.", where="AWS_DEFAULT_REGION", remedy=remedy)
    return session


def _host(session: Any, account: str) -> str:
    partition = session.get_partition_for_region(session.region_name)
    domain = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    return f"{account}.dkr.ecr.{session.region_name}.{domain}"


def _ensure_repository(session: Any, repository: str) -> None:
    ecr = session.client("ecr")
    try:
        ecr.describe_repositories(repositoryNames=[repository])
    except ecr.exceptions.RepositoryNotFoundException:
        ecr.create_repository(
            repositoryName=repository, imageScanningConfiguration={"scanOnPush": True}
        )


def _credentials(session: Any, registry: str) -> tuple[str, str]:
    """Return user and password: what ``aws ecr get-login-password`` asks for.

    They open every registry of the region that the identity may read, AWS's own among them.
    """
    ecr = session.client("ecr", region_name=_region_of(registry))
    answer = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")
    return user, password


def _registries(
    host: str, dockerfile: str, arguments: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """Return where to log in: the account's own, and the ECR registries that FROM names."""
    given = {match["name"]: match["value"] for match in _ARGUMENT.finditer(dockerfile)}
    given.update(arguments)
    found = [host]
    for match in _FROM.finditer(dockerfile):
        image = re.sub(r"\$\{?(\w+)\}?", lambda name: given.get(name[1], ""), match["image"])
        registry = image.partition("/")[0]
        if _ECR.fullmatch(registry):
            found.append(registry)
    return tuple(dict.fromkeys(found))


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
