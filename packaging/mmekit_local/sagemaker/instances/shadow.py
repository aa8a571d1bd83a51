"""A shadow variant's share of requests: copies, whose answers nobody gets.

Source: AWS's "Testing models with shadow variants" and "Create a shadow test": the share is the
shadow variant's weight in proportion to the production variant's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.event_log import EndpointEvents
    from mmekit_local.sagemaker.instances.variant import Variant
    from mmekit_local.sagemaker.observability.capture import EndpointCapture

__all__ = ["ShadowTraffic"]

logger = logging.getLogger("mmekit.endpoint")

_MOST_BYTES = 64 << 20
_FIRST_ERROR = 400


class ShadowTraffic:
    """Sends copies of a production variant's requests to a shadow variant.

    Parameters
    ----------
    production, shadow
        The variants.
    where
        Endpoint and shadow variant, for the event log.
    event_log
        Errors are told to it.
    capture
        Where invocations are captured; None for nowhere.
    most
        How many copies may be under way; further ones are left out, and that is told.
    """

    def __init__(
        self,
        production: Variant,
        shadow: Variant,
        where: str,
        event_log: EndpointEvents,
        capture: EndpointCapture | None,
        most: int,
    ) -> None:
        self._production = production
        self._shadow = shadow
        self._where = where
        self._event_log = event_log
        self._capture = capture
        self._most = most
        self._bytes = 0
        self._full = False
        self._work: set[asyncio.Task[None]] = set()

    def copy(
        self,
        target: str,
        forwarded: Headers,
        fields: Mapping[bytes, bytes],
        body: bytes,
        request_id: bytes,
    ) -> None:
        """Send a copy of a request, if it is among those that are copied; wait for nothing."""
        whole = self._production.weight
        # A config cannot have a 0 there; UpdateEndpointWeightsAndCapacities can make it one.
        share = self._shadow.weight / whole if whole > 0 else 1.0
        if random.random() >= share:  # noqa: S311 - this is no cryptography
            return
        # A copy keeps its body in memory until the shadow variant has answered.
        if len(self._work) >= self._most or self._bytes + len(body) > _MOST_BYTES:
            if not self._full:
                self._full = True
                self._record_error(
                    "The shadow variant is too slow: some requests are not copied to it."
                )
            return
        self._full = False
        self._bytes += len(body)
        task = asyncio.ensure_future(self._ask(target, forwarded, fields, body, request_id))
        self._work.add(task)
        task.add_done_callback(lambda done: self._ended(done, len(body)))

    async def stop(self) -> None:
        """Ask nothing any more."""
        for task in tuple(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None], size: int) -> None:
        self._work.discard(task)
        self._bytes -= size
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: a copy of a request failed", self._where, exc_info=error)

    async def _ask(
        self,
        target: str,
        forwarded: Headers,
        fields: Mapping[bytes, bytes],
        body: bytes,
        request_id: bytes,
    ) -> None:
        shadow, began = self._shadow, time.perf_counter()
        try:
            invocation = await shadow.invoke(target, forwarded, body)
        except AwsError as error:
            took = (time.perf_counter() - began) * 1e6
            status = error.members.get("OriginalStatusCode")
            by_model = isinstance(status, int)
            # 0 stands for a container that did not answer.
            code = error.status if not isinstance(status, int) else status or 500
            shadow.metrics.invoked(code, 0.0, took, by_model=by_model)
            self._record_error(f"{error.code}: {error.message}", target, code)
            return
        took = (time.perf_counter() - began) * 1e6
        reply = invocation.reply
        shadow.metrics.invoked(reply.status, invocation.model_microseconds, took, by_model=True)
        if reply.status >= _FIRST_ERROR:
            said = f"ModelError: {reply.status} {reply.text[:2000]}"
            self._record_error(said, target, reply.status)
        elif self._capture is not None:
            self._capture.add(shadow.name, fields, body, reply, request_id)

    def _record_error(self, text: str, target: str = "", status: int | None = None) -> None:
        self._event_log.record("error", self._where, text, target=target, status=status)
