"""Which models are loaded, as far as that is told: by the local service, or by CloudWatch."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.deploy.account import VARIANT
from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mmekit.deploy.account import Site
    from mmekit.deploy.samples import AskedModel

__all__ = ["are_loading", "loaded_before", "loaded_count", "loaded_on"]

_LOADED = ("loaded", "parked")
_LOADING = "loading"
_LOOKS_BACK, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_QUERIES = 500  # of one GetMetricData


def loaded_before(
    site: Site, models: Sequence[AskedModel], names: Mapping[str, Sequence[str]]
) -> tuple[list[AskedModel], str]:
    """Return the models that are worth asking, the most asked first, and by what that is known.

    Parameters
    ----------
    names
        What metrics call them, by their keys.
    """
    order = "their names' order" if all(one.file is None for one in models) else "the file's order"
    if not site.account.is_real:
        try:
            views = _view(site)
        except MmekitError as error:
            return list(models), f"{order}, as the local service does not tell ({error.what})"
        asked = {one.target: one.requests or 0 for one in views if _is_loaded(one.where)}
        return _of(models, asked), "those that were loaded before, the most asked first"
    if site.deployment.metrics != "models":
        return list(models), (
            f"{order}, as nothing says which were loaded (`metrics: models` would)"
        )
    try:
        found = _of(models, _requests(site, names))
    except (ClientError, BotoCoreError) as error:
        return list(models), f"{order}, as their metrics cannot be read ({error})"
    if not found:
        return list(models), f"{order}, as no model has told of a request in the last hour"
    return found, "those that were asked in the last hour, the most asked first, by their metrics"


def loaded_on(site: Site) -> dict[str, int]:
    """Return on how many instances each model is loaded, as the local service says."""
    return {
        one.target: len({where for where, state in one.where if state in _LOADED})
        for one in _view(site)
    }


def are_loading(site: Site, keys: Collection[str]) -> bool:
    """Say whether one of them is just being loaded somewhere, as the local service says."""
    return any(
        state == _LOADING for one in _view(site) if one.target in keys for _, state in one.where
    )


def loaded_count(site: Site, began: datetime) -> float | None:
    """Return how many models all instances have loaded; None where nothing was told since then.

    By whole minutes after it alone: the one in which it was has what was before, too.
    """
    since = began.replace(second=0, microsecond=0) + _MINUTE
    if datetime.now(timezone.utc) <= since:
        return None
    dimensions = {"EndpointName": site.name, "VariantName": VARIANT}
    metric = _metric("/aws/sagemaker/Endpoints", "LoadedModelCount", dimensions, "Sum", 60)
    values = _values(site, {"": metric}, since).get("", [])
    return values[0] if values else None


def _is_loaded(where: Sequence[tuple[str, str]]) -> bool:
    return any(state in _LOADED for _, state in where)


def _of(models: Sequence[AskedModel], asked: Mapping[str, int]) -> list[AskedModel]:
    """Return the models among those that were asked, whatever version of them it was."""
    found = []
    for model in models:
        mine = [
            count
            for target, count in asked.items()
            if target == model.key or _is_version(target, model.name)
        ]
        if mine:
            found.append((sum(mine), model))
    return [model for _, model in sorted(found, key=lambda one: -one[0])]


def _is_version(target: str, name: str) -> bool:
    stem = re.escape(name.removesuffix(".tar.gz"))
    return re.fullmatch(rf"{stem}(-[0-9a-f]{{12}})?\.tar\.gz", target) is not None


def _view(site: Site) -> Sequence[Any]:
    from mmekit.operate.endpoints import OperatedEndpoint
    from mmekit.operate.rehearsal import rehearsal_view

    asked = OperatedEndpoint(site.name, site.account.number, "", (VARIANT,), (site.data_url,))
    return rehearsal_view(site.account.settings, asked).models


def _requests(site: Site, names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return how often models were asked lately, by their keys: none that was not."""
    metrics = {
        name: _metric(
            "mmekit",
            "mme_model_requests_total",
            {"Endpoint": site.name, "Model": name},
            "Sum",
            int(_LOOKS_BACK.total_seconds()),
        )
        for called in names.values()
        for name in called
    }
    found = _values(site, metrics, datetime.now(timezone.utc) - _LOOKS_BACK)
    counts = {
        key: int(sum(sum(found.get(name, [])) for name in called)) for key, called in names.items()
    }
    return {key: count for key, count in counts.items() if count}


def _metric(
    namespace: str, name: str, dimensions: dict[str, str], statistic: str, period: int
) -> dict[str, Any]:
    members = [{"Name": key, "Value": value} for key, value in dimensions.items()]
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": members}
    return {"Metric": metric, "Period": period, "Stat": statistic}


def _values(
    site: Site, metrics: Mapping[str, dict[str, Any]], since: datetime
) -> dict[str, list[float]]:
    """Return the values of some metrics since then, the latest first."""
    # A request has whole seconds, and this one is not over.
    until = datetime.now(timezone.utc) + _MINUTE
    names = list(metrics)
    found: dict[str, list[float]] = {}
    for begin in range(0, len(names), _QUERIES):
        some = names[begin : begin + _QUERIES]
        queries = [
            {"Id": f"m{number}", "MetricStat": metrics[name]} for number, name in enumerate(some)
        ]
        answer = site.account.client("cloudwatch").get_metric_data(
            MetricDataQueries=queries, StartTime=since, EndTime=until
        )
        for one in answer["MetricDataResults"]:
            found[some[int(one["Id"][1:])]] = one["Values"]
    return found
