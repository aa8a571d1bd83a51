"""InvokeEndpointWithResponseStream: a container's answer goes on to the client piece by piece."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.event_stream import error_event, payload_event
from mmekit_local.sagemaker.instances.container_client import (
    ContainerSilentError,
    ContainerTimeoutError,
)

if TYPE_CHECKING:
    import contextlib
    from collections.abc import AsyncIterator

    from mmekit_local.sagemaker.instances.pieces import StreamedReply
    from mmekit_local.sagemaker.instances.variant import Variant

__all__ = ["Pieces"]

_OK = 200


class Pieces:
    """The events of one answer; it may be left at any moment.

    Parameters
    ----------
    variant
        Who answers.
    reply
        The container's answer, of which the head is there.
    held
        What is let go of at the end: the connection to the container, a place at the instance.
    began
        When the request came, by `time.perf_counter`.
    """

    def __init__(
        self,
        variant: Variant,
        reply: StreamedReply,
        held: contextlib.AsyncExitStack,
        began: float,
    ) -> None:
        self._variant = variant
        self._reply = reply
        self._held = held
        self._began = began
        self._sent_anything = False
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next event."""
        if self._ended:
            raise StopAsyncIteration
        try:
            piece = await self._reply.next_piece()
        except ContainerTimeoutError:
            return await self._broken(
                "The model failed to finish sending its response within the time that is allowed.",
                "ModelInvocationTimeExceeded",
            )
        except ContainerSilentError as error:
            return await self._broken(f"The model's response broke off: {error}.", "StreamBroken")
        if not piece:
            await self._end(by_model=True)
            raise StopAsyncIteration
        if not self._sent_anything:
            self._sent_anything = True
            total = (time.perf_counter() - self._began) * 1e6
            self._variant.metrics.streamed(self._reply.microseconds, total)
        return payload_event(piece)

    async def aclose(self) -> None:
        """End: nobody reads any more."""
        if not self._ended:
            await self._end(by_model=False)

    async def _broken(self, message: str, code: str) -> bytes:
        self._variant.metrics.mid_stream_errors.count += 1
        await self._end(by_model=True)
        return error_event("ModelStreamError", message, code)

    async def _end(self, *, by_model: bool) -> None:
        self._ended = True
        total = (time.perf_counter() - self._began) * 1e6
        took = min(self._reply.microseconds, total)
        self._variant.metrics.invoked(_OK, took, total, by_model=by_model)
        await self._held.aclose()
