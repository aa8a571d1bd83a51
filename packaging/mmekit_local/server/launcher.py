"""How a model's workers come to be: as worker slots, or as processes of the plain engine."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from mmekit_local.server.fork_servers import ForkServers, SlotRefused
from mmekit_local.server.link import NoDescriptors, WorkerFailure
from mmekit_local.server.slots import SlotWorker, Streams, why_not
from mmekit_local.server.worker import EngineWorker, Worker, WorkerSpec
from mmekit_runtime.slots import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    OnDeath = Callable[[Worker, WorkerFailure], None]

_logger = logging.getLogger("mmekit.server")
_numbers = itertools.count()

SPARE_DESCRIPTORS = 32
"""More than the start of a worker takes, and of a fork server before it."""


class WorkerLauncher:
    """Starts the workers of one model.

    A model never fails to load because it gets no worker slots: it runs on the plain engine then,
    and one line in the log says why.
    """

    def __init__(self, spec: WorkerSpec, fork_servers: ForkServers) -> None:
        self.spec = spec
        self._fork_servers = fork_servers
        self._streams = Streams(f"W-{spec.model_name}")
        self._why_not = why_not(spec)
        if self._why_not:
            self._say()

    @property
    def gives_slots(self) -> bool:
        """Whether a further worker is a slot, and so costs milliseconds."""
        return self._why_not is None

    async def launch(self, on_death: OnDeath) -> Worker:
        """Return a started worker; `Worker.start` says what may be raised."""
        # First, as a start that fails half-way, for want of them, leaves some of them open.
        _require_descriptors()
        if self.gives_slots:
            slot = SlotWorker(
                self.spec, next(_numbers), on_death, self._fork_servers, self._streams
            )
            try:
                await slot.start()
            except (OSError, SlotRefused, WorkerFailure) as error:
                # They may have run out meanwhile, which says nothing about this model.
                _require_descriptors()
                if not isinstance(error, SlotRefused):
                    raise
                self._why_not = str(error)
                self._say()
            else:
                return slot
        worker = EngineWorker(self.spec, next(_numbers), on_death)
        try:
            await worker.start()
        except WorkerFailure:
            _require_descriptors()
            raise
        return worker

    async def close(self) -> None:
        """Let go of what the model's workers shared."""
        await self._streams.close()

    def _say(self) -> None:
        _logger.info(
            "model %s: plain engine, no worker slots: %s", self.spec.model_name, self._why_not
        )


def _require_descriptors() -> None:
    if not descriptors.are_left(SPARE_DESCRIPTORS):
        raise NoDescriptors
