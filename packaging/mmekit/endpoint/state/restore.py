"""The start with a state folder: what it holds is played back; what is not needed goes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mmekit.endpoint.state.compaction import compacted
from mmekit.endpoint.state.recorder import caller_of_request

if TYPE_CHECKING:
    from mmekit.endpoint.control.aws import Aws
    from mmekit.endpoint.control.control_plane import ControlPlane
    from mmekit.endpoint.control.hosting import Hosting
    from mmekit.endpoint.stacks import Stacks
    from mmekit.endpoint.state.recorder import State

__all__ = ["restore"]

logger = logging.getLogger("mmekit.endpoint")

_LAST_SUCCESS = 299


async def restore(
    state: State, aws: Aws, control_plane: ControlPlane, hosting: Hosting, stacks: Stacks
) -> None:
    """Bring back what a state folder holds; endpoints begin to start.

    Raises
    ------
    EndpointError
        The folder is damaged.
    """
    entries = state.log.entries
    if state.log.torn:
        logger.info("the last change was not written to its end, and is left out")
    with hosting.restoring():
        for entry in entries:
            if "stack" in entry.change:
                stacks.restore(entry.change)
                continue
            if not entry.method:
                hosting.restore(entry.change)
                continue
            request = state.request_of(entry)
            caller = caller_of_request(request)
            if caller is not None and caller.service == "sagemaker":
                reply = await control_plane.answer(request, caller)
            else:
                reply = await aws.answer(request)
            if reply.status > _LAST_SUCCESS:
                what = f"{entry.method} {entry.path}"
                logger.warning("%s could not be restored: %s", what, reply.body.decode("latin-1"))
        stacks.restored()
        state.played()
        try:
            state.log.replace(compacted(entries, state.log.body))
        except OSError as error:
            logger.warning("the state folder stays as long as it is: %s", error)
