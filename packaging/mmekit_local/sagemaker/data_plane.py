"""InvokeEndpoint: the hot path. Nothing here touches moto, a thread or a disk."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.api import ApiReply, new_request_id
from mmekit_local.sagemaker.control.members import refused_headers
from mmekit_local.sagemaker.errors import (
    AwsError,
    internal_failure,
    model_error,
    runtime_reply,
    validation_error,
)
from mmekit_local.sagemaker.instances.container_connection import (
    ContainerSilentError,
    ContainerTimeoutError,
)
from mmekit_local.sagemaker.response_stream import CONTENT_TYPE, ResponseStream
from mmekit_local.sagemaker.specification import EndpointId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.archive import Example
    from mmekit_local.sagemaker.api import Caller
    from mmekit_local.sagemaker.asynchronous import AsyncInference
    from mmekit_local.sagemaker.instances.container_connection import StreamedReply
    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.instances.variant import Variant
    from mmekit_local.sagemaker.options import EndpointLimits

__all__ = ["DataPlane"]

logger = logging.getLogger("mmekit.endpoint")

_TARGET_MODEL = b"x-amzn-sagemaker-target-model"
_TARGET_VARIANT = b"x-amzn-sagemaker-target-variant"
_CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
_INFERENCE_ID = b"x-amzn-sagemaker-inference-id"
_INFERENCE_COMPONENT = b"x-amzn-sagemaker-inference-component"
_FORWARDED = (b"content-type", b"accept", _CUSTOM_ATTRIBUTES, _INFERENCE_ID)
_ACCEPT_ANY = (b"accept", b"*/*")
"""What SageMaker gives a container when the client says nothing; its toolkits look for it
(aws/sagemaker-containers, pull requests 142 and 143), and DJL's sklearn_handler fails without."""
_MEMBERS = {  # header: (the member of InvokeEndpointInput, its most characters)
    b"content-type": ("contentType", 1024),
    b"accept": ("accept", 1024),
    _CUSTOM_ATTRIBUTES: ("customAttributes", 1024),
    _INFERENCE_ID: ("inferenceId", 64),
}
_SHORTEST_LIMIT = 64
"""No member's limit is below: hardly any header is long enough to be looked up."""

_REFUSED = refused_headers("InvokeEndpoint")
_REFUSED_OF_STREAMS = refused_headers("InvokeEndpointWithResponseStream")
_RETURNED = (b"content-type", _CUSTOM_ATTRIBUTES)
_ACCEPT = b"x-amzn-sagemaker-accept"
_STREAMED = (
    (b"content-type", b"x-amzn-sagemaker-content-type"),
    (_CUSTOM_ATTRIBUTES, _CUSTOM_ATTRIBUTES),
)
"""What a container says of a stream, and what the client is told of it."""

_TARGET_PATTERN = r"\A\S[\p{Print}]*\z"  # as botocore's service model spells it
_TARGET = re.compile(r"[!-~][ -~]*")  # the same, for Python
_FIRST_ERROR = 400
_CAUSE = 2000  # characters of an error to write down


