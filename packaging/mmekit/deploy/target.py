"""From the name of a model to the key of its current version, for who knows only the endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import is_denied, is_missing
from mmekit.deploy.releases import CURRENT, Releases
from mmekit.deploy.whereabouts import model_sources

if TYPE_CHECKING:
    from mmekit.settings import Settings

__all__ = ["CurrentTarget", "current_target", "models_place"]


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

    An object of just that key counts first, as for any other client. Where there is no
    current.json, or the caller may not look, the name is the key.

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
    releases = Releases.from_json(content, where=f"s3://{bucket}/{prefix}{CURRENT}")
    version = releases.models.get(name)
    if version is None or version.key == name:
        return literal
    if _is_there(s3, bucket, prefix + name):
        return CurrentTarget(
            name,
            f"{name} is itself an object, from before versions were on, and answers; the current "
            f"version of this model is {version.key}",
        )
    return CurrentTarget(
        version.key, f"{name} is {version.key}, current since release {_since(releases, name)}"
    )


def _since(releases: Releases, name: str) -> int:
    with_it = (one.number for one in reversed(releases.history) if name in one.changed)
    return next(with_it, releases.history[0].number)


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


def _is_there(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if is_missing(error) or is_denied(error):
            return False
        raise
    return True
