"""moto, made repeatable: the same request at the same moment with the same seed does the same.

moto draws identifiers from one generator and reads the clock; what a state folder keeps is played
back with both as they were, so that identifiers and dates come back too.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime, timezone
from random import Random
from typing import TYPE_CHECKING, Any

import moto.iam.models
import moto.s3.models
import moto.sagemaker.models
from moto.core.utils import utcnow
from moto.moto_api._internal import mock_random
from moto.moto_api._internal.moto_random import MotoRandom

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["deterministic", "make_deterministic"]

_MODULES: tuple[Any, ...] = (
    moto.iam.models,
    moto.s3.models,
    moto.sagemaker.models,
)


class _Moment(threading.local):
    """What a thread of this process takes for chance and for now."""

    source: Random | None = None
    now: datetime | None = None


_thread = _Moment()
_default = Random()  # noqa: S311 - identifiers, not secrets


class _SeededRandom(MotoRandom):
    """moto's generator, drawing from the thread's own while it has one."""

    def random(self) -> float:
        return (_thread.source or _default).random()

    def getrandbits(self, k: int, /) -> int:
        return (_thread.source or _default).getrandbits(k)


def make_deterministic() -> None:
    """Let moto's generator and clock be chosen; a second time does no harm."""
    mock_random.__class__ = _SeededRandom
    for module in _MODULES:
        if hasattr(module, "utcnow"):
            module.utcnow = _now


@contextlib.contextmanager
def deterministic(seed: int, at: float) -> Iterator[None]:
    """Let this thread's calls of moto draw from a seed and take a moment for now.

    Parameters
    ----------
    seed
        Of the generator.
    at
        Seconds since the epoch.
    """
    _thread.source = Random(seed)  # noqa: S311 - identifiers, not secrets
    _thread.now = datetime.fromtimestamp(at, timezone.utc).replace(tzinfo=None)  # moto is naive
    try:
        yield
    finally:
        _thread.source = _thread.now = None


def _now() -> datetime:
    return _thread.now or utcnow()
