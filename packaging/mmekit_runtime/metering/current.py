"""The meter of this process, where it has one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmekit_runtime.metering.meter import ModelMeter


class _Current:
    """What is asked on the way of a request: the meter, None while nothing is counted."""

    __slots__ = ("meter",)

    def __init__(self) -> None:
        self.meter: ModelMeter | None = None


CURRENT = _Current()
