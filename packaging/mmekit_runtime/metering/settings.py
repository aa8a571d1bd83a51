"""The variables of a container that say what is counted."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ENDPOINT_VARIABLE = "MMEKIT_METRICS"
"""The endpoint's name, as the metrics have it; without one there are none."""
PER_VARIABLE = "MMEKIT_METRICS_PER"
"""``endpoint``, or ``models`` for metrics of each model, which CloudWatch bills one by one."""
SECONDS_VARIABLE = "MMEKIT_METRICS_SECONDS"

_SECONDS, _LEAST_SECONDS = 60.0, 0.01
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]*)?")
EXPORTERS = "opentelemetry.exporter.otlp.proto"
"""Where OpenTelemetry has its exporters."""

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


def endpoint_of(environ: Mapping[str, str]) -> str:
    """Return what the metrics' endpoint is called; nothing where no lines are wanted."""
    return environ.get(ENDPOINT_VARIABLE, "").strip()


def is_exporting(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name an exporter of metrics."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_METRICS_EXPORTER", "otlp").strip().lower() not in ("", "otlp"):
        return False
    return any(environ.get(name, "").strip() for name in _ENDPOINTS)


def protocol_of(environ: Mapping[str, str]) -> str:
    """Return how OpenTelemetry's exporter speaks: ``http`` or ``grpc``."""
    chosen = next((text for name in _PROTOCOLS if (text := environ.get(name, "").strip())), "")
    return "grpc" if chosen == "grpc" else "http"


def imports_of(environ: Mapping[str, str]) -> frozenset[str]:
    """Return what can be imported before the fork: a third of a second, and 15 MiB.

    Nothing of it starts a thread before it exports; what gRPC does is not for a fork.
    """
    if not is_exporting(environ) or protocol_of(environ) != "http":
        return frozenset()
    # The last is what the exporter imports when it is made.
    return frozenset({"opentelemetry.sdk.metrics", f"{EXPORTERS}.http.metric_exporter", "requests"})


def is_on(environ: Mapping[str, str]) -> bool:
    """Whether anything is counted."""
    return bool(endpoint_of(environ)) or is_exporting(environ)


def seconds_of(environ: Mapping[str, str]) -> float:
    """Return the seconds between two lines of a process."""
    text = environ.get(SECONDS_VARIABLE, "").strip()
    return max(_LEAST_SECONDS, float(text)) if _NUMBER.fullmatch(text) else _SECONDS
