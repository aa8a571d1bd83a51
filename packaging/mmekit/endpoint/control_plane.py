"""SageMaker's control plane: moto keeps the records, this adds what it lacks and acts on them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mmekit.endpoint.errors import AwsError, control_reply, validation_exception
from mmekit.endpoint.http import Reply, Request, new_request_id
from mmekit.endpoint.specification import EndpointId

if TYPE_CHECKING:
    from mmekit.endpoint.aws import Aws
    from mmekit.endpoint.caller import Caller
    from mmekit.endpoint.hosting import Hosting

__all__ = ["ControlPlane"]

_CREATED = {  # operation: (the member that names it, as its ARN spells the kind, as AWS says it)
    "CreateModel": ("ModelName", "model", "model"),
    "CreateEndpointConfig": ("EndpointConfigName", "endpoint-config", "endpoint configuration"),
    "CreateEndpoint": ("EndpointName", "endpoint", "endpoint"),
}

_SETTLING = ("CreateEndpoint", "DeleteEndpoint")
_SETTLE_S = 3.0
"""boto3's waiters ask at once and then every 30 s: a container that starts in a second should not
cost half a minute."""


class ControlPlane:
    """Answers requests to SageMaker and CloudFormation.

    Parameters
    ----------
    aws
        Answers what is not added here.
    hosting
        Is told after every request that endpoints may have come or gone.
    """

    def __init__(self, aws: Aws, hosting: Hosting) -> None:
        self._aws = aws
        self._hosting = hosting

    async def answer(self, request: Request, caller: Caller) -> Reply:
        """Answer a request of the control plane."""
        operation = (request.header(b"x-amz-target") or b"").rpartition(b".")[2].decode("latin-1")
        try:
            members = _members(request) if caller.service == "sagemaker" else {}
            if operation == "UpdateEndpoint":
                return self._update_endpoint(members, caller)
            if operation in _CREATED:
                self._refuse_duplicate(operation, members, caller)
            if operation == "DeleteEndpoint":
                self._refuse_when_deleting(members, caller)
        except AwsError as error:
            return control_reply(error, new_request_id())
        reply = await self._aws.answer(request)
        self._hosting.reconcile(caller.account, caller.region)
        if operation in _SETTLING:
            name = str(members.get("EndpointName"))
            endpoint = EndpointId(caller.account, caller.region, name)
            await self._hosting.settle(endpoint, _SETTLE_S)
        return reply

    def _refuse_duplicate(self, operation: str, members: dict[str, object], caller: Caller) -> None:
        """Refuse what exists; moto would silently overwrite it."""
        member, kind, spoken = _CREATED[operation]
        name = str(members.get(member))
        if self._aws.has(kind, caller.account, caller.region, name):
            raise validation_exception(
                f'Cannot create already existing {spoken} "{_arn(caller, kind, name)}".'
            )

    def _refuse_when_deleting(self, members: dict[str, object], caller: Caller) -> None:
        name = str(members.get("EndpointName"))
        record = self._aws.endpoints(caller.account, caller.region).get(name)
        if record is not None and record.endpoint_status == "Deleting":
            raise _in_progress(caller, name)

    def _update_endpoint(self, members: dict[str, object], caller: Caller) -> Reply:
        """Do what moto does not know: run another endpoint config under the same endpoint."""
        name = str(members.get("EndpointName"))
        config = str(members.get("EndpointConfigName"))
        record = self._aws.endpoints(caller.account, caller.region).get(name)
        arn = _arn(caller, "endpoint", name)
        if record is None:
            raise validation_exception(f'Could not find endpoint "{arn}".')
        if record.endpoint_status != "InService":
            raise _in_progress(caller, name)
        if not self._aws.has("endpoint-config", caller.account, caller.region, config):
            missing = _arn(caller, "endpoint-config", config)
            raise validation_exception(f'Could not find endpoint configuration "{missing}".')
        self._hosting.update(EndpointId(caller.account, caller.region, name), config)
        headers = [
            (b"content-type", b"application/x-amz-json-1.1"),
            (b"x-amzn-requestid", new_request_id()),
        ]
        return Reply(200, headers, json.dumps({"EndpointArn": arn}).encode())


def _members(request: Request) -> dict[str, object]:
    try:
        members = json.loads(b"".join(request.body) or b"{}")
    except ValueError as error:
        raise AwsError(400, "SerializationException", f"The body is not JSON: {error}") from error
    return members if isinstance(members, dict) else {}


def _in_progress(caller: Caller, name: str) -> AwsError:
    arn = _arn(caller, "endpoint", name)
    return validation_exception(f'Cannot update in-progress endpoint "{arn}".')


def _arn(caller: Caller, kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{caller.region}:{caller.account}:{kind}/{name}"
