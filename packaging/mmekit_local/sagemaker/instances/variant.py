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
from mmekit_local.sagemaker.instances.instance import Instance, InstanceLostError, TimedReply
from mmekit_local.sagemaker.instances.router import pick_instance, pick_spill
from mmekit_local.sagemaker.snapshot import VariantSnapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.instances.container_connection import StreamedReply
    from mmekit_local.sagemaker.instances.instance_template import InstanceTemplate
    from mmekit_local.sagemaker.specification import VariantSpecification

__all__ = ["Variant"]

logger = logging.getLogger("mmekit.endpoint")

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


@dataclass(eq=False)
class _Replica:
    """A place for an instance; when it dies, another takes its place and its number."""

    instance: Instance
    supervisor: asyncio.Task[None] | None = None


class Variant:
    """A production variant and its instances.

    Parameters
    ----------
    specification
        What to run.
    template
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
        self,
        specification: VariantSpecification,
        template: InstanceTemplate,
        folder: Path,
        count: int,
    ) -> None:
        self.name = specification.name
        self.header = specification.name.encode("latin-1")
        self.weight = specification.weight
        self.multi_model = specification.model.multi_model
        self.body_bytes = template.limits.body_bytes
        self.metrics = template.metrics
        self.instances: tuple[Instance, ...] = ()
        self.invocations = 0
        self._instance_type = specification.instance_type
        self._template = template
        self._folder = folder
        self._count = count
        self._replicas: list[_Replica] = []
        self._draining: set[Instance] = set()
        self._starts = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._resizing = asyncio.Lock()
        self._stopped = False

    async def invoke(
        self, target: str, headers: Headers, body: bytes, seconds: float | None = None
    ) -> TimedReply:
        """Send a request to the instance that shall serve it; otherwise as `Instance.invoke`.

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
        # One at a time: a serverless variant may have to go and to come back at the same moment.
        async with self._resizing:
            taken = {replica.instance.number for replica in self._replicas}
            free = (number for number in itertools.count(1) if number not in taken)
            await self._add(itertools.islice(free, max(count - len(self._replicas), 0)))
            leaving = sorted(self._replicas, key=lambda replica: replica.instance.number)[count:]
            await asyncio.gather(*(self._remove(replica, drain=True) for replica in leaving))

    async def stop(self, *, drain: bool = False) -> None:
        """Stop every instance; with `drain`, let requests finish first. There will be no other.

        Without it those that are draining already wait no longer.
        """
        self._stopped = True
        if not drain:
            for instance in self._draining:
                instance.stop_draining()
        await asyncio.gather(
            *(self._remove(replica, drain=drain) for replica in tuple(self._replicas))
        )
        # Among them are the stops of instances that were lost: their folders must be gone, too.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def known_instances(self) -> tuple[Instance, ...]:
        """Return every instance, those that are starting or dead among them."""
        return tuple(replica.instance for replica in self._replicas)

    def snapshot(self) -> VariantSnapshot:
        """Say how the variant is doing."""
        return VariantSnapshot(
            name=self.name,
            weight=self.weight,
            multi_model=self.multi_model,
            instance_type=self._instance_type,
            instances=tuple(instance.snapshot() for instance in self.known_instances()),
            data_url=self._template.model.data_url,
        )

    def _instance_for(self, target: str) -> Instance:
        instances = self.instances
        if any(instance.state != "in service" for instance in instances):
            instances = self._refreshed()
        if len(instances) == 1:
            return instances[0]
        if not instances:
            raise service_unavailable(
                f"Variant {self.name} of endpoint {self._template.endpoint.name} has no instance "
                "in service. Please retry."
            )
        instance = pick_instance(instances, target)
        bound = self._template.limits.busy_requests
        if instance.in_flight >= bound:
            another = pick_spill(instances, target, bound)
            if another is not None:
                # In the background: this request is answered where the model is.
                self._begin(another.warm(target))
        return instance

    def _silent(self, lost: InstanceLostError) -> Exception:
        return model_error(self._template.endpoint, 500, f"The container gave no answer: {lost}")

    # Instances come and go.

    def _refreshed(self) -> tuple[Instance, ...]:
        self.instances = tuple(
            replica.instance for replica in self._replicas if replica.instance.state == "in service"
        )
        return self.instances

    def _new(self, number: int) -> Instance:
        # By start as well as by number: the instance before may still be removing its folder.
        folder = self._folder / f"{number}-{next(self._starts)}"
        return Instance(self._template, number, folder)

    async def _add(self, numbers: itertools.islice[int] | range) -> None:
        replicas = [_Replica(self._new(number)) for number in numbers]
        if replicas and self._stopped:  # while this waited for its turn
            raise InstanceStartError("It was deleted before it was in service.")
        self._replicas += replicas
        outcomes = await asyncio.gather(
            *(self._start(replica) for replica in replicas), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise failures[0]

    async def _start(self, replica: _Replica) -> None:
        try:
            await replica.instance.start()
        except BaseException:
            # A stop may have taken it out, which is what ended the start.
            if replica in self._replicas:
                self._replicas.remove(replica)
            await replica.instance.stop()
            raise
        self._refreshed()
        replica.supervisor = self._begin(self._supervise(replica))

    async def _remove(self, replica: _Replica, *, drain: bool) -> None:
        if replica in self._replicas:
            self._replicas.remove(replica)
        self._refreshed()
        # The supervisor first: it would take the container's end for a loss, and replace it.
        if replica.supervisor is not None:
            replica.supervisor.cancel()
            await asyncio.wait([replica.supervisor])
        instance = replica.instance
        self._draining.add(instance)
        try:
            await instance.stop(drain=drain)
        finally:
            self._draining.discard(instance)

    async def _supervise(self, replica: _Replica) -> None:
        """Replace a replica's instance whenever it is lost."""
        while True:
            reason = await replica.instance.until_lost()
            self._refreshed()
            began = time.perf_counter()
            label, event_log = replica.instance.label, self._template.event_log
            event_log.record("instance", label, f"lost: {reason}")
            logger.warning("[%s] lost: %s", label, reason)
            # In the background: the next instance need not wait until the last has gone.
            self._begin(replica.instance.stop())
            if not self._replaces:
                self._replicas.remove(replica)
                return
            await self._replace(replica)
            milliseconds = (time.perf_counter() - began) * 1e3
            event_log.record("instance", label, "replaced", milliseconds=milliseconds)
            logger.info("[%s] replaced in %.0f ms", label, milliseconds)

    async def _replace(self, replica: _Replica) -> None:
        delay = _FIRST_DELAY
        while True:
            replica.instance = self._new(replica.instance.number)
            try:
                await replica.instance.start()
            except Exception as error:  # whatever it was, the next try may succeed
                text = f"not replaced: {error}"
                self._template.event_log.record("error", replica.instance.label, text)
                if not isinstance(error, InstanceStartError):
                    logger.exception("[%s] %s", replica.instance.label, text)
                self._begin(replica.instance.stop())
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
            else:
                self._refreshed()
                return

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, InstanceStartError):
            logger.warning("variant %s: %s", self.name, error)
        elif error is not None:
            logger.error("variant %s: %s", self.name, error, exc_info=error)
