"""Whether a container's error means that it lost a model, or that the model is broken for good.

DJL Serving 0.36 never restarts some workers: one killed while idle answers 400 "Backend Python
process is stopped." for ever (PyPredictor.batchPredict), and a model whose requests timed out is
marked FAILED and answers 503 "Model is not ready" (WorkLoadManager.runJob), until it is unloaded
and loaded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.instances.container_client import (
    ContainerSilentError,
    ContainerTimeoutError,
)

if TYPE_CHECKING:
    from mmekit_local.sagemaker.instances.container_client import ContainerClient, ContainerReply

__all__ = ["Diagnosis", "diagnose", "is_suspicious"]

_SECONDS = 2.0
_BAD_REQUEST, _ABSENT, _SERVER_ERROR = 400, 404, 500
_STOPPED = b"process is stopped"
_NOT_READY = b"Model is not ready"


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
        described = await client.describe(name, _SECONDS)
    except (ContainerSilentError, ContainerTimeoutError):
        return _WELL
    if described is None:
        return Diagnosis(is_lost=True, ran=reply.status != _ABSENT)
    if reply.status != _ABSENT and described.is_broken:
        return Diagnosis(is_broken=True, ran=_NOT_READY not in reply.body)
    return _WELL
