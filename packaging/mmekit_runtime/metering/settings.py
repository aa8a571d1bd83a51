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

_SECONDS = 60.0
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]*)?")
_EXPORTERS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


def endpoint_of(environ: Mapping[str, str]) -> str:
    """Return what the metrics' endpoint is called; nothing where no lines are wanted."""
    return environ.get(ENDPOINT_VARIABLE, "").strip()


def is_exporting(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name an exporter of metrics."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_METRICS_EXPORTER", "otlp").strip().lower() not in ("", "otlp"):
        return False
    return any(environ.get(name, "").strip() for name in _EXPORTERS)


def is_on(environ: Mapping[str, str]) -> bool:
    """Whether anything is counted."""
    return bool(endpoint_of(environ)) or is_exporting(environ)


def seconds_of(environ: Mapping[str, str]) -> float:
    """Return the seconds between two lines of a process."""
    text = environ.get(SECONDS_VARIABLE, "").strip()
    return float(text) if _NUMBER.fullmatch(text) else _SECONDS