class DataPlane:
    """Answers invocations.

    Parameters
    ----------
    serving
        The endpoints that are in service; whoever owns it changes it as they come and go.
    limits
        Of bodies and target models.
    asynchronous
        Takes what is to be answered later; None where nothing is.
    """

    def __init__(
        self,
        serving: Mapping[EndpointId, Fleet],
        limits: EndpointLimits,
        asynchronous: AsyncInference | None = None,
    ) -> None:
        self._serving = serving
        self._limits = limits
        self._asynchronous = asynchronous

    async def answer(
        self, caller: Caller, endpoint: str, fields: Mapping[bytes, bytes], body: bytes
    ) -> ApiReply:
        """Answer ``POST /endpoints/{endpoint}/invocations``.

        Parameters
        ----------
        caller
            Whose endpoint it is.
        endpoint
            The endpoint's name.
        fields
            The request's headers; names are in lower case.
        body
            The request's body, which is not longer than it may be.
        """
        began = time.perf_counter()
        request_id = new_request_id()
        fleet: Fleet | None = None
        variant: Variant | None = None
        try:
            fleet = self._fleet_at_once(EndpointId(caller.account, caller.region, endpoint))
            variant = fleet.variant_for(_text(fields.get(_TARGET_VARIANT)))
            target = self._target(fields.get(_TARGET_MODEL), fleet.id, variant, request_id)
            _check_length(body, variant.body_bytes)
            forwarded = _checked_headers(fields)
            if fleet.shadow_traffic is not None:
                # Before the answer: what the production variant fails at is copied as well.
                fleet.shadow_traffic.copy(target, forwarded, fields, body, request_id)
            invocation = await variant.invoke(target, forwarded, body)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is an answer as well
            return self._refused(error, fleet, variant, fields, began, request_id)
        reply = invocation.reply
        total = (time.perf_counter() - began) * 1e6
        failed = reply.status >= _FIRST_ERROR
        variant.metrics.invoked(reply.status, invocation.model_microseconds, total, by_model=True)
        variant.metrics.targets.asked(target, total, failed=failed)
        if failed:
            refusal = model_error(fleet.id, reply.status, reply.text)
            _record(refusal, fleet, variant, fields)
            return runtime_reply(refusal, request_id)
        if fleet.capture is not None:
            fleet.capture.add(variant.name, fields, body, reply, request_id)
        return ApiReply(
            200,
            [
                (b"x-amzn-requestid", request_id),
                (b"x-amzn-invoked-production-variant", variant.header),
                *((name, reply.headers[name]) for name in _RETURNED if name in reply.headers),
            ],
            reply.body,
        )

    def accept(
        self, caller: Caller, endpoint: str, fields: Mapping[bytes, bytes], body: bytes
    ) -> ApiReply:
        """Answer InvokeEndpointAsync: the request waits for its turn."""
        request_id = new_request_id()
        try:
            fleet = self._fleet(EndpointId(caller.account, caller.region, endpoint))
            if fleet.asynchronous is None or self._asynchronous is None:
                raise validation_error(
                    f"Endpoint {endpoint} is not an asynchronous endpoint: its configuration has "
                    "no AsyncInferenceConfig."
                )
            return self._asynchronous.accept(fleet, fields, body, request_id)
        except AwsError as error:
            return runtime_reply(error, request_id)

    async def stream(
        self, caller: Caller, endpoint: str, fields: Mapping[bytes, bytes], body: bytes
    ) -> ApiReply:
        """Answer InvokeEndpointWithResponseStream, which has no member for a target model."""
        began = time.perf_counter()
        request_id = new_request_id()
        fleet: Fleet | None = None
        variant: Variant | None = None
        held = contextlib.AsyncExitStack()
        try:
            fleet = self._fleet_at_once(EndpointId(caller.account, caller.region, endpoint))
            variant = fleet.variant_for(_text(fields.get(_TARGET_VARIANT)))
            forwarded = _checked_stream(fleet.id, fields, body, variant, request_id)
            if fleet.shadow_traffic is not None:
                fleet.shadow_traffic.copy("", forwarded, fields, body, request_id)
            reply = await held.enter_async_context(variant.streaming(forwarded, body))
            await _raise_unless_ok(reply, fleet)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is an answer as well
            await held.aclose()
            return self._refused(error, fleet, variant, fields, began, request_id)
        except BaseException:
            # A client that goes away leaves a connection and a place at the instance.
            await held.aclose()
            raise
        headers = [
            (b"content-type", CONTENT_TYPE),
            (b"x-amzn-requestid", request_id),
            (b"x-amzn-invoked-production-variant", variant.header),
        ]
        for name, as_told in _STREAMED:
            if name in reply.headers:
                headers.append((as_told, reply.headers[name]))
        return ApiReply(200, headers, stream=ResponseStream(variant, reply, held, began))

    def _refused(
        self,
        error: Exception,
        fleet: Fleet | None,
        variant: Variant | None,
        fields: Mapping[bytes, bytes],
        began: float,
        request_id: bytes,
    ) -> ApiReply:
        """Return the answer to what failed, which is counted and written down."""
        refusal = error if isinstance(error, AwsError) else _unforeseen(error)
        if variant is not None:
            total = (time.perf_counter() - began) * 1e6
            by_model = "OriginalStatusCode" in refusal.members
            variant.metrics.invoked(_status_of(refusal), 0.0, total, by_model=by_model)
            asked = _text(fields.get(_TARGET_MODEL)) or ""
            target = asked[: self._limits.target_model_characters]
            variant.metrics.targets.asked(target, total, failed=True)
        if fleet is not None:
            _record(refusal, fleet, variant, fields)
        return runtime_reply(refusal, request_id)

    def _fleet(self, endpoint: EndpointId) -> Fleet:
        fleet = self._serving.get(endpoint)
        if fleet is None:  # unknown, still creating, failed or being deleted: AWS says the same
            raise validation_error(
                f"Endpoint {endpoint.name} of account {endpoint.account} not found."
            )
        return fleet if fleet.successor is None else fleet.now()

    def _fleet_at_once(self, endpoint: EndpointId) -> Fleet:
        """Return the fleet of an endpoint whose requests do not wait in a queue."""
        fleet = self._fleet(endpoint)
        if fleet.asynchronous is not None:
            raise validation_error(
                f"Endpoint {endpoint.name} is an asynchronous endpoint: its configuration has an "
                "AsyncInferenceConfig, so that it can only receive asynchronous invocations. Use "
                "InvokeEndpointAsync."
            )
        return fleet

    async def example(self, caller: Caller, endpoint: str, target: str) -> Example | None:
        """Return a request that a target model answers; None where its archive tells of none.

        Raises
        ------
        AwsError
            There is no such endpoint.
        ArchiveError
            The archive is damaged, or its manifest cannot be read.
        """
        fleet = self._fleet(EndpointId(caller.account, caller.region, endpoint))
        return await fleet.example(target)

    def _target(
        self, header: bytes | None, endpoint: EndpointId, variant: Variant, request_id: bytes
    ) -> str:
        """Return the target model, "" for a variant that has but one."""
        if not variant.multi_model:
            if header is not None:
                raise _no_target_wanted(endpoint)
            return ""
        if header is None:
            raise _no_target(request_id)
        target = header.decode("latin-1")
        if len(target) > self._limits.target_model_characters:
            raise _too_long("targetModel", target, self._limits.target_model_characters)
        if not target:
            raise _too_short("targetModel")
        if not _TARGET.fullmatch(target):
            raise _constraint(
                "targetModel",
                target,
                f"Member must satisfy regular expression pattern: {_TARGET_PATTERN}",
            )
        if ".." in target.split("/"):
            raise validation_error(f"Invalid target model {target!r}: it must not contain '..'.")
        return target


