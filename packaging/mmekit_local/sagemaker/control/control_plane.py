"""SageMaker's control plane: moto keeps the records, this adds what it lacks and acts on them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from moto.core.utils import get_service_model

from mmekit_local.sagemaker.api import ApiReply, ApiRequest, Caller, new_request_id, operation_of
from mmekit_local.sagemaker.control.hosted_endpoint import VariantCapacity
from mmekit_local.sagemaker.control.members import check_members
from mmekit_local.sagemaker.control.operations import EMPTY, empty_list, refusal
from mmekit_local.sagemaker.control.records import Records, sagemaker_regions
from mmekit_local.sagemaker.control.rules import check, deployment_in
from mmekit_local.sagemaker.control.validation import checked_members
from mmekit_local.sagemaker.errors import AwsError, control_reply, unknown_region
from mmekit_local.sagemaker.specification import EndpointId

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.sagemaker.aws_client import AwsClient
    from mmekit_local.sagemaker.control.endpoint_controller import EndpointController

__all__ = ["ControlPlane"]

_READING = ("Describe", "List", "Search", "Get")
_SETTLING = ("CreateEndpoint", "DeleteEndpoint")
_SETTLE_S = 3.0
"""boto3's waiters ask at once and then every 30 s: a container that starts in a second should not
cost half a minute."""

_PROPERTIES = frozenset({"DesiredInstanceCount", "DesiredWeight", "DataCaptureConfig"})


class ControlPlane:
    """Answers requests to SageMaker.

    Parameters
    ----------
    aws
        Answers what is not added here.
    controller
        Is told after every request that endpoints may have come or gone.
    """

    def __init__(self, aws: AwsClient, controller: EndpointController) -> None:
        self._aws = aws
        self._controller = controller
        self._regions = sagemaker_regions()
        # Between a check and what it allows, nobody else may change what was checked.
        self._changing = asyncio.Lock()
        self._own: dict[str, Callable[[EndpointId, dict[str, Any]], None]] = {
            "UpdateEndpoint": self._update,
            "UpdateEndpointWeightsAndCapacities": self._set_capacities,
        }

    async def answer(self, request: ApiRequest, caller: Caller) -> ApiReply:
        """Answer a request of the control plane."""
        if caller.region not in self._regions:
            return control_reply(unknown_region(), new_request_id())
        operation = operation_of(request)
        members: dict[str, Any] = {}
        if caller.service == "sagemaker":
            try:
                members = _members(operation, b"".join(request.body))
            except AwsError as error:
                return control_reply(error, new_request_id())
            if operation in EMPTY:
                return _reply(empty_list(operation))
        endpoint = EndpointId(caller.account, caller.region, str(members.get("EndpointName")))
        if operation == "DescribeEndpoint":
            self._controller.refresh(endpoint)
        # What only reads changes nothing that was checked, and does not wait for what changes.
        if operation.startswith(_READING):
            return await self._answer(operation, members, request, caller)
        async with self._changing:
            reply = await self._answer(operation, members, request, caller)
        # Without the lock: what others change need not wait for a container.
        if operation in _SETTLING:
            await self._controller.settle(endpoint, _SETTLE_S)
        return reply

    async def _answer(
        self, operation: str, members: dict[str, Any], request: ApiRequest, caller: Caller
    ) -> ApiReply:
        if caller.service == "sagemaker":
            try:
                check(operation, members, self._records(caller.account, caller.region))
                if operation in self._own:
                    return await self._change(operation, members, request, caller)
            except AwsError as error:
                return control_reply(error, new_request_id())
        reply = await self._aws.answer(request)
        self._controller.reconcile(caller.account, caller.region)
        return reply

    async def _change(
        self, operation: str, members: dict[str, Any], request: ApiRequest, caller: Caller
    ) -> ApiReply:
        """Do what moto does not do: change an endpoint that is in service."""
        name = str(members["EndpointName"])
        endpoint = EndpointId(caller.account, caller.region, name)
        records = self._records(caller.account, caller.region)
        # Before the wait for a disk: a second update that comes meanwhile finds one in progress.
        self._controller.begin_update(endpoint)
        try:
            await self._aws.keep(request)
        except AwsError:
            self._controller.cancel_update(endpoint)
            raise
        self._own[operation](endpoint, members)
        return _reply({"EndpointArn": records.arn("endpoint", name)})

    def _update(self, endpoint: EndpointId, members: dict[str, Any]) -> None:
        retained: frozenset[str] = frozenset()
        if members.get("RetainAllVariantProperties"):
            excluded = members.get("ExcludeRetainedVariantProperties") or ()
            retained = _PROPERTIES - {item["VariantPropertyType"] for item in excluded}
        deployment = deployment_in(members, self._records(endpoint.account, endpoint.region))
        self._controller.update(endpoint, members["EndpointConfigName"], retained, deployment)

    def _records(self, account: str, region: str) -> Records:
        return Records(account, region, are_replayed=self._aws.is_replaying)

    def _set_capacities(self, endpoint: EndpointId, members: dict[str, Any]) -> None:
        wishes = members["DesiredWeightsAndCapacities"]
        capacities = {
            wish["VariantName"]: VariantCapacity(
                wish.get("DesiredInstanceCount"), wish.get("DesiredWeight")
            )
            for wish in wishes
        }
        self._controller.set_capacities(endpoint, capacities)


def _members(operation: str, body: bytes) -> dict[str, Any]:
    """Return a request's members, which are as they may be, and all of which are acted on.

    Raises
    ------
    AwsError
        What the client shall see.
    """
    # First: what is not rehearsed is refused for that, and not for a member that is amiss.
    if operation in get_service_model("sagemaker").operation_names:
        refused = refusal(operation)
        if refused is not None:
            raise refused
    members = checked_members("sagemaker", operation, body)
    if operation not in EMPTY:
        check_members(operation, members)
    return members


def _reply(answer: dict[str, Any]) -> ApiReply:
    headers = [
        (b"content-type", b"application/x-amz-json-1.1"),
        (b"x-amzn-requestid", new_request_id()),
    ]
    return ApiReply(200, headers, json.dumps(answer).encode())
