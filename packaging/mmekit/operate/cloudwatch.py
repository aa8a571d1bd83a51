"""What CloudWatch tells of an endpoint: metrics by variant, and the log by model and failure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mmekit.operate.causes import FailureCause, cause_of, grouped
from mmekit.operate.lines import LineReader, failures_among
from mmekit.operate.metered import is_metered, metered_models
from mmekit.operate.views import EndpointView, InstanceView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit.operate.endpoints import OperatedEndpoint
    from mmekit.operate.lines import ContainerLine
    from mmekit.settings import Settings

__all__ = ["WINDOW_S", "cloudwatch_view"]

WINDOW_S = 300
_MINUTE_S = 60
_PERIOD_S = WINDOW_S + _MINUTE_S
_PAGES = 20
_INVOCATIONS, _INSTANCES = "AWS/SageMaker", "/aws/sagemaker/Endpoints"
_METRICS = (
    # Name here, namespace, metric, statistic.
    ("requests", _INVOCATIONS, "Invocations", "Sum"),
    ("errors4", _INVOCATIONS, "Invocation4XXErrors", "Sum"),
    ("errors5", _INVOCATIONS, "Invocation5XXErrors", "Sum"),
    ("hits", _INVOCATIONS, "ModelCacheHit", "Sum"),
    ("lookups", _INVOCATIONS, "ModelCacheHit", "SampleCount"),
    ("loads", _INVOCATIONS, "ModelLoadingTime", "SampleCount"),
    ("p50", _INVOCATIONS, "ModelLatency", "p50"),
    ("p99", _INVOCATIONS, "ModelLatency", "p99"),
    ("loaded", _INSTANCES, "LoadedModelCount", "Average"),
)
_UNMETERED = (
    "Figures of single models are in no metric of SageMaker's. Model processes write them into the "
    "log with MMEKIT_METRICS=<endpoint name> among the container's environment variables "
    "(`metrics: endpoint` in mme.yaml)."
)
_WHERE = "Which models are loaded where, AWS does not tell: a model is where it wrote figures."


@dataclass(frozen=True)
class _Variant:
    name: str
    figures: dict[str, float]

    def sum_of(self, *names: str) -> float:
        return sum(self.figures.get(name, 0.0) for name in names)


def cloudwatch_view(settings: Settings, endpoint: OperatedEndpoint) -> EndpointView:
    """Read the last five minutes; CloudWatch has them a minute or two late."""
    now = time.time()
    variants = _variants(settings, endpoint, now)
    reader = LineReader(settings, endpoint.name, int((now - WINDOW_S) * 1000), pages=_PAGES)
    lines = reader.read()
    models = metered_models(lines)
    lookups = sum(one.sum_of("lookups") for one in variants)
    notes = [_WHERE] if models else [_UNMETERED]
    if reader.was_cut:
        notes.append("The log of these minutes is too long: only its beginning was read.")
    most = max(variants, key=lambda one: one.sum_of("requests"), default=_Variant("", {}))
    if len(variants) > 1:
        notes.append(f"Latencies are those of variant {most.name}, which is asked most.")
    return EndpointView(
        endpoint.name,
        endpoint.status,
        now,
        WINDOW_S,
        "cloudwatch",
        tuple(
            InstanceView(one.name, "(average)", loaded=one.figures.get("loaded"))
            for one in variants
        ),
        models,
        _failures(lines),
        requests=round(sum(one.sum_of("requests") for one in variants)),
        errors=round(sum(one.sum_of("errors4", "errors5") for one in variants)),
        cold_loads=round(sum(one.sum_of("loads") for one in variants)),
        hit_rate=sum(one.sum_of("hits") for one in variants) / lookups if lookups else None,
        p50_ms=_milliseconds(most.figures.get("p50")),
        p99_ms=_milliseconds(most.figures.get("p99")),
        notes=tuple(notes),
    )


def _variants(settings: Settings, endpoint: OperatedEndpoint, now: float) -> list[_Variant]:
    if not endpoint.variants:
        return []
    # To whole minutes, as CloudWatch rounds them: one period has it all.
    start = now // _MINUTE_S * _MINUTE_S - WINDOW_S
    client = settings.client("cloudwatch", retries={"mode": "standard"})
    found: dict[str, dict[str, float]] = {name: {} for name in endpoint.variants}
    queries = {
        f"v{number}_{name}": (variant, name, _query(endpoint.name, variant, *metric))
        for number, variant in enumerate(endpoint.variants)
        for name, *metric in _METRICS
    }
    pages = client.get_paginator("get_metric_data").paginate(
        MetricDataQueries=[
            {"Id": key, "MetricStat": metric} for key, (_, _, metric) in queries.items()
        ],
        StartTime=datetime.fromtimestamp(start, timezone.utc),
        EndTime=datetime.fromtimestamp(start + _PERIOD_S, timezone.utc),
    )
    for page in pages:
        for result in page["MetricDataResults"]:
            variant, name, metric = queries[result["Id"]]
            if result["Values"]:
                value = _joined(metric["Stat"], result["Values"])
                before = found[variant].get(name)
                found[variant][name] = (
                    value if before is None else _joined(metric["Stat"], [before, value])
                )
    return [_Variant(name, figures) for name, figures in found.items()]


def _query(endpoint: str, variant: str, namespace: str, metric: str, stat: str) -> dict[str, Any]:
    dimensions = [
        {"Name": "EndpointName", "Value": endpoint},
        {"Name": "VariantName", "Value": variant},
    ]
    named = {"Namespace": namespace, "MetricName": metric, "Dimensions": dimensions}
    return {"Metric": named, "Period": _PERIOD_S, "Stat": stat}


def _joined(stat: str, values: list[float]) -> float:
    """Return one figure of several periods, where CloudWatch begins them elsewhere than asked."""
    if stat in ("Sum", "SampleCount"):
        return sum(values)
    return values[0] if stat == "Average" else max(values)


def _failures(lines: Iterable[ContainerLine]) -> tuple[FailureCause, ...]:
    return grouped(
        FailureCause(
            cause_of(line.cause), line.worker, None, 1, line.at / 1e3, line.at / 1e3, line.cause
        )
        for line in failures_among(line for line in lines if not is_metered(line))
    )


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1000
