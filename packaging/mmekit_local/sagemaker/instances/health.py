"""Whether a container is well: when it starts, and for as long as it serves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.sagemaker.instances.container_client import ContainerClient
    from mmekit_local.sagemaker.instances.launcher import Container
    from mmekit_local.sagemaker.instances.model_cache import ModelCache

__all__ = ["InstanceStartError", "until_healthy", "until_unwell"]

_PING_SECONDS = 2.0
_PING_INTERVAL = 0.02
_FAILURES = 3


class InstanceStartError(Exception):
    """A container did not come up; the text becomes part of the endpoint's FailureReason."""


async def until_healthy(
    container: Container,
    client: ContainerClient,
    seconds: float,
    raise_if_stopping: Callable[[], None],
) -> None:
    """Return when a container's /ping answers 200.

    Raises
    ------
    InstanceStartError
        It ended, took too long, or `raise_if_stopping` says that it is no longer wanted.
    """
    patience = time.monotonic() + seconds
    while not await client.is_healthy(_PING_SECONDS):
        raise_if_stopping()
        if (obituary := container.obituary) is not None:
            raise InstanceStartError(obituary)
        if time.monotonic() > patience:
            raise InstanceStartError(f"/ping did not answer 200 within {seconds:.0f} seconds.")
        await asyncio.sleep(_PING_INTERVAL)


async def until_unwell(
    container: Container, client: ContainerClient, models: ModelCache | None, interval: float
) -> str:
    """Return why a container is to be replaced, as soon as it is.

    A failed model makes DJL Serving's /ping fail, so models are mended first. A container that
    answers requests is well, however long its /ping takes.

    Parameters
    ----------
    models
        Those of a multi-model container.
    interval
        Seconds between two looks at /ping.
    """
    death = asyncio.ensure_future(container.ended())
    failures = 0
    try:
        while failures < _FAILURES:
            answers = client.answers
            await asyncio.wait([death], timeout=interval)
            if death.done():
                return container.obituary or "The container ended."
            if await client.is_healthy(_PING_SECONDS) or client.answers > answers + 1:
                failures = 0
                continue
            failures += 1
            if models is not None:
                await models.mend_failed()
    finally:
        death.cancel()
    return f"/ping did not answer 200 {_FAILURES} times in a row."
