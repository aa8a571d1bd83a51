"""InvokeEndpoint: the hot path. Nothing here touches moto, a thread or a disk."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from mmekit.endpoint.errors import (
    AwsError,
    internal_failure,
    model_error,
    runtime_reply,
    validation_error,
)
from mmekit.endpoint.http import Headers, Receive, Reply, new_request_id, read_body
from mmekit.endpoint.specification import EndpointId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.endpoint.caller import Caller
    from mmekit.endpoint.fleet import Fleet, Variant
    from mmekit.endpoint.options import Limits

__all__ = ["DataPlane"]

logger = logging.getLogger("mmekit.endpoint")

_TARGET_MODEL = b"x-amzn-sagemaker-target-model"
_TARGET_VARIANT = b"x-amzn-sagemaker-target-variant"
_CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
_FORWARDED = (b"content-type", b"accept", _CUSTOM_ATTRIBUTES)

_RETURNED = (b"content-type", _CUSTOM_ATTRIBUTES)

_TARGET_PATTERN = r"\A\S[\p{Print}]*\z"  # as botocore's service model spells it
_TARGET = re.compile(r"[!-~][ -~]*")  # the same, for Python
_FIRST_ERROR = 400


class DataPlane:
    """Answers invocations.

    Parameters
    ----------
    serving
        The endpoints that are in service; whoever owns it changes it as they come and go.
    limits
        Of bodies and target models.
    """

    def __init__(self, serving: Mapping[EndpointId, Fleet], limits: Limits) -> None:
        self._serving = serving
        self._limits = limits

    async def answer(
        self, caller: Caller, endpoint: str, headers: Headers, receive: Receive
    ) -> Reply:
        """Answer ``POST /endpoints/{endpoint}/invocations``.

        Parameters
        ----------
        caller
            Whose endpoint it is.
        endpoint
            The endpoint's name.
        headers
            The request's.
        receive
            Yields the request's body.
        """
        began = time.perf_counter()
        request_id = new_request_id()
        pieces = await read_body(receive, self._limits.body_bytes)
        variant: Variant | None = None
        try:
            body = self._checked(pieces)
            fleet = self._fleet(EndpointId(caller.account, caller.region, endpoint))
            fields = dict(headers)
            variant = fleet.variant_for(_text(fields.get(_TARGET_VARIANT)))
            target = self._target(fields.get(_TARGET_MODEL), fleet.id, variant, request_id)
            forwarded = [(name, fields[name]) for name in _FORWARDED if name in fields]
            invocation = await variant.instance_for(target).invoke(target, forwarded, body)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is an answer as well
            refusal = error if isinstance(error, AwsError) else _unforeseen(error)
            if variant is not None:
                total = (time.perf_counter() - began) * 1e6
                by_model = "OriginalStatusCode" in refusal.members
                variant.metrics.invoked(_status_of(refusal), 0.0, total, by_model=by_model)
            return runtime_reply(refusal, request_id)
        reply = invocation.reply
        total = (time.perf_counter() - began) * 1e6
        variant.metrics.invoked(reply.status, invocation.model_microseconds, total, by_model=True)
        if reply.status >= _FIRST_ERROR:
            return runtime_reply(model_error(fleet.id, reply.status, reply.text), request_id)
        return Reply(
            200,
            [
                (b"x-amzn-requestid", request_id),
                (b"x-amzn-invoked-production-variant", variant.header),
                *((name, reply.headers[name]) for name in _RETURNED if name in reply.headers),
            ],
            reply.body,
        )

    def _checked(self, pieces: tuple[bytes, ...] | None) -> bytes:
        if pieces is None:
            raise validation_error(
                "1 validation error detected: Value at 'body' failed to satisfy constraint: "
                f"Member must have length less than or equal to {self._limits.body_bytes}"
            )
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fleet(self, endpoint: EndpointId) -> Fleet:
        fleet = self._serving.get(endpoint)
        if fleet is None:  # unknown, still creating, failed or being deleted: AWS says the same
            raise validation_error(
                f"Endpoint {endpoint.name} of account {endpoint.account} not found."
            )
        return fleet

    def _target(
        self, header: bytes | None, endpoint: EndpointId, variant: Variant, request_id: bytes
    ) -> str:
        """Return the target model, "" for a variant that has but one."""
        if not variant.multi_model:
            if header is not None:
                raise validation_error(
                    f"Endpoint {endpoint.name} is not a multi-model endpoint and does not support "
                    "target model header."
                )
            return ""
        if header is None:
            raise validation_error(
                f"Request {request_id.decode()} is missing a target model header."
            )
        target = header.decode("latin-1")
        if len(target) > self._limits.target_model_characters:
            raise _constraint(
                target,
                "Member must have length less than or equal to "
                f"{self._limits.target_model_characters}",
            )
        if not target:
            raise _constraint(target, "Member must have length greater than or equal to 1")
        if not _TARGET.fullmatch(target):
            raise _constraint(
                target, f"Member must satisfy regular expression pattern: {_TARGET_PATTERN}"
            )
        if ".." in target.split("/"):
            raise validation_error(f"Invalid target model {target!r}: it must not contain '..'.")
        return target


def _unforeseen(error: Exception) -> AwsError:
    logger.error("an invocation failed in the endpoint service itself", exc_info=error)
    return internal_failure(f"{type(error).__name__}: {error}")


def _constraint(target: str, constraint: str) -> AwsError:
    return validation_error(
        f"1 validation error detected: Value '{target}' at 'targetModel' failed to satisfy "
        f"constraint: {constraint}"
    )


def _status_of(error: AwsError) -> int:
    """Return what counts for the metrics: the container's own status where there is one."""
    status = error.members.get("OriginalStatusCode")
    return status or 500 if isinstance(status, int) else error.status


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")