def _unforeseen(error: Exception) -> AwsError:
    logger.error("an invocation failed in the endpoint service itself", exc_info=error)
    return internal_failure(f"{type(error).__name__}: {error}")


def _checked_stream(
    endpoint: EndpointId,
    fields: Mapping[bytes, bytes],
    body: bytes,
    variant: Variant,
    request_id: bytes,
) -> list[tuple[bytes, bytes]]:
    """Return what is forwarded to the container of a request for a response stream.

    Raises
    ------
    AwsError
        The variant has several models, or the request is not as the operation wants it.
    """
    if variant.multi_model:
        raise _no_target(request_id)
    if _TARGET_MODEL in fields:
        raise _no_target_wanted(endpoint)
    _check_length(body, variant.body_bytes)
    # For this operation botocore sends the container's Accept by another header.
    wishes = {name: value for name, value in fields.items() if name != b"accept"}
    if (accept := fields.get(_ACCEPT)) is not None:
        wishes[b"accept"] = accept
    return _checked_headers(wishes, _REFUSED_OF_STREAMS)


async def _raise_unless_ok(reply: StreamedReply, fleet: Fleet) -> None:
    """Raise what a container says instead of an answer."""
    if reply.status < _FIRST_ERROR:
        return
    try:
        said = (await reply.rest()).decode("utf-8", "replace")
    except (ContainerSilentError, ContainerTimeoutError) as error:
        said = f"The answer broke off: {error}"
    raise model_error(fleet.id, reply.status, said)


