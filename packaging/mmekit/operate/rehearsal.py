"""What the local service tells of an endpoint: GET /_mme/top."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from mmekit.errors import EndpointError
from mmekit.operate.causes import FailureCause
from mmekit.operate.views import EndpointView, InstanceView, ModelView

if TYPE_CHECKING:
    from mmekit.operate.endpoints import OperatedEndpoint
    from mmekit.settings import Settings

__all__ = ["rehearsal_view", "view_of"]

_PATIENCE_S = 30.0


def rehearsal_view(settings: Settings, endpoint: OperatedEndpoint) -> EndpointView:
    """Ask the local service.

    Raises
    ------
    EndpointError
        It does not answer, or does not know the endpoint.
    """
    asked = {"endpoint": endpoint.name, "account": endpoint.account, "region": settings.region}
    query = urllib.parse.urlencode(asked)
    url = f"{settings.local_url}/_mme/top?{query}"
    # A proxy of the user's would be in the way, as it is for boto3.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_PATIENCE_S) as answer:
            content: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read(1000).decode(errors="replace").strip()
        raise EndpointError(
            f"The local service answered {error.code}: {said}",
            where=url,
            remedy="Start `mme up` of this version anew, or add --source cloudwatch.",
        ) from error
    except (OSError, ValueError) as error:
        remedy = "Start the local service: mme up. MME_LOCAL_URL names another address."
        raise EndpointError(
            f"The local service does not answer: {error}.", where=url, remedy=remedy
        ) from error
    return view_of(content, endpoint.status)


def view_of(content: dict[str, Any], status: str) -> EndpointView:
    """Return what the service's JSON says."""
    prefix = f"{content['endpoint']}/"
    models = tuple(
        ModelView(
            one["target"],
            tuple(
                (place["instance"].removeprefix(prefix), place["state"]) for place in one["where"]
            ),
            one["requests"],
            one["errors"],
            one["hits"],
            one["coldLoads"],
            one["p50Ms"],
            one["p99Ms"],
            one["memoryBytes"],
        )
        for one in content["models"]
    )
    instances = tuple(
        InstanceView(
            one["variant"],
            one["instance"].removeprefix(prefix),
            one["memoryBytes"],
            one["memoryLimit"],
            one["loaded"],
            one["parked"],
        )
        for one in content["instances"]
    )
    failures = (
        FailureCause(
            one["cause"],
            one["target"] or "",
            one["status"],
            one["count"],
            one["first"],
            one["last"],
            one["example"] or "",
            one["targets"],
        )
        for one in content["errors"]
    )
    return EndpointView(
        content["endpoint"],
        status,
        content.get("at", time.time()),
        content["windowSeconds"],
        "service",
        instances,
        models,
        tuple(failures),
        requests=sum(one.requests or 0 for one in models),
        errors=sum(one.errors or 0 for one in models),
        cold_loads=sum(one.cold_loads or 0 for one in models),
        hit_rate=content["hitRate"],
    )
