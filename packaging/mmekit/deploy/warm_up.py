"""Models asked once after a deployment that gave new instances, on each of them, within a budget.

SageMaker has no call that says which models are loaded, nor one that asks a chosen instance. So
the local service is asked for the first, and on AWS the metrics that models publish; and a model is
asked several times at once, which its router spreads over the instances, until the count of loaded
models says that it is everywhere or the budget is spent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.archive.describe import example_of
from mmekit.deploy.account import VARIANT
from mmekit.deploy.step import Action, Step
from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.archive.package import Example
    from mmekit.deploy.account import Site
    from mmekit.deploy.models import PackedModel
    from mmekit.deploy.step import Report

__all__ = ["warmed_up"]

_AT_ONCE = 32  # calls of one model, and of all
_LOADED = ("loaded", "parked")
_LOADING = "loading"
_PAUSE_S = {True: 5.0, False: 0.2}  # of a real account, of the local service
_LOOKS_BACK, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_QUERIES = 500  # of one GetMetricData


def warmed_up(site: Site, endpoint: Step, models: Sequence[PackedModel]) -> Step:
    """Return the step of an endpoint that is changed, with its models asked afterwards."""
    chosen, perform = site.deployment.warm_up, endpoint.perform
    if chosen is None or perform is None or endpoint.action is not Action.CHANGE:
        return endpoint

    def change(report: Report) -> None:
        before, how = _loaded_before(site, models)
        perform(report)
        _warm_up(site, before[: chosen.models], chosen.seconds, how, report)

    note = f"then up to {chosen.models} models are asked, for {chosen.seconds:g} s at most"
    notes = "; ".join(filter(None, (endpoint.note, note)))
    return dataclasses.replace(endpoint, note=notes, perform=change)


@dataclass
class _Round:
    """What came of asking.

    Attributes
    ----------
    answered, failed
        The keys of models that answered, and those that did not, with what was said.
    """

    answered: set[str]
    failed: dict[str, str]


def _warm_up(
    site: Site, models: Sequence[PackedModel], seconds: float, how: str, report: Report
) -> None:
    deadline = time.monotonic() + seconds
    samples = {model.key: _sample(model) for model in models}
    asked = {key: sample for key, sample in samples.items() if sample is not None}
    dumb = len(samples) - len(asked)
    if dumb:
        report(f"warm-up: {dumb} of {len(samples)} models have no sample request, and are left out")
    if not asked:
        report("warm-up: no model to ask")
        return
    report(f"warm-up: {len(asked)} models, for {seconds:g} s at most: {how}")
    instances, began = _instances(site), datetime.now(timezone.utc)
    done = _Round(set(), {})
    at_once, missing = instances, dict(asked)
    while missing and time.monotonic() < deadline:
        # Twice as many each time: the router keeps to an instance that has a model until that one
        # is busy. What so many calls at once do not bring about, more would not.
        if at_once <= _AT_ONCE:
            _ask(site, missing, at_once, deadline, done)
            at_once *= 2
        elif not site.account.is_real and not _is_under_way(site, missing):
            break
        missing = _missing(site, asked, instances, done, began)
        if missing:
            time.sleep(max(0.0, min(_PAUSE_S[site.account.is_real], deadline - time.monotonic())))
    for key, said in sorted(done.failed.items()):
        report(f"warm-up: {key} did not answer: {said}")
    spent = seconds - max(0.0, deadline - time.monotonic())
    everywhere = len(asked) - len(missing) - len(done.failed)
    report(
        f"warm-up: {len(done.answered)} of {len(asked)} models answered after {spent:.0f} s; "
        f"{_reached(site, everywhere, len(missing), instances)}"
    )


def _reached(site: Site, everywhere: int, missing: int, instances: int) -> str:
    if instances == 1:
        return f"{everywhere} are loaded on the instance"
    if missing and site.account.is_real:
        return (
            f"whether they are loaded on all {instances} instances is not known: CloudWatch's "
            "LoadedModelCount did not say so in time"
        )
    kept = ""
    if missing:
        kept = f", {missing} on fewer: a model that is not busy is asked where it is"
    return f"{everywhere} are loaded on all {instances} instances{kept}"


def _ask(
    site: Site, missing: dict[str, Example], at_once: int, deadline: float, done: _Round
) -> None:
    """Ask each of some models, several times at once."""
    runtime = site.account.settings.client(
        "sagemaker-runtime",
        retries={"total_max_attempts": 1},
        # The budget ends a call, too.
        read_timeout=max(1.0, deadline - time.monotonic()),
        max_pool_connections=_AT_ONCE,
    )

    def invoke(key: str) -> str:
        sample = missing[key]
        if time.monotonic() > deadline:
            return ""
        try:
            runtime.invoke_endpoint(
                EndpointName=site.name,
                TargetModel=key,
                ContentType=sample.content_type,
                Body=sample.request.encode(),
            )["Body"].read()
        except (ClientError, BotoCoreError) as error:
            return str(error).splitlines()[0]
        done.answered.add(key)
        return ""

    with contextlib.closing(runtime), ThreadPoolExecutor(_AT_ONCE) as threads:
        keys = [key for key in missing for _ in range(at_once)]
        for key, said in zip(keys, threads.map(invoke, keys), strict=True):
            if said:
                done.failed.setdefault(key, said)
    for key in done.answered:
        done.failed.pop(key, None)


def _missing(
    site: Site, asked: dict[str, Example], instances: int, done: _Round, began: datetime
) -> dict[str, Example]:
    """Return the models that are not loaded everywhere, as far as that can be told."""
    left = {key: sample for key, sample in asked.items() if key not in done.failed}
    if instances == 1:
        return {key: sample for key, sample in left.items() if key not in done.answered}
    if site.account.is_real:
        count = _loaded_count(site, began)
        return {} if count is not None and count >= len(left) * instances else left
    places = {one.target: one.where for one in _view(site)}
    return {
        key: sample
        for key, sample in left.items()
        if len({where for where, state in places.get(key, ()) if state in _LOADED}) < instances
    }


def _is_under_way(site: Site, missing: dict[str, Example]) -> bool:
    return any(
        state == _LOADING for one in _view(site) if one.target in missing for _, state in one.where
    )


def _sample(model: PackedModel) -> Example | None:
    try:
        return example_of(model.path)
    except MmekitError:
        return None


def _loaded_before(site: Site, models: Sequence[PackedModel]) -> tuple[list[PackedModel], str]:
    """Return the models that are worth asking, the most asked first, and by what that is known."""
    if not site.account.is_real:
        try:
            views = _view(site)
        except MmekitError as error:
            return list(
                models
            ), f"the file's order, as the local service does not tell ({error.what})"
        asked = {one.target: one.requests or 0 for one in views if _is_loaded(one.where)}
        return _of(models, asked), "those that were loaded before, the most asked first"
    if site.deployment.metrics != "models":
        return list(models), (
            "the file's order, as nothing says which were loaded (`metrics: models` would)"
        )
    try:
        found = _of(models, _requests(site, models))
    except (ClientError, BotoCoreError) as error:
        return list(models), f"the file's order, as their metrics cannot be read ({error})"
    if not found:
        return list(models), "the file's order, as no model has told of a request in the last hour"
    return found, "those that were asked in the last hour, the most asked first, by their metrics"


def _is_loaded(where: Sequence[tuple[str, str]]) -> bool:
    return any(state in _LOADED for _, state in where)


def _of(models: Sequence[PackedModel], asked: dict[str, int]) -> list[PackedModel]:
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


def _instances(site: Site) -> int:
    found = site.account.client("sagemaker").describe_endpoint(EndpointName=site.name)
    counts = [int(one.get("CurrentInstanceCount", 0)) for one in found["ProductionVariants"]]
    return max(sum(counts), 1)


def _metric(
    namespace: str, name: str, dimensions: dict[str, str], statistic: str, period: int
) -> dict[str, Any]:
    members = [{"Name": key, "Value": value} for key, value in dimensions.items()]
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": members}
    return {"Metric": metric, "Period": period, "Stat": statistic}


def _values(
    site: Site, metrics: dict[str, dict[str, Any]], since: datetime
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


def _requests(site: Site, models: Sequence[PackedModel]) -> dict[str, int]:
    """Return how often models were asked lately, by their keys: none that was not."""
    metrics = {
        model.key: _metric(
            "mmekit",
            "mme_model_requests_total",
            {"Endpoint": site.name, "Model": model.manifest.name},
            "Sum",
            int(_LOOKS_BACK.total_seconds()),
        )
        for model in models
        if model.manifest is not None
    }
    since = datetime.now(timezone.utc) - _LOOKS_BACK
    counts = {key: int(sum(values)) for key, values in _values(site, metrics, since).items()}
    return {key: count for key, count in counts.items() if count}


def _loaded_count(site: Site, began: datetime) -> float | None:
    """Return how many models all instances have loaded; None where nothing was told yet.

    By whole minutes after the beginning alone: the one before is that of the old instances, too.
    """
    since = began.replace(second=0, microsecond=0) + _MINUTE
    if datetime.now(timezone.utc) <= since:
        return None
    dimensions = {"EndpointName": site.name, "VariantName": VARIANT}
    metric = _metric("/aws/sagemaker/Endpoints", "LoadedModelCount", dimensions, "Sum", 60)
    values = _values(site, {"": metric}, since).get("", [])
    return values[0] if values else None
