"""The whereabouts of an endpoint: its account and region, and where its models are.

And, of one that is not there, which may have been meant.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit.deploy.deployment import read_deployment
from mmekit.errors import EndpointError
from mmekit.plural import are, counted
from mmekit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "ModelSource",
    "Whereabouts",
    "choice",
    "model_sources",
    "nearest",
    "no_such_endpoint",
    "whereabouts",
]

_SHOWN = 5
_NEAR = 3


@dataclass(frozen=True)
class Whereabouts:
    """An endpoint and how it is reached.

    Attributes
    ----------
    name
        The endpoint's.
    settings
        Those of its account and region.
    profile
        The AWS profile that its deployment file names; None for AWS's own choice.
    """

    name: str
    settings: Settings
    profile: str | None = None


@dataclass(frozen=True)
class ModelSource:
    """What a container of an endpoint serves.

    Attributes
    ----------
    url
        Its ModelDataUrl; empty for none.
    is_multi
        Whether the URL is what target models are joined to.
    """

    url: str
    is_multi: bool


def whereabouts(named: str) -> Whereabouts:
    """Return the endpoint of a name, or of a deployment file: with its region and profile.

    No name of an endpoint has a dot or a slash, and every file has one here.

    Raises
    ------
    DeployError
        It is no deployment file.
    EndpointError
        There is no such file.
    SettingsError
        A setting is not what it may be.
    """
    if "." not in named and "/" not in named:
        return Whereabouts(named, Settings())
    file = Path(named)
    if not file.is_file():
        raise EndpointError(
            "It is no name of an endpoint, and there is no such deployment file.",
            where=named,
            remedy="Give the endpoint's name, or the file that `mme deploy` is given.",
        )
    deployment = read_deployment(file)
    region: dict[str, Any] = {} if deployment.region is None else {"region": deployment.region}
    settings = Settings(profile=deployment.profile, **region)
    return Whereabouts(deployment.name, settings, deployment.profile)


def model_sources(sagemaker: Any, config: str) -> Iterator[ModelSource]:
    """Yield what the containers of an endpoint config serve, in the order of its variants.

    Raises
    ------
    ClientError
        A config or model is gone, or may not be looked at.
    """
    described = sagemaker.describe_endpoint_config(EndpointConfigName=config)
    for variant in described["ProductionVariants"]:
        if "ModelName" not in variant:
            continue
        model = sagemaker.describe_model(ModelName=variant["ModelName"])
        first = model.get("PrimaryContainer")
        for container in [*([first] if first else []), *model.get("Containers", [])]:
            url = str(container.get("ModelDataUrl", ""))
            yield ModelSource(url, container.get("Mode") == "MultiModel")


def no_such_endpoint(settings: Settings, name: str, names: Iterable[str]) -> EndpointError:
    """Return the error for an endpoint that is not there, with those that are."""
    local = f"the local service, {settings.local_url}"
    return EndpointError(
        f"There is no endpoint {name}",
        where=local if settings.target == "local" else f"AWS, {settings.region}",
        remedy=choice(name, names, "endpoint") or "make one: mme deploy",
    )


def choice(wanted: str, names: Iterable[str], kind: str) -> str | None:
    """Return the nearest names, and how many there are; None where there are none.

    Examples
    --------
    >>> choice("rigde", ["ridge", "tree"], "model")
    'did you mean ridge? There are 2 models: ridge, tree'
    """
    names = sorted(names)
    if not names:
        return None
    near = nearest(wanted, names)
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    there = f"{are(len(names))} {counted(len(names), kind)}: {shown}{more}"
    return f"did you mean {' or '.join(near)}? There {there}" if near else f"there {there}"


def nearest(wanted: str, names: Iterable[str]) -> list[str]:
    """Return the names that one may have meant, the likeliest first: few, or none.

    Examples
    --------
    >>> nearest("Ridge", ["ridge.tar.gz", "bridge.tar.gz", "tree.tar.gz"])
    ['ridge.tar.gz', 'bridge.tar.gz']
    """
    by_lower = {name.lower(): name for name in names}
    lower = wanted.lower()
    near = difflib.get_close_matches(lower, by_lower, _NEAR, cutoff=0.6)
    # Without its suffix, a name is far from its own by letters.
    inside = [one for one in by_lower if one and (lower in one or one in lower)]
    inside.sort(key=lambda one: (not one.startswith(lower), one))
    return [by_lower[one] for one in dict.fromkeys([*near, *inside])][:_NEAR]
