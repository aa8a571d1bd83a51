"""Requests that a model's queue holds, alone and in batches.

A batch is what DJL Serving's BatchAggregator and PyPredictor make of one: its requests travel as
one message to the engine, and the answer comes apart into theirs.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmekit_local.server import errors
from mmekit_local.server.replies import WorkerReply
from mmekit_runtime.wire import MAX_ITEMS, encode_request

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Mapping, Sequence

    from mmekit_local.server.forms import Content

_BATCH_KEY = re.compile(r"batch_([0-9]{1,9})\.(.*)", re.DOTALL)
_OWN_ITEMS = 2
"""Properties that a message has of its own."""


@dataclass
class QueuedRequest:
    """A request and whoever waits for its answer; times are those of the monotonic clock."""

    properties: Mapping[str, str]
    content: Content
    result: asyncio.Future[WorkerReply]
    queued_at: float = field(default_factory=time.monotonic)
    sent_at: float = 0.0

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits."""
        return not self.result.done()

    @property
    def items(self) -> int:
        """How much of what a message can have at most this request takes."""
        return max(len(self.properties), len(self.content))

    def answer(self, reply: WorkerReply) -> None:
        """Give the answer to whoever waits, if anybody does."""
        if self.is_wanted:
            self.result.set_result(reply)
        elif reply.stream is not None:
            reply.stream.abandon()

    def refuse(self, error: errors.ApiError) -> None:
        """Say why there is no answer, if anybody waits."""
        if self.is_wanted:
            self.result.set_exception(error)


def take_batch(queue: deque[QueuedRequest], most: int) -> list[QueuedRequest]:
    """Take the next requests that somebody waits for out of a queue, as many as fit together."""
    batch: list[QueuedRequest] = []
    left = MAX_ITEMS - _OWN_ITEMS
    while queue and len(batch) < most:
        request = queue[0]
        # Those that nobody waits for any more are dropped here, and cost no worker anything.
        if request.is_wanted:
            if batch and request.items > left:
                break
            batch.append(request)
            left -= request.items
        queue.popleft()
    return batch


def encode_batch(batch: Sequence[QueuedRequest], handler: str) -> bytes:
    """Return what a worker is sent, as PyPredictor.batchPredict writes it."""
    if len(batch) == 1:
        alone = {**batch[0].properties, "handler": handler}
        return encode_request(alone, batch[0].content)
    properties = {"batch_size": str(len(batch)), "handler": handler}
    content: list[tuple[str | None, bytes]] = []
    for index, request in enumerate(batch):
        prefix = f"batch_{index:03d}."
        for key, value in request.properties.items():
            properties[prefix + key] = value
        content += [(prefix + (key or "data"), value) for key, value in request.content]
    return encode_request(properties, content)


def deliver_replies(batch: Sequence[QueuedRequest], reply: WorkerReply) -> None:
    """Give each request of a batch its part of the worker's answer."""
    if len(batch) == 1:
        batch[0].answer(reply)
        return
    made = len(reply.content)
    if reply.stream is not None:
        # It has no parts, of which each request would have its own.
        reply.stream.abandon()
        made = 1
    elif reply.status >= 300:  # noqa: PLR2004
        for request in batch:
            request.answer(reply)
        return
    if made != len(batch):
        _refuse(batch, f"Batch output size mismatch, expected: {len(batch)}, actual: {made}")
        return
    parts: list[list[tuple[str | None, bytes]]] = [[] for _ in batch]
    for key, value in reply.content:
        match = _BATCH_KEY.fullmatch(key or "")
        if match is None or int(match[1]) >= len(batch):
            _refuse(batch, f"Unexpected batch output key: {key}")
            return
        parts[int(match[1])].append((match[2], value))
    for request, content in zip(batch, parts, strict=True):
        own = WorkerReply(reply.status, reply.message, reply.properties, tuple(content))
        request.answer(own)


def _refuse(batch: Sequence[QueuedRequest], why: str) -> None:
    for request in batch:
        request.refuse(errors.untranslatable(why))
