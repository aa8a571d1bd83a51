"""The endpoint that is operated: by the same boto3 calls on the local service and on AWS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import is_missing
from mmekit.deploy.whereabouts import model_sources, no_such_endpoint

if TYPE_CHECKING:
    from mmekit.settings import Settings

__all__ = ["OperatedEndpoint", "find_endpoint", "log_group"]

_PAGES = 5


@dataclass(frozen=True)
class OperatedEndpoint:
    """An endpoint, as far as it has to be known to be watched.

    Attributes
    ----------
    name, account
        Its name, and the number of its account.
    status
        EndpointStatus, such as InService; ``Deleted`` where only its log is left.
    variants
        The names of its variants.
    data_urls
        The ModelDataUrl of each model of its variants: what target models are joined to.
    """

    name: str
    account: str
    status: str
    variants: tuple[str, ...]
    data_urls: tuple[str, ...]


def find_endpoint(settings: Settings, name: str, *, deleted: bool = False) -> OperatedEndpoint:
    """Look an endpoint up.

    Parameters
    ----------
    deleted
        Whether one that is gone, and whose log is there, will do.

    Raises
    ------
    EndpointError
        There is none: names those whose names are nearest.
    """
    sagemaker = settings.client("sagemaker", retries={"mode": "standard"})
    try:
        found = sagemaker.describe_endpoint(EndpointName=name)
    except ClientError as error:
        if not is_missing(error):
            raise
        if deleted and _has_log(settings, name):
            return OperatedEndpoint(name, "", "Deleted", (), ())
        raise no_such_endpoint(settings, name, _names(sagemaker)) from None
    config = found.get("EndpointConfigName", "")
    variants = [one["VariantName"] for one in found.get("ProductionVariants", [])]
    return OperatedEndpoint(
        name,
        found["EndpointArn"].split(":")[4],
        found["EndpointStatus"],
        tuple(variants),
        tuple(_data_urls(sagemaker, config)),
    )


def log_group(endpoint: str) -> str:
    """Return the name of the log group that SageMaker writes an endpoint's output to."""
    return f"/aws/sagemaker/Endpoints/{endpoint}"


def _data_urls(sagemaker: Any, config: str) -> list[str]:
    """Return where the models are; nothing where config or model are gone, as they may be."""
    urls: list[str] = []
    try:
        urls += (one.url for one in model_sources(sagemaker, config))
    except ClientError:
        return urls
    return urls


def _has_log(settings: Settings, name: str) -> bool:
    group = log_group(name)
    found = settings.client("logs").describe_log_groups(logGroupNamePrefix=group)
    return any(one["logGroupName"] == group for one in found["logGroups"])


def _names(sagemaker: Any) -> list[str]:
    names: list[str] = []
    for number, page in enumerate(sagemaker.get_paginator("list_endpoints").paginate()):
        names += [one["EndpointName"] for one in page["Endpoints"]]
        if number >= _PAGES:
            break
    return names
