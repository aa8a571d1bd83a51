"""The load of a model, where its handler counts it: on the plain engine."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from mmekit_runtime.metering.current import CURRENT
from mmekit_runtime.metering.settings import is_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_logger = logging.getLogger()


@contextlib.contextmanager
def metered_load(properties: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Load a model, and begin to count where a process of DJL's own engine shall."""
    if CURRENT.meter is None and is_on(os.environ):
        from mmekit_runtime.metering.start import start_on_plain_engine

        try:
            start_on_plain_engine(properties, str(folder))
        except Exception as error:  # noqa: BLE001 - such as a thread that there is no room for
            _logger.warning("mmekit: metrics are not complete: %s", error)
    began = time.monotonic_ns()
    yield
    if CURRENT.meter is not None and CURRENT.meter.is_told:
        CURRENT.meter.loaded(time.monotonic_ns() - began)
