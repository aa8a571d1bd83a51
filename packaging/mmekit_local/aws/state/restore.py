"""The start with a state folder: what it holds is played back; what is not needed goes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmekit.errors import EndpointError
from mmekit_local.aws.state.asked import concerns_secrets
from mmekit_local.aws.state.compaction import compacted
from mmekit_local.sagemaker.api import caller_of_request

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation import Stacks
    from mmekit_local.aws.moto.aws import Aws
    from mmekit_local.aws.state.log import LogEntry
    from mmekit_local.aws.state.recorder import StateRecorder
    from mmekit_local.sagemaker.control.control_plane import ControlPlane
    from mmekit_local.sagemaker.control.endpoint_controller import EndpointController

__all__ = ["restore"]

logger = logging.getLogger("mmekit.endpoint")

_FIRST_ERROR = 400
_SAID = 10
"""Of so many failures each is said: when a bucket is missing, so are all its objects."""


async def restore(
    state: StateRecorder,
    aws: Aws,
    control_plane: ControlPlane,
    controller: EndpointController,
    stacks: Stacks,
) -> None:
    """Bring back what a state folder holds; endpoints begin to start.

    What cannot be brought back is said, and stays in the folder with everything else.

    Raises
    ------
    EndpointError
        The folder is damaged.
    """
    replay = _Replay(state, aws, control_plane, controller, stacks)
    if state.log.torn:
        logger.info("the last change was not written to its end, and is left out")
    with controller.restoring():
        for number, entry in enumerate(state.log.entries, 1):
            try:
                await replay.play(number, entry)
            except EndpointError as error:
                raise EndpointError(
                    f"{error.what} Entry {number} of the log needs it ({entry.summary}).",
                    where=error.where,
                    remedy=error.remedy,
                ) from error
        stacks.restored()
        state.played()
        _clean_up(state, replay)


@dataclass
class _Replay:
    """Plays entries back.

    Attributes
    ----------
    kept
        The entries that are to be kept.
    failed
        How many could not be brought back.
    """

    state: StateRecorder
    aws: Aws
    control_plane: ControlPlane
    controller: EndpointController
    stacks: Stacks
    kept: list[LogEntry] = field(default_factory=list)
    failed: int = 0

    async def play(self, number: int, entry: LogEntry) -> None:
        """Play an entry back, or say what keeps it from that."""
        log = self.state.log
        try:
            failure = await self._failure(entry)
        except EndpointError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be lost by it
            failure = f"{type(error).__name__}: {error}"
        if failure and log.unanswered and number == len(log.entries):
            # The service was killed between writing it down and taking it back, or answering.
            logger.info("the last change (%s) had been refused, and is left out", entry.summary)
            return
        self.kept.append(entry)
        if failure:
            self.failed += 1
            if self.failed <= _SAID:
                what = "entry %d of the log (%s) could not be restored: %s"
                logger.error(what, number, entry.summary, failure)

    async def _failure(self, entry: LogEntry) -> str:
        """Play an entry back; return what went wrong, or ""."""
        if "stack" in entry.change:
            self.stacks.restore(entry.change)
            return ""
        if not entry.method:
            self.controller.restore(entry.change)
            return ""
        request = self.state.request_of(entry)
        caller = caller_of_request(request)
        if caller is not None and caller.service == "iam" and concerns_secrets(request):
            return ""  # by an earlier version, of what it had not kept
        if caller is not None and caller.service == "sagemaker":
            reply = await self.control_plane.answer(request, caller)
        else:
            reply = await self.aws.answer(request)
        return reply.body.decode("latin-1") if reply.status >= _FIRST_ERROR else ""


def _clean_up(state: StateRecorder, replay: _Replay) -> None:
    """Remove what is not needed, unless something is amiss: then it may be needed yet."""
    try:
        if not replay.failed:
            state.log.replace(compacted(replay.kept, state.log.bodies.read))
            return
        if len(replay.kept) < len(state.log.entries):
            state.log.replace(replay.kept, sweeps=False)
    except OSError as error:
        logger.warning("the state folder stays as long as it is: %s", error)
        return
    logger.error(
        "%d of %d changes could not be restored. All of them stay in %s, and nothing is removed "
        "there, until a start restores them all. Stop here and restore the folder from a copy if "
        "what is missing is needed.",
        replay.failed,
        len(replay.kept),
        state.log.folder,
    )
