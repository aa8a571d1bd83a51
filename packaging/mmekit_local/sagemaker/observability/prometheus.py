"""The endpoints' metrics in Prometheus' text format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from mmekit_runtime.metering.meter import COLUMN_COUNTS, COUNTS, DISTRIBUTIONS, MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmekit_local.sagemaker.observability.embedded_metrics import ModelFigure
    from mmekit_local.sagemaker.observability.metrics import VariantMetrics
    from mmekit_local.sagemaker.observability.monitor import EndpointMonitor
    from mmekit_local.sagemaker.observability.observations import BatchSummary
    from mmekit_local.sagemaker.snapshot import InstanceSnapshot

__all__ = ["CONTENT_TYPE", "prometheus_text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_VARIANT = ("account", "region", "endpoint", "variant")
_INSTANCE = (*_VARIANT, "instance")
_MODEL = ("account", "region", "endpoint", "model")
_MICROSECONDS = 1e6

_MODEL_COUNTERS = (
    (COUNTS["requests"], "Requests that model processes answered"),
    (COUNTS["errors"], "Those with a status from 400"),
    (COUNTS["refused"], "Those that the handler could not read (400, 406, 415)"),
    (COUNTS["loads"], "Loads"),
    (COUNTS["parks"], "How often the model gave back its process"),
    (COUNTS["wakes"], "How often it was woken"),
)
_MODEL_SUMMARIES = (
    (DISTRIBUTIONS["batch"][0], "Requests of a call of the handler"),
    (DISTRIBUTIONS["queue"][0], "Time that requests waited in the process"),
    (DISTRIBUTIONS["predict"][0], "Time that calls of the handler took"),
    (DISTRIBUTIONS["load"][0], "Time of a load"),
)
_COLUMN_COUNTERS = (
    (COLUMN_COUNTS["missing"], "Cells of a column without a value"),
    (COLUMN_COUNTS["unseen"], "Cells with a category that was not there in training"),
    (COLUMN_COUNTS["refused"], "Requests that were refused for a column"),
)

_TIMES: tuple[tuple[str, str, Callable[[VariantMetrics], BatchSummary]], ...] = (
    ("model", "Time that containers took to answer", lambda m: m.model_latency),
    ("overhead", "Time that the endpoint added", lambda m: m.overhead_latency),
    ("setup", "Time to bring up a serverless instance", lambda m: m.setup),
    ("model_loading_wait", "Time that requests waited for a model", lambda m: m.loading_wait),
    ("model_downloading", "Time to download a model", lambda m: m.downloading),
    ("model_loading", "Time to load a model", lambda m: m.loading),
    ("model_unloading", "Time to unload a model", lambda m: m.unloading),
)
_GAUGES: tuple[tuple[str, str, Callable[[InstanceSnapshot], float | None]], ...] = (
    (
        "models_loaded",
        "Models that the container has loaded, parked or not",
        lambda i: sum(m.state == "loaded" for m in i.models),
    ),
    (
        "models_parked",
        "Loaded models that have given back their process, where the container tells",
        lambda i: sum(m.parking is not None and m.parking.since is not None for m in i.models),
    ),
    ("models_on_disk", "Models on disk, loaded ones included", lambda i: len(i.models)),
    ("requests_in_flight", "Requests being answered", lambda i: i.in_flight),
    ("cpu_cores", "Processor cores in use", lambda i: i.cpu_percent / 100.0),
    ("memory_bytes", "Proportional memory of all processes", lambda i: i.memory_bytes),
    ("memory_limit_bytes", "Memory that models may take", lambda i: i.memory_limit),
    ("disk_bytes", "Disk that models take", lambda i: i.disk_bytes),
    ("disk_limit_bytes", "Disk that models may take", lambda i: i.disk_limit),
)


def prometheus_text(monitor: EndpointMonitor) -> bytes:
    """Return all metrics."""
    registry = CollectorRegistry()
    registry.register(_EndpointCollector(monitor))
    return generate_latest(registry)


class _EndpointCollector:
    """Yields the metrics; prometheus_client's interface for one's own collector."""

    def __init__(self, monitor: EndpointMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        variants = [(_labels(metrics), metrics) for metrics in self._monitor.metrics]
        yield from _counters(variants)
        for name, text, summary_of in _TIMES:
            family = SummaryMetricFamily(f"mme_{name}_seconds", text, labels=_VARIANT)
            for labels, metrics in variants:
                values = summary_of(metrics)
                family.add_metric(labels, values.ever, values.total_ever / _MICROSECONDS)
            yield family
        yield _latency(variants)
        yield from _models(self._monitor.metrics.embedded.figures())
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        instances = [
            ((endpoint.account, endpoint.region, endpoint.name, variant.name, one.label), one)
            for endpoint, fleet in self._monitor.snapshots().items()
            for variant in fleet.variants
            for one in variant.instances
        ]
        for name, text, value_of in _GAUGES:
            family = GaugeMetricFamily(f"mme_instance_{name}", text, labels=_INSTANCE)
            for labels, instance in instances:
                value = value_of(instance)
                if value is not None:
                    family.add_metric(labels, value)
            yield family


def _models(figures: Mapping[ModelFigure, tuple[float, float, float]]) -> list[Metric]:
    """Return what models tell of themselves, where MMEKIT_METRICS has them do so."""
    families: dict[tuple[str, bool], Any] = {
        (name, False): CounterMetricFamily(name, text, labels=_MODEL)
        for name, text in _MODEL_COUNTERS
    }
    for name, text in _MODEL_SUMMARIES:
        families[name, False] = SummaryMetricFamily(name, text, labels=_MODEL)
    families[MEMORY, False] = GaugeMetricFamily(
        MEMORY, "Memory of the model process that told last", labels=_MODEL
    )
    for name, text in _COLUMN_COUNTERS:
        families[name, True] = CounterMetricFamily(name, text, labels=(*_MODEL, "column"))
    for figure, (count, total, last) in figures.items():
        name, is_column = figure.name, bool(figure.column)
        family = families.get((name, is_column))
        if family is None:
            continue
        labels = [*figure.endpoint, figure.model, *([figure.column] if is_column else [])]
        if isinstance(family, SummaryMetricFamily):
            family.add_metric(labels, int(count), total)
        else:
            family.add_metric(labels, last if isinstance(family, GaugeMetricFamily) else total)
    return [family for family in families.values() if family.samples]


def _labels(metrics: VariantMetrics) -> tuple[str, ...]:
    return (*metrics.endpoint, metrics.variant)


def _counters(variants: Sequence[tuple[tuple[str, ...], VariantMetrics]]) -> list[Metric]:
    invocations = CounterMetricFamily("mme_invocations", "Invocations", labels=_VARIANT)
    errors = CounterMetricFamily(
        "mme_invocation_errors",
        "Invocations that ended with an error, by class (4xx, 5xx)",
        labels=(*_VARIANT, "class"),
    )
    model_errors = CounterMetricFamily(
        "mme_invocation_model_errors", "Errors that the model's container gave", labels=_VARIANT
    )
    lookups = CounterMetricFamily(
        "mme_model_cache_lookups", "Invocations that needed a model in memory", labels=_VARIANT
    )
    hits = CounterMetricFamily(
        "mme_model_cache_hits", "Invocations that found it there", labels=_VARIANT
    )
    for labels, metrics in variants:
        invocations.add_metric(labels, metrics.invocations.ever)
        errors.add_metric((*labels, "4xx"), metrics.client_errors.ever)
        errors.add_metric((*labels, "5xx"), metrics.server_errors.ever)
        model_errors.add_metric(labels, metrics.model_errors.ever)
        lookups.add_metric(labels, metrics.cache_hit.ever)
        hits.add_metric(labels, metrics.cache_hit.total_ever)
    return [invocations, errors, model_errors, lookups, hits]


def _latency(variants: Sequence[tuple[tuple[str, ...], VariantMetrics]]) -> Metric:
    family = HistogramMetricFamily(
        "mme_invocation_seconds", "Time from a request to its answer", labels=_VARIANT
    )
    for labels, metrics in variants:
        total = metrics.model_latency.total_ever + metrics.overhead_latency.total_ever
        buckets = [(f"{edge:.9g}", float(count)) for edge, count in metrics.latency.by_octave()]
        buckets.append(("+Inf", float(metrics.latency.count)))
        family.add_metric(labels, buckets, total / _MICROSECONDS)
    return family
