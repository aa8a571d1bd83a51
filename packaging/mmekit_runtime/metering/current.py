"""The meter of this process, where it has one."""

from __future__ import annotations

import contextlib
import os
import time

from mmekit_runtime.metering.settings import is_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from mmekit_runtime.metering.meter import ModelMeter


class _Current:
    """What is asked on the way of a request: the meter, None while nothing is counted."""

    __slots__ = ("meter",)

    def __init__(self) -> None:
        self.meter: ModelMeter | None = None


CURRENT = _Current()


@contextlib.contextmanager
def metered_load(properties: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Load a model, and begin to count where a process of DJL's own engine shall."""
    if CURRENT.meter is None and is_on(os.environ):
        from mmekit_runtime.metering.start import start_on_plain_engine

        start_on_plain_engine(properties, str(folder))
    began = time.monotonic_ns()
    yield
    if CURRENT.meter is not None and CURRENT.meter.is_told:
        CURRENT.meter.loaded(time.monotonic_ns() - began)
