"""The layers of a model: there, and held, from before its first worker until after its last."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

from mmekit_local.server import errors
from mmekit_runtime.layers import ProvidedLayers, provide
from mmekit_runtime.layers.listing import LayerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_local.server.load_plan import ModelLoadPlan

_ASKING_S = 60.0
# Of their own: whoever waits for the one that fetches a layer keeps no other load from its disk.
_threads = ThreadPoolExecutor(8, "layers")


async def provided(plan: ModelLoadPlan) -> ProvidedLayers | None:
    """Return a model's layers, fetched where need be; None when it has none.

    Whoever gets them is to close them.

    Raises
    ------
    Refusal
        500 when a layer is not to be had.
    """
    if not plan.layers:
        return None
    variables = {**os.environ, **plan.properties.env}
    work = asyncio.get_running_loop().run_in_executor(_threads, _provide, plan, variables)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # A thread goes on, and nobody is left to let go of what it gets.
        work.add_done_callback(_close)
        raise
    except (LayerError, OSError) as error:
        raise errors.load_failed(f"Failed to initialize model: {error}") from error


class HeldLayers(ProvidedLayers):
    """The layers of a model of this server, in which all models hold a layer by one descriptor.

    Thousands that had two or three each would leave none for anything else.
    """

    _locks: ClassVar[dict[tuple[int, int], int]] = {}
    _holders: ClassVar[Counter[tuple[int, int]]] = Counter()
    _guard = threading.Lock()

    def __init__(self, provided: ProvidedLayers) -> None:
        super().__init__({}, ())
        self.runtime, self.libraries = provided.runtime, provided.libraries
        self.body = provided.body
        self._held: list[tuple[int, int]] = []
        locks, provided.locks = provided.locks, ()
        for lock in locks:
            # A fork server would have it for longer than the model is loaded.
            os.set_inheritable(lock, False)  # noqa: FBT003
            status = os.fstat(lock)
            held = (status.st_dev, status.st_ino)
            with self._guard:
                self._holders[held] += 1
                if self._locks.setdefault(held, lock) != lock:
                    os.close(lock)
            self._held.append(held)

    def close(self) -> None:
        """Let go of the layers; the last model that does so lets others remove them."""
        while self._held:
            held = self._held.pop()
            with self._guard:
                self._holders[held] -= 1
                if not self._holders[held]:
                    del self._holders[held]
                    os.close(self._locks.pop(held))


def _provide(plan: ModelLoadPlan, variables: Mapping[str, str]) -> ProvidedLayers | None:
    layers = provide(plan.folder, variables, _version(plan))
    return None if layers is None else HeldLayers(layers)


def _version(plan: ModelLoadPlan) -> str | None:
    """Return the version of the Python that runs a model; None for this one's."""
    if plan.environment is not None:
        return plan.environment.version
    if plan.python == sys.executable:
        return None
    asked = [plan.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        # With -c, Python looks for modules in the working folder first.
        done = subprocess.run(
            asked, cwd="/", check=False, capture_output=True, text=True, timeout=_ASKING_S
        )
    except (OSError, subprocess.SubprocessError):
        return None  # the start of a worker says what is wrong with one that does not run
    return done.stdout.strip() or None


def _close(work: asyncio.Future[ProvidedLayers | None]) -> None:
    if not work.cancelled() and work.exception() is None:
        layers = work.result()
        if layers is not None:
            layers.close()
