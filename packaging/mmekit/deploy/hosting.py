"""Model and endpoint config: both never change; a difference makes new ones."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import TAG, VARIANT, code_of, is_missing, metrics_of, tags
from mmekit.deploy.step import Action, Report, Step, differences

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmekit.deploy.account import Site

__all__ = [
    "Hosting",
    "own_configs",
    "own_data_urls",
    "own_models",
    "plan_hosting",
    "published_metrics",
    "removal_of",
]

_DIGITS = 8
_TRIES = 24
_BETWEEN_TRIES_S = 5.0
# What CreateModel says until a new role is known everywhere.
_ROLE_IS_NEW = ("Could not assume role", "Could not access model data")


@dataclass(frozen=True)
class Hosting:
    """What is to serve.

    Attributes
    ----------
    config
        Name of the endpoint config.
    steps
        What makes it and its model.
    leftovers
        Configs and models of this deployment that nothing needs once the config is in service.
    changes_instance_type
        Whether the endpoint has instances of another type now.
    """

    config: str
    steps: tuple[Step, ...]
    leftovers: tuple[Step, ...]
    changes_instance_type: bool


def plan_hosting(
    site: Site, current: str | None, renewed: Mapping[str, str], *, is_scaled: bool = False
) -> Hosting:
    """Plan model and endpoint config.

    Parameters
    ----------
    current
        The config that the endpoint has; None when there is no endpoint to keep.
    renewed
        Archives that took an old one's key since that config was made, and their hashes:
        instances may still have the old ones, so there have to be new instances.
    is_scaled
        Whether autoscaling says how many instances there are: then the file's number, which is
        that of the beginning, is no reason for a new config.
    """
    model = _wanted_model(site)
    model_name = f"{site.name}-{_digest(model)}"
    wanted = _wanted_config(site, model_name)
    before = None if current is None else _config_state(site, current)
    if is_scaled and before is not None:
        wanted["instances"] = before["instances"]
    is_current = before == wanted and not renewed
    # The name says what it is and what it follows, so that it is new, and the same when an
    # interrupted run is run again.
    new = f"{site.name}-{_digest([wanted, current, sorted(renewed.items())])}"
    config = current if is_current and current is not None else new
    steps = (
        _model_step(site, model_name, model, None if before is None else before["model"]),
        _config_step(site, config, wanted, before, renewed),
    )
    leftovers = [
        *(removal_of(site, "endpoint config", name) for name in own_configs(site) - {config}),
        *(removal_of(site, "model", name) for name in own_models(site) - {model_name}),
    ]
    other_type = before is not None and before["instance type"] != wanted["instance type"]
    return Hosting(config, steps, tuple(leftovers), other_type)


def own_configs(site: Site) -> set[str]:
    """Return the names of the endpoint configs that the deployment made."""
    return set(_own(site, "list_endpoint_configs", "EndpointConfigs", "EndpointConfig"))


def own_models(site: Site) -> set[str]:
    """Return the names of the models that the deployment made."""
    return set(_own(site, "list_models", "Models", "Model"))


def own_data_urls(site: Site) -> set[str]:
    """Return where the models that the deployment made have their archives."""
    states = (_model_state(site, name) for name in own_models(site))
    return {state["models"] for state in states if state is not None}


def published_metrics(site: Site, config: str) -> str:
    """Return what the containers of an endpoint config publish: none, endpoint or models."""
    state = _config_state(site, config)
    model = None if state is None or not state["model"] else _model_state(site, state["model"])
    environment = {} if model is None else model["environment"]
    return metrics_of(environment)


def removal_of(site: Site, kind: str, name: str) -> Step:
    """Plan to remove a config or a model."""

    def remove(_: Report) -> None:
        sagemaker = site.account.client("sagemaker")
        try:
            if kind == "model":
                sagemaker.delete_model(ModelName=name)
            else:
                sagemaker.delete_endpoint_config(EndpointConfigName=name)
        except ClientError as error:
            if not is_missing(error):
                raise

    return Step(Action.REMOVE, kind, name, perform=remove)


def _own(site: Site, operation: str, listing: str, member: str) -> Iterator[str]:
    sagemaker = site.account.client("sagemaker")
    for page in sagemaker.get_paginator(operation).paginate(NameContains=f"{site.name}-"):
        for listed in page[listing]:
            # The filter also finds the names of others, such as my-NAME-x.
            found = sagemaker.list_tags(ResourceArn=listed[f"{member}Arn"])["Tags"]
            if {"Key": TAG, "Value": site.name} in found:
                yield listed[f"{member}Name"]


def _wanted_model(site: Site) -> dict[str, Any]:
    network = site.deployment.network
    model: dict[str, Any] = {
        "image": site.image,
        "models": site.data_url,
        "environment": site.environment,
        "role": site.role,
    }
    if network is not None:
        # In another order they are the same network, and need no new model.
        model["subnets"] = sorted(network.subnets)
        model["security groups"] = sorted(network.security_groups)
    return model


def _wanted_config(site: Site, model_name: str) -> dict[str, Any]:
    return {
        "model": model_name,
        "instance type": site.deployment.instance_type,
        "instances": site.deployment.first_instances,
        "key": site.deployment.kms_key,
        "volume": site.deployment.volume_gb,
    }


def _model_state(site: Site, name: str) -> dict[str, Any] | None:
    try:
        found = site.account.client("sagemaker").describe_model(ModelName=name)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    # CreateModel takes the one container in either form.
    container = found.get("PrimaryContainer") or (found.get("Containers") or [{}])[0]
    model: dict[str, Any] = {
        "image": container.get("Image"),
        "models": container.get("ModelDataUrl"),
        "environment": container.get("Environment", {}),
        "role": found.get("ExecutionRoleArn"),
    }
    network = found.get("VpcConfig")
    if network:
        model["subnets"] = sorted(network["Subnets"])
        model["security groups"] = sorted(network["SecurityGroupIds"])
    return model


def _config_state(site: Site, name: str) -> dict[str, Any] | None:
    try:
        found = site.account.client("sagemaker").describe_endpoint_config(EndpointConfigName=name)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    variant = found["ProductionVariants"][0]
    return {
        "model": variant.get("ModelName"),
        "instance type": variant.get("InstanceType"),
        "instances": variant.get("InitialInstanceCount"),
        "key": found.get("KmsKeyId"),
        "volume": variant.get("VolumeSizeInGB"),
    }


def _model_step(site: Site, name: str, wanted: dict[str, Any], before: str | None) -> Step:
    if _model_state(site, name) is not None:
        return Step(Action.KEEP, "model", name)

    def make(_: Report) -> None:
        _make_model(site, name, wanted)

    old = None if before is None else _model_state(site, before)
    if old is None:
        return Step(Action.CREATE, "model", name, perform=make)
    found = differences(old, wanted)
    return Step(Action.CHANGE, "model", name, found, note=f"instead of {before}", perform=make)


def _config_step(
    site: Site,
    name: str,
    wanted: dict[str, Any],
    before: dict[str, Any] | None,
    renewed: Mapping[str, str],
) -> Step:
    def make(_: Report) -> None:
        _make_config(site, name, wanted)

    if _config_state(site, name) is not None:
        return Step(Action.KEEP, "endpoint config", name)
    if before is None:
        return Step(Action.CREATE, "endpoint config", name, perform=make)
    note = f"for new instances: {', '.join(sorted(renewed))} replaced" if renewed else ""
    found = differences(before, wanted)
    return Step(Action.CHANGE, "endpoint config", name, found, note=note, perform=make)


def _make_model(site: Site, name: str, wanted: dict[str, Any]) -> None:
    network = site.deployment.network
    request: dict[str, Any] = {
        "ModelName": name,
        "ExecutionRoleArn": wanted["role"],
        "PrimaryContainer": {
            "Image": wanted["image"],
            "Mode": "MultiModel",
            "ModelDataUrl": wanted["models"],
            "Environment": wanted["environment"],
        },
        "Tags": tags(site.deployment),
    }
    if network is not None:
        request["VpcConfig"] = {
            "Subnets": list(network.subnets),
            "SecurityGroupIds": list(network.security_groups),
        }
    for left in reversed(range(_TRIES)):
        try:
            site.account.client("sagemaker").create_model(**request)
        except ClientError as error:
            is_new = any(said in str(error) for said in _ROLE_IS_NEW)
            if code_of(error) != "ValidationException" or not is_new or not left:
                raise
            time.sleep(_BETWEEN_TRIES_S)
        else:
            return


def _make_config(site: Site, name: str, wanted: dict[str, Any]) -> None:
    variant: dict[str, Any] = {
        "VariantName": VARIANT,
        "ModelName": wanted["model"],
        "InstanceType": wanted["instance type"],
        "InitialInstanceCount": wanted["instances"],
        "InitialVariantWeight": 1.0,
    }
    if wanted["volume"] is not None:
        variant["VolumeSizeInGB"] = wanted["volume"]
    encrypted = {} if wanted["key"] is None else {"KmsKeyId": wanted["key"]}
    site.account.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant],
        Tags=tags(site.deployment),
        **encrypted,
    )


def _digest(content: dict[str, Any] | Sequence[Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