def _check_length(body: bytes, limit: int) -> None:
    if len(body) > limit:
        raise validation_error(
            "1 validation error detected: Value at 'body' failed to satisfy constraint: "
            f"Member must have length less than or equal to {limit}"
        )


def _record(
    error: AwsError, fleet: Fleet, variant: Variant | None, fields: Mapping[bytes, bytes]
) -> None:
    """Write an error down, with its cause, for whoever looks at what happened."""
    where = fleet.id.name if variant is None else f"{fleet.id.name}/{variant.name}"
    status = error.members.get("OriginalStatusCode")
    cause = error.message if status is None else f"{status} {error.members['OriginalMessage']}"
    target = _text(fields.get(_TARGET_MODEL)) or ""
    text = f"{error.code}: {cause[:_CAUSE]}"
    fleet.event_log.record("error", where, text, target=target, status=_status_of(error))


def _checked_headers(
    fields: Mapping[bytes, bytes], refused: Mapping[bytes, str] = _REFUSED
) -> list[tuple[bytes, bytes]]:
    """Return what is forwarded to the container.

    Raises
    ------
    AwsError
        A header is longer or shorter than its member may be, or asks for what is not rehearsed.
    """
    # One call for all of them: nearly no request has any.
    if not fields.keys().isdisjoint(refused):
        raise _not_rehearsed(fields, refused)
    forwarded = []
    for name in _FORWARDED:
        if (value := fields.get(name)) is not None:
            if len(value) > _SHORTEST_LIMIT:
                _check_member(name, value)
            forwarded.append((name, value))
    if fields.get(_INFERENCE_ID) == b"":
        raise _too_short("inferenceId")
    if b"accept" not in fields:
        forwarded.append(_ACCEPT_ANY)
    return forwarded


def _not_rehearsed(fields: Mapping[bytes, bytes], refused: Mapping[bytes, str]) -> AwsError:
    if _INFERENCE_COMPONENT in fields:
        return validation_error(
            "Inference Component Name header is not allowed for endpoints to which you dont plan "
            "to deploy inference components. Please remove Inference Component Name header and "
            "try again."
        )
    asked = "; ".join(why for header, why in refused.items() if header in fields)
    return validation_error(
        f"The request asks for what is not rehearsed on this machine ({asked}). Leave it out here; "
        "the same request works on AWS."
    )


def _check_member(header: bytes, value: bytes) -> None:
    member, most = _MEMBERS[header]
    if len(value) > most:
        raise _too_long(member, value.decode("latin-1"), most)


def _no_target(request_id: bytes) -> AwsError:
    return validation_error(f"Request {request_id.decode()} is missing a target model header.")


def _no_target_wanted(endpoint: EndpointId) -> AwsError:
    return validation_error(
        f"Endpoint {endpoint.name} is not a multi-model endpoint and does not support target model "
        "header."
    )


def _too_long(member: str, value: str, most: int) -> AwsError:
    return _constraint(member, value, f"Member must have length less than or equal to {most}")


def _too_short(member: str) -> AwsError:
    return _constraint(member, "", "Member must have length greater than or equal to 1")


def _constraint(member: str, value: str, constraint: str) -> AwsError:
    return validation_error(
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy "
        f"constraint: {constraint}"
    )


def _status_of(error: AwsError) -> int:
    """Return what counts for the metrics: the container's own status where there is one."""
    status = error.members.get("OriginalStatusCode")
    return status or 500 if isinstance(status, int) else error.status


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")
