"""The queues of asynchronous endpoints, and the work on them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.api import ApiReply
from mmekit_local.sagemaker.asynchronous.invocation import (
    AsyncOutcome,
    notification_message,
    request_of,
)
from mmekit_local.sagemaker.aws_client import locate, notification, object_put
from mmekit_local.sagemaker.errors import AwsError, model_error
from mmekit_local.sagemaker.observability.metrics import AsyncMetrics
from mmekit_local.sagemaker.observability.observations import gauge

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.asynchronous.invocation import AsyncRequest
    from mmekit_local.sagemaker.aws_client import AwsClient
    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.instances.variant import Variant
    from mmekit_local.sagemaker.observability.metrics import Metrics
    from mmekit_local.sagemaker.observability.observations import Observation
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["AsyncInference"]

logger = logging.getLogger("mmekit.endpoint")

_CONCURRENCY = 4
"""Invocations at once and instance where the config names none: "SageMaker chooses an optimal
value" (AsyncInferenceClientConfig)."""
_LARGEST_PAYLOAD = 1 << 30
_INTERVAL_S = 1.0
_FIRST_ERROR, _LAST_CLIENT_ERROR = 400, 499
_UNTYPED = "application/octet-stream"


@dataclass
class _Backlog:
    """What waits at an endpoint, and what is worked on."""

    waiting: deque[AsyncRequest] = field(default_factory=deque)
    running: dict[asyncio.Task[None], AsyncRequest] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def oldest(self) -> float:
        """The age of the oldest request that waits."""
        return self.waiting[0].age if self.waiting else 0.0


