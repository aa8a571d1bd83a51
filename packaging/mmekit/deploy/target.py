"""From the name of a model to the key of its current version, for who knows only the endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import is_denied, is_missing
from mmekit.deploy.release_files import read_releases
from mmekit.deploy.releases import CURRENT
from mmekit.deploy.whereabouts import model_sources

if TYPE_CHECKING:
    from mmekit.settings import Settings

__all__ = ["CurrentTarget", "current_target", "is_there", "models_place"]


@dataclass(frozen=True)
class CurrentTarget:
    """A target model.

    Attributes
    ----------
    key
        What to ask the endpoint for.
    note
        What one should know of it; empty where it is simply what was asked for.
    """

    key: str
    note: str = ""


def current_target(settings: Settings, endpoint: str, name: str) -> CurrentTarget:
    """Look up which version of a model is current.

    current.json counts, as for all who call by it, also where an object has the name for its key.
    Where there is no current.json, or the caller may not look, the name is the key.

    Raises
    ------
    DeployError
        current.json is there, and cannot be read.
    """
    literal = CurrentTarget(name)
    try:
        place = models_place(settings, endpoint)
        if place is None:
            return literal
        bucket, prefix = place
        s3 = settings.client("s3")
        content = s3.get_object(Bucket=bucket, Key=prefix + CURRENT)["Body"].read()
    except ClientError as error:
        if is_missing(error) or is_denied(error):
            return literal
        raise
    releases = read_releases(content, where=f"s3://{bucket}/{prefix}{CURRENT}")
    version = releases.models.get(name)
    if version is None or version.key == name:
        return literal
    note = f"{name} is {version.key}, current with release {releases.current.number}"
    if is_there(s3, bucket, prefix + name):
        note += (
            f"; the object {name} itself, from before versions were on, is another, and only "
            "clients that do not ask current.json get it"
        )
    return CurrentTarget(version.key, note)


def models_place(settings: Settings, endpoint: str) -> tuple[str, str] | None:
    """Return the bucket and prefix of an endpoint's models; None when they are not in one."""
    sagemaker = settings.client("sagemaker")
    described = sagemaker.describe_endpoint(EndpointName=endpoint)
    for source in model_sources(sagemaker, described["EndpointConfigName"]):
        scheme, _, rest = source.url.partition("://")
        if source.is_multi and scheme == "s3":
            bucket, _, prefix = rest.partition("/")
            return bucket, prefix
    return None


def is_there(s3: Any, bucket: str, key: str) -> bool:
    """Say whether there is such an object; False where the caller may not know."""
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if is_missing(error) or is_denied(error):
            return False
        raise
    return True
