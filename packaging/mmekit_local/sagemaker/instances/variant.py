"""A production variant: its instances, kept alive and in number."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.errors import model_error, service_unavailable
from mmekit_local.sagemaker.instances.health import InstanceStartError
from mmekit_local.sagemaker.instances.instance import Instance, InstanceLostError, Invocation
from mmekit_local.sagemaker.instances.router import pick_instance, pick_spill
from mmekit_local.sagemaker.snapshot import VariantSnapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.instances.parts import InstanceParts
    from mmekit_local.sagemaker.instances.pieces import StreamedReply
    from mmekit_local.sagemaker.specification import VariantSpecification

__all__ = ["Variant"]

logger = logging.getLogger("mmekit.endpoint")

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


@dataclass(eq=False)
class _Slot:
    """A place for an instance; when it dies, another takes its place and its number."""

    instance: Instance
    keeper: asyncio.Task[None] | None = None


class Variant:
    """A production variant and its instances.

    Parameters
    ----------
    specification
        What to run.
    parts
        What its instances are made of.
    folder
        Where they have their folders.
    count
        How many there shall be.

    Attributes
    ----------
    weight
        Its share of the traffic, relative to the other variants'.
    instances
        Those in service.
    invocations
        Requests so far; it only grows.
    body_bytes
        How long a request's body may be.
    """

    _replaces = True

    def __init__(
        self, specification: VariantSpecification, parts: InstanceParts, folder: Path, count: int
    ) -> None:
        self.name = specification.name
        self.header = specification.name.encode("latin-1")
        self.weight = specification.weight
        self.multi_model = specification.model.multi_model
        self.body_bytes = parts.limits.body_bytes
        self.metrics = parts.metrics
        self.instances: tuple[Instance, ...] = ()
        self.invocations = 0
        self._instance_type = specification.instance_type
        self._parts = parts
        self._folder = folder
        self._count = count
        self._slots: list[_Slot] = []
        self._leaving: set[Instance] = set()
        self._births = itertools.count(1)
        self._work: set[asyncio.Task[None]] = set()
        self._resizing = asyncio.Lock()
        self._stopped = False

    async def invoke(
        self, target: str, headers: Headers, body: bytes, seconds: float | None = None
    ) -> Invocation:
        """Send a request to the instance that shall serve it.

        Parameters
        ----------
        target, headers, body
            Of the request.
        seconds
            How long the only model may take; None for as long as InvokeEndpoint allows.

        Raises
        ------
        AwsError
            What the client shall see.
        """
        self.invocations += 1
        instance = self._instance_for(target)
        try:
            return await instance.invoke(target, headers, body, seconds)
        except InstanceLostError as lost:
            # It never began, so another instance may have it, once.
            others = [other for other in self._refreshed() if other is not instance]
            if not others:
                raise self._silent(lost) from lost
            try:
                another = pick_instance(others, target)
                return await another.invoke(target, headers, body, seconds)
            except InstanceLostError as error:
                raise self._silent(error) from error

    @contextlib.asynccontextmanager
    async def streaming(self, headers: Headers, body: bytes) -> AsyncIterator[StreamedReply]:
        """Send a request to an only model, and have its answer as it comes for the block.

        Raises
        ------
        AwsError
            What the client shall see.
        """
        self.invocations += 1
        instance = self._instance_for("")
        async with contextlib.AsyncExitStack() as stack:
            try:
                reply = await stack.enter_async_context(instance.streaming(headers, body))
            except InstanceLostError as lost:
                others = [other for other in self._refreshed() if other is not instance]
                if not others:
                    raise self._silent(lost) from lost
                another = pick_instance(others, "")
                try:
                    reply = await stack.enter_async_context(another.streaming(headers, body))
                except InstanceLostError as error:
                    raise self._silent(error) from error
            yield reply

    async def start(self) -> None:
        """Start every instance and wait for all of them.

        Raises
        ------
        InstanceStartError
            One of them did not come up.
        """
        await self._add(range(1, self._count + 1))

    async def resize(self, count: int) -> None:
        """Have so many instances; those that leave finish their requests first.

        Raises
        ------
        InstanceStartError
            One more did not come up; those that did stay.
        """
        async with self._resizing:
            taken = {slot.instance.number for slot in self._slots}
            free = (number for number in itertools.count(1) if number not in taken)
            await self._add(itertools.islice(free, max(count - len(self._slots), 0)))
            leaving = sorted(self._slots, key=lambda slot: slot.instance.number)[count:]
            await asyncio.gather(*(self._remove(slot, drain=True) for slot in leaving))

    async def stop(self, *, drain: bool = False) -> None:
        """Stop every instance; with `drain`, let requests finish first. There will be no other.

        Without it those that are draining already wait no longer.
        """
        self._stopped = True
        if not drain:
            for instance in self._leaving:
                instance.wait_no_longer()
        await asyncio.gather(*(self._remove(slot, drain=drain) for slot in tuple(self._slots)))
        await asyncio.gather(*self._work, return_exceptions=True)

    def known_instances(self) -> tuple[Instance, ...]:
        """Return every instance, those that are starting or dead among them."""
        return tuple(slot.instance for slot in self._slots)

    def snapshot(self) -> VariantSnapshot:
        """Say how the variant is doing."""
        return VariantSnapshot(
            name=self.name,
            weight=self.weight,
            multi_model=self.multi_model,
            instance_type=self._instance_type,
            instances=tuple(instance.snapshot() for instance in self.known_instances()),
        )

    def _instance_for(self, target: str) -> Instance:
        instances = self.instances
        if any(instance.state != "in service" for instance in instances):
            instances = self._refreshed()
        if len(instances) == 1:
            return instances[0]
        if not instances:
            raise service_unavailable(
                f"Variant {self.name} of endpoint {self._parts.endpoint.name} has no instance in "
                "service. Please retry."
            )
        instance = pick_instance(instances, target)
        bound = self._parts.limits.busy_requests
        if instance.in_flight >= bound:
            another = pick_spill(instances, target, bound)
            if another is not None:
                self._begin(another.warm(target))
        return instance

    def _silent(self, lost: InstanceLostError) -> Exception:
        return model_error(self._parts.endpoint, 500, f"The container gave no answer: {lost}")

    # Instances come and go.

    def _refreshed(self) -> tuple[Instance, ...]:
        self.instances = tuple(
            slot.instance for slot in self._slots if slot.instance.state == "in service"
        )
        return self.instances

    def _new(self, number: int) -> Instance:
        folder = self._folder / f"{number}-{next(self._births)}"
        return Instance(self._parts, number, folder)

    async def _add(self, numbers: itertools.islice[int] | range) -> None:
        slots = [_Slot(self._new(number)) for number in numbers]
        if slots and self._stopped:  # while this waited for its turn
            raise InstanceStartError("It was deleted before it was in service.")
        self._slots += slots
        outcomes = await asyncio.gather(
            *(self._start(slot) for slot in slots), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise failures[0]

    async def _start(self, slot: _Slot) -> None:
        try:
            await slot.instance.start()
        except BaseException:
            if slot in self._slots:
                self._slots.remove(slot)
            await slot.instance.stop()
            raise
        self._refreshed()
        slot.keeper = self._begin(self._keep(slot))

    async def _remove(self, slot: _Slot, *, drain: bool) -> None:
        if slot in self._slots:
            self._slots.remove(slot)
        self._refreshed()
        if slot.keeper is not None:
            slot.keeper.cancel()
            await asyncio.wait([slot.keeper])
        instance = slot.instance
        self._leaving.add(instance)
        try:
            await instance.stop(drain=drain)
        finally:
            self._leaving.discard(instance)

    async def _keep(self, slot: _Slot) -> None:
        """Replace a slot's instance whenever it is lost."""
        while True:
            reason = await slot.instance.until_lost()
            self._refreshed()
            began = time.perf_counter()
            label, journal = slot.instance.label, self._parts.journal
            journal.record("instance", label, f"lost: {reason}")
            logger.warning("[%s] lost: %s", label, reason)
            self._begin(slot.instance.stop())
            if not self._replaces:
                self._slots.remove(slot)
                return
            await self._replace(slot)
            milliseconds = (time.perf_counter() - began) * 1e3
            journal.record("instance", label, "replaced", milliseconds=milliseconds)
            logger.info("[%s] replaced in %.0f ms", label, milliseconds)

    async def _replace(self, slot: _Slot) -> None:
        delay = _FIRST_DELAY
        while True:
            slot.instance = self._new(slot.instance.number)
            try:
                await slot.instance.start()
            except Exception as error:  # whatever it was, the next try may succeed
                text = f"not replaced: {error}"
                self._parts.journal.record("error", slot.instance.label, text)
                if not isinstance(error, InstanceStartError):
                    logger.exception("[%s] %s", slot.instance.label, text)
                self._begin(slot.instance.stop())
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
            else:
                self._refreshed()
                return

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, InstanceStartError):
            logger.warning("variant %s: %s", self.name, error)
        elif error is not None:
            logger.error("variant %s: %s", self.name, error, exc_info=error)
