"""Whether a container is well, when it starts and for as long as it serves; and whether a model is.

DJL Serving 0.36 never restarts some workers: one killed while idle answers 400 "Backend Python
process is stopped." for ever (PyPredictor.batchPredict), and a model whose requests timed out is
marked FAILED and answers 503 "Model is not ready" (WorkLoadManager.runJob), until it is unloaded
and loaded again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.instances.container_connection import (
    ContainerSilentError,
    ContainerTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.sagemaker.instances.container_client import ContainerClient
    from mmekit_local.sagemaker.instances.container_connection import ContainerReply
    from mmekit_local.sagemaker.instances.launcher import Container
    from mmekit_local.sagemaker.instances.model_cache import ModelCache

__all__ = [
    "InstanceStartError",
    "diagnose",
    "is_suspicious",
    "until_healthy",
    "until_unhealthy",
]

# The contract's limit for an answer to /ping.
_PING_SECONDS = 2.0
_PING_INTERVAL = 0.02
_FAILURES = 3
_LONGEST_IDLE = 4
"""Of a container that nobody asks, /ping is asked up to so many times less often."""
_DIAGNOSIS_SECONDS = 2.0
_BAD_REQUEST, _ABSENT, _SERVER_ERROR = 400, 404, 500
_STOPPED = b"process is stopped"
_NOT_READY = b"Model is not ready"


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
        if (reason := container.exit_reason) is not None:
            raise InstanceStartError(reason)
        if time.monotonic() > patience:
            raise InstanceStartError(f"/ping did not answer 200 within {seconds:.0f} seconds.")
        await asyncio.sleep(_PING_INTERVAL)


async def until_unhealthy(
    container: Container, client: ContainerClient, models: ModelCache | None, interval: float
) -> str:
    """Return why a container is to be replaced, as soon as it is.

    A failed model makes DJL Serving's /ping fail, so those are unloaded first. A container that
    answers requests is well, however long its /ping takes.

    Parameters
    ----------
    models
        Those of a multi-model container.
    interval
        Seconds between two looks at /ping while there are requests, or none has answered.
    """
    death = asyncio.ensure_future(container.ended())
    failures, unasked = 0, 1
    try:
        while failures < _FAILURES:
            answers = client.answers
            await asyncio.wait([death], timeout=interval * unasked)
            if death.done():
                return container.exit_reason or "The container ended."
            asked = client.answers > answers
            # One of the answers may be that of this very ping, a 500.
            if await client.is_healthy(_PING_SECONDS) or client.answers > answers + 1:
                failures, unasked = 0, 1 if asked else min(2 * unasked, _LONGEST_IDLE)
                continue
            failures, unasked = failures + 1, 1
            if models is not None:
                await models.unload_failed()
    finally:
        death.cancel()
    return f"/ping did not answer 200 {_FAILURES} times in a row."


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a model.

    Attributes
    ----------
    is_lost
        The container does not have it any more.
    is_broken
        The container has it, and it will not answer again before it is loaded anew.
    ran
        The request may have been run.
    """

    is_lost: bool = False
    is_broken: bool = False
    ran: bool = True


_WELL = Diagnosis()


def is_suspicious(status: int) -> bool:
    """Say whether an answer's status may mean that something is wrong with the model itself."""
    return status >= _SERVER_ERROR or status in (_BAD_REQUEST, _ABSENT)


async def diagnose(client: ContainerClient, name: str, reply: ContainerReply) -> Diagnosis:
    """Find out what a suspicious answer means; a model's own errors mean nothing."""
    if reply.status == _BAD_REQUEST:
        stopped = _STOPPED in reply.body
        return Diagnosis(is_broken=True, ran=False) if stopped else _WELL
    try:
        described = await client.describe(name, _DIAGNOSIS_SECONDS)
    except (ContainerSilentError, ContainerTimeoutError):
        # A container that is silent is the affair of `until_unhealthy`.
        return _WELL
    if described is None:
        # A 404 is the server's own word; any other error may come from a run.
        return Diagnosis(is_lost=True, ran=reply.status != _ABSENT)
    if reply.status != _ABSENT and described.is_broken:
        return Diagnosis(is_broken=True, ran=_NOT_READY not in reply.body)
    return _WELL