class AsyncInference:
    """Takes requests, has them answered in their turn, and says where the answers are.

    Parameters
    ----------
    serving
        The endpoints that are in service; whoever owns it changes it as they come and go.
    aws
        Has the buckets and the topics.
    metrics
        Tells what happens.
    """

    def __init__(
        self, serving: Mapping[EndpointId, Fleet], aws: AwsClient, metrics: Metrics
    ) -> None:
        self._serving = serving
        self._aws = aws
        self._backlogs: dict[EndpointId, _Backlog] = {}
        self._metrics: dict[tuple[EndpointId, str], AsyncMetrics] = {}
        self._warned: set[tuple[EndpointId, str]] = set()
        metrics.add_source(self.observations)

    def accept(
        self, fleet: Fleet, fields: Mapping[bytes, bytes], body: bytes, request_id: bytes
    ) -> ApiReply:
        """Put a request into the queue of its endpoint, which is asynchronous.

        Raises
        ------
        AwsError
            It is not as InvokeEndpointAsync wants it.
        """
        assert fleet.asynchronous is not None  # noqa: S101 - whoever calls has seen to it
        request = request_of(fleet.id, fleet.asynchronous, fields, body)
        self._backlogs.setdefault(fleet.id, _Backlog()).waiting.append(request)
        self._start_more(fleet.id)
        headers = [
            (b"content-type", b"application/json"),
            (b"x-amzn-requestid", request_id),
            (b"x-amzn-sagemaker-outputlocation", request.output.encode()),
        ]
        if request.failure is not None:
            headers.append((b"x-amzn-sagemaker-failurelocation", request.failure.encode()))
        return ApiReply(202, headers, json.dumps({"InferenceId": request.inference_id}).encode())

    async def run(self) -> None:
        """Once a second, until cancelled: let requests expire, and begin what there is room for."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            for endpoint, backlog in list(self._backlogs.items()):
                try:
                    self._work_on(endpoint, backlog)
                except Exception:
                    logger.exception("endpoint %s: its queue is not worked on", endpoint.name)

    async def close(self) -> None:
        """Drop everything."""
        running = [task for one in self._backlogs.values() for task in one.running]
        # First: each task that ends would begin the next.
        self._backlogs.clear()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def observations(self) -> Iterator[tuple[EndpointId, list[Observation]]]:
        """Return what there is to tell since the last time."""
        for (endpoint, _), metrics in list(self._metrics.items()):
            yield endpoint, metrics.take()
        for endpoint, fleet in list(self._serving.items()):
            if fleet.asynchronous is None:
                continue
            backlog = self._backlogs.get(endpoint, _Backlog())
            instances = fleet.instance_count
            size = float(len(backlog))
            dimensions = (("EndpointName", endpoint.name),)
            unserved = float(bool(size) and not instances)
            yield (
                endpoint,
                [
                    gauge("ApproximateBacklogSize", "Count", dimensions, size),
                    gauge(
                        "ApproximateBacklogSizePerInstance",
                        "Count",
                        dimensions,
                        size / max(instances, 1),
                    ),
                    gauge("ApproximateAgeOfOldestRequest", "Seconds", dimensions, backlog.oldest),
                    gauge("HasBacklogWithoutCapacity", "Count", dimensions, unserved),
                ],
            )

    # The queue.

    def _work_on(self, endpoint: EndpointId, backlog: _Backlog) -> None:
        if endpoint not in self._serving:  # it is being deleted
            del self._backlogs[endpoint]
            for task in backlog.running:
                task.cancel()
            for key in [key for key in self._metrics if key[0] == endpoint]:
                del self._metrics[key]
            return
        expired = [one for one in backlog.waiting if one.age >= one.ttl]
        for request in expired:
            backlog.waiting.remove(request)
            self._run(backlog, request, self._expire(request))
        self._start_more(endpoint)

    def _start_more(self, endpoint: EndpointId) -> None:
        fleet, backlog = self._serving.get(endpoint), self._backlogs.get(endpoint)
        if fleet is None or backlog is None:
            return
        while backlog.waiting:
            request = backlog.waiting[0]
            # An update may have taken the AsyncInferenceConfig away: what waits goes by its own.
            each = (fleet.asynchronous or request.specification).concurrency or _CONCURRENCY
            if len(backlog.running) >= each * fleet.instance_count:
                return
            backlog.waiting.popleft()
            self._run(backlog, request, self._serve(request))

    def _run(
        self, backlog: _Backlog, request: AsyncRequest, work: Coroutine[None, None, None]
    ) -> None:
        task = asyncio.ensure_future(work)
        backlog.running[task] = request
        task.add_done_callback(lambda done: self._ended(backlog, done))

    def _ended(self, backlog: _Backlog, task: asyncio.Task[None]) -> None:
        request = backlog.running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an asynchronous invocation failed", exc_info=error)
        # Now: until `run` looks again, a place would be empty for up to a second.
        self._start_more(request.endpoint)

    # The work.

    async def _serve(self, request: AsyncRequest) -> None:
        serving = self._serving.get(request.endpoint)
        if serving is None:  # it has been deleted, and its queue with it
            return
        # Chosen now and not when it came: an update may have moved the traffic since.
        fleet = serving.now()
        variant = fleet.variant_for(None)
        metrics = self._metrics_of(request.endpoint, variant.name)
        metrics.backlog.add(request.age * 1e6)
        outcome = await self._outcome(request, fleet, variant, metrics)
        await self._report(request, outcome, fleet, metrics)

    async def _outcome(
        self, request: AsyncRequest, fleet: Fleet, variant: Variant, metrics: AsyncMetrics
    ) -> AsyncOutcome:
        body = request.body
        if request.input is not None:
            began = time.perf_counter()
            place, owner = request.input, request.endpoint
            try:
                found = await asyncio.to_thread(
                    self._aws.read_object, owner.account, owner.region, place.bucket, place.key
                )
            except Exception as error:  # noqa: BLE001 - whatever moto says, it is no payload
                logger.warning("%s cannot be read: %s", place, error)
                found = None
            metrics.download.add((time.perf_counter() - began) * 1e6)
            if found is None or len(found) > _LARGEST_PAYLOAD:
                metrics.download_failures.count += 1
                why = "there is no such object" if found is None else "it is larger than 1 GB"
                return AsyncOutcome(
                    failure=f"ClientError: The request payload {request.input_url} could not be "
                    f"downloaded: {why}."
                )
            body = found
        return await self._answered(request, fleet, variant, body)

    async def _answered(
        self, request: AsyncRequest, fleet: Fleet, variant: Variant, body: bytes
    ) -> AsyncOutcome:
        began = time.perf_counter()
        try:
            invocation = await variant.invoke("", request.headers, body, request.timeout)
        except AwsError as error:
            return self._refused(request, variant, error, began)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.exception("an asynchronous invocation failed in the endpoint service itself")
            failure = f"InternalFailure: {type(error).__name__}: {error}"
            return AsyncOutcome(failure=failure, variant=variant.name)
        reply, took = invocation.reply, invocation.model_microseconds
        variant.metrics.invoked(reply.status, took, took, by_model=True)
        variant.metrics.targets.asked("", took, failed=reply.status >= _FIRST_ERROR)
        kind = reply.headers.get(b"content-type", b"").decode("latin-1")
        outcome = AsyncOutcome(bytes(reply.body), kind, "", took, reply.status, variant.name)
        if reply.status >= _FIRST_ERROR:
            said = model_error(fleet.id, reply.status, reply.text).message
            where = f"{fleet.id.name}/{variant.name}"
            fleet.event_log.record("error", where, said[:2000], status=reply.status)
            return replace(outcome, failure=_reason(reply.status))
        if fleet.capture is not None:
            fields = dict(request.headers)
            event = request.inference_id.encode()
            fleet.capture.add(variant.name, fields, body, reply, event)
        return outcome

    def _refused(
        self, request: AsyncRequest, variant: Variant, error: AwsError, began: float
    ) -> AsyncOutcome:
        took = (time.perf_counter() - began) * 1e6
        variant.metrics.targets.asked("", took, failed=True)
        status = error.members.get("OriginalStatusCode")
        if not isinstance(status, int):
            variant.metrics.invoked(error.status, 0.0, took, by_model=False)
            failure = f"{error.code}: {error.message}"
        else:
            variant.metrics.invoked(status or 500, 0.0, took, by_model=True)
            failure = _reason(status)
            if not status:
                failure = (
                    f"ClientError: The model did not answer within {request.timeout:g} seconds "
                    "(InvocationTimeoutSeconds)."
                )
        return AsyncOutcome(failure=failure, variant=variant.name)

    async def _expire(self, request: AsyncRequest) -> None:
        fleet = self._serving.get(request.endpoint)
        if fleet is None:
            return
        metrics = self._metrics_of(request.endpoint, fleet.variants[0].name)
        metrics.expired.count += 1
        failure = (
            f"ClientError: The request waited for longer than {request.ttl:g} seconds "
            "(RequestTTLSeconds) and has expired."
        )
        await self._report(request, AsyncOutcome(failure=failure), fleet, metrics)

    # What is said of it.

    async def _report(
        self, request: AsyncRequest, outcome: AsyncOutcome, fleet: Fleet, metrics: AsyncMetrics
    ) -> None:
        if not outcome.failure:
            began = time.perf_counter()
            refusal = await self._write(request, request.output, outcome)
            metrics.upload.add((time.perf_counter() - began) * 1e6)
            if refusal:
                metrics.upload_failures.count += 1
                failure = f"ClientError: The answer could not be written to {request.output}."
                outcome = replace(outcome, failure=failure, body=None)
                self._warn(fleet, request.specification.output, refusal)
        if outcome.failure:
            metrics.failures.count += 1
            if outcome.status < _FIRST_ERROR:  # what the model answered was recorded with its text
                fleet.event_log.record("error", request.endpoint.name, outcome.failure)
            if request.failure is not None:
                told = outcome
                if outcome.body is None:
                    told = replace(
                        outcome, body=outcome.failure.encode(), content_type="text/plain"
                    )
                refusal = await self._write(request, request.failure, told)
                if refusal:
                    metrics.upload_failures.count += 1
                    self._warn(fleet, request.specification.failure, refusal)
        await self._notify(request, outcome, fleet, metrics)
        metrics.processed.count += 1
        metrics.total.add(request.age * 1e3)

    async def _write(self, request: AsyncRequest, address: str, outcome: AsyncOutcome) -> str:
        """Write an answer to S3; return why it is not there, or ""."""
        headers: Headers = [(b"content-type", (outcome.content_type or _UNTYPED).encode())]
        if request.specification.key:
            headers += [
                (b"x-amz-server-side-encryption", b"aws:kms"),
                (
                    b"x-amz-server-side-encryption-aws-kms-key-id",
                    request.specification.key.encode(),
                ),
            ]
        put = object_put(request.endpoint, locate(address), outcome.body or b"", headers)
        reply = await self._aws.answer(put)
        return reply.body.decode("utf-8", "replace") if reply.status >= _FIRST_ERROR else ""

    async def _notify(
        self, request: AsyncRequest, outcome: AsyncOutcome, fleet: Fleet, metrics: AsyncMetrics
    ) -> None:
        specification = request.specification
        topic = specification.error_topic if outcome.failure else specification.success_topic
        if not topic:
            return
        reply = await self._aws.answer(notification(topic, notification_message(request, outcome)))
        if reply.status >= _FIRST_ERROR:
            metrics.notification_failures.count += 1
            self._warn(fleet, topic, reply.body.decode("utf-8", "replace"))

    def _warn(self, fleet: Fleet, where: str, reason: str) -> None:
        """Say what cannot be written or told: in the event log, and once a place in the log."""
        fleet.event_log.record("error", fleet.id.name, f"{where}: {reason}")
        if (fleet.id, where) not in self._warned:  # for every request would be too often
            self._warned.add((fleet.id, where))
            logger.warning("endpoint %s: %s: %s", fleet.id.name, where, reason)

    def _metrics_of(self, endpoint: EndpointId, variant: str) -> AsyncMetrics:
        found = self._metrics.get((endpoint, variant))
        if found is None:
            found = self._metrics[endpoint, variant] = AsyncMetrics(endpoint, variant)
        return found


def _reason(status: int) -> str:
    side = "client" if 0 < status <= _LAST_CLIENT_ERROR else "server"
    return (
        f"ClientError: Received {side} error ({status}) from model. See the SageMaker Endpoint "
        "logs in your account for more information."
    )
