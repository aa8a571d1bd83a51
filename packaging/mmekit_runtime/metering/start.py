"""Which meter a process gets, by its environment."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit_runtime.metering.current import CURRENT
from mmekit_runtime.metering.emf import MetricLines
from mmekit_runtime.metering.meter import ModelMeter
from mmekit_runtime.metering.output import ServerOutput
from mmekit_runtime.metering.settings import (
    PER_VARIABLE,
    endpoint_of,
    is_exporting,
    is_on,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_runtime.metering.meter import EventSink

_logger = logging.getLogger()

_NAME = "modelName"
"""``option.modelName`` in serving.properties, as it reaches a handler; packing writes it."""


def start_meter(server: int) -> ModelMeter | None:
    """Count from now on, if the environment says so.

    Parameters
    ----------
    server
        The process into whose output lines go.
    """
    if not is_on(os.environ):
        return None
    endpoint = endpoint_of(os.environ)
    lines = None
    if endpoint:
        per = os.environ.get(PER_VARIABLE, "").strip() or "endpoint"
        if per not in ("endpoint", "models"):
            _logger.warning(
                "mmekit: %s is %r, and counts as endpoint: expected endpoint or models",
                PER_VARIABLE,
                per[:40],
            )
        lines = MetricLines(ServerOutput(server), endpoint, per_model=per == "models")
    CURRENT.meter = ModelMeter(lines, seconds_of(os.environ), _private_bytes)
    return CURRENT.meter


def name_model(meter: ModelMeter, properties: Mapping[str, Any], folder: str | None = None) -> None:
    """Call a model what its package calls it, else what its folder is called: it is loaded now."""
    try:
        name = properties.get(_NAME) or Path(folder or os.getcwd()).name  # noqa: PTH109
    except OSError:  # the folder is gone
        name = None
    meter.model = str(name or "model")
    if is_exporting(os.environ):
        meter.events = _telemetry(meter.model)


def start_on_plain_engine(properties: Mapping[str, Any], folder: str) -> None:
    """Have handlers count from now on, where this process is DJL's own engine."""
    is_engine = any(argument.endswith("djl_python_engine.py") for argument in sys.argv[:1])
    if CURRENT.meter is not None or not is_engine:
        return
    meter = start_meter(os.getppid())
    if meter is None:
        return
    name_model(meter, properties, folder)
    meter.is_told = True
    import atexit
    import threading

    come = threading.Event()
    meter.has_come = come.set

    def report() -> None:
        while come.wait():
            come.clear()
            while (wait_s := meter.report_if_due()) is not None:
                time.sleep(wait_s)

    # A process that ends does not wait for it.
    threading.Thread(target=report, name="mmekit-metrics", daemon=True).start()
    atexit.register(meter.close)


def _telemetry(model: str) -> EventSink | None:
    from mmekit_runtime.metering.telemetry import Telemetry

    try:
        return Telemetry(model, endpoint_of(os.environ), _private_bytes)
    except ImportError as error:
        _logger.warning(
            "mmekit: no metrics go to OpenTelemetry, as the model's environment lacks %s: "
            "opentelemetry-exporter-otlp-proto-http belongs into its requirements.txt",
            error.name or error,
        )
    except Exception as error:  # noqa: BLE001  no model fails to load because of its metrics
        _logger.warning("mmekit: no metrics go to OpenTelemetry: %s", error)
    return None


def _private_bytes() -> int:
    try:
        from mmekit_runtime.slots.memory import private_bytes
    except ImportError:  # an archive without worker slots
        return 0
    return private_bytes()
