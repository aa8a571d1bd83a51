"""The stacks there are, the requests about them, and the threads that work on them.

Requests come in AWS's query protocol: forms in, XML out. Source:
https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.core.serialize import QuerySerializer, SerializationContext
from moto.core.utils import get_service_model

from mmekit_local.aws.cloudformation.change_sets import ChangeSets
from mmekit_local.aws.cloudformation.context import Clients, StackContext
from mmekit_local.aws.cloudformation.descriptions import StackDescriptions
from mmekit_local.aws.cloudformation.stack import Resource, Stack
from mmekit_local.aws.cloudformation.stack_operations import StackOperations
from mmekit_local.aws.cloudformation.stack_table import StackTable
from mmekit_local.aws.moto.aws import disk_failure
from mmekit_local.sagemaker.api import ApiReply, ApiRequest, new_request_id
from mmekit_local.sagemaker.control.records import sagemaker_regions
from mmekit_local.sagemaker.errors import AwsError, unknown_region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmekit_local.aws.moto.aws import Aws
    from mmekit_local.sagemaker.api import Caller
    from mmekit_local.sagemaker.control.endpoint_controller import EndpointController

__all__ = ["Stacks", "error_reply", "members_of", "reply_of"]

logger = logging.getLogger("mmekit.endpoint")

_SETTLE_S = 3.0
"""As for endpoints: boto3's waiters ask at once and then every 30 s."""
_CLOSING_S = 5.0

_NAMESPACE = "http://cloudformation.amazonaws.com/doc/2010-05-15/"
_XML = (b"content-type", b"text/xml")


class Stacks:
    """Answers requests to CloudFormation.

    Parameters
    ----------
    url
        Of this service, where resources are made.
    aws, controller
        What takes an endpoint away that is still being created.
    record_change
        Writes down, where state is kept, what is to become of a stack; OSError when it cannot.
    record_outcome
        Writes down what has become of one, now or later.
    """

    def __init__(
        self,
        url: str,
        aws: Aws,
        controller: EndpointController,
        record_change: Callable[[dict[str, Any]], None],
        record_outcome: Callable[[dict[str, Any]], None],
    ) -> None:
        self._aws = aws
        self._controller = controller
        self._record_change = record_change
        self._record_outcome = record_outcome
        self._clients = Clients(url)
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._regions = sagemaker_regions()
        self._work: dict[str, tuple[threading.Thread, StackContext]] = {}
        self._stacks = StackTable()
        self._one_at_a_time = threading.Lock()
        operations = StackOperations(self._stacks, self._begin, self._keep, aws)
        self._known = {
            **operations.known,
            **ChangeSets(self._stacks, operations, aws).known,
            **StackDescriptions(self._stacks, aws).known,
        }

    async def answer(self, request: ApiRequest, caller: Caller) -> ApiReply:
        """Answer a request to CloudFormation."""
        self._loop = asyncio.get_running_loop()
        request_id = new_request_id()
        if caller.region not in self._regions:
            return error_reply(unknown_region(), request_id)
        context = self._context(request, caller)
        try:
            operation, members = members_of(request)
            result = await asyncio.to_thread(self._perform, operation, members, context)
            # Outside the lock: who waits for a stack keeps nobody else from being answered.
            await asyncio.to_thread(self._settle, result.get("StackId"))
            return reply_of(operation, result, request_id)
        except AwsError as error:
            return error_reply(error, request_id)

    def restore(self, change: Mapping[str, Any]) -> None:
        """Play back what `record_change` was told; what was in progress has failed."""
        if "resource" in change:
            resource = Resource(**change["resource"])
            self._stacks[change["stack"]].resources[resource.logical_id] = resource
        else:
            self._stacks.keep(Stack.of_members(change["stack"]))

    def restored(self) -> None:
        """Say that everything has been played back: what was in progress has failed."""
        for stack in self._stacks.all():
            if not stack.in_progress:
                continue
            verb = stack.status.partition("_")[0]
            advice = "Update it again." if verb == "UPDATE" else "Delete it."
            ended = "The endpoint service ended while it worked on the stack."
            stack.set_status(f"{verb}_FAILED", f"{ended} {advice}")

    def close(self) -> None:
        """End the work on stacks, wherever it is."""
        self._closing.set()
        for thread, _ in list(self._work.values()):
            thread.join(_CLOSING_S)

    def _perform(
        self, operation: str, members: dict[str, Any], context: StackContext
    ) -> dict[str, Any]:
        """Do what a request asks for; work that takes time goes on afterwards."""
        known = self._known.get(operation)
        if known is None:
            what = f"CloudFormation's {operation or 'unnamed operation'} is not here."
            raise AwsError(400, "InvalidAction", what)
        # Of two that create a stack of one name, only one may find the name free.
        with self._one_at_a_time:
            return known(members, context)

    def _begin(self, stack: Stack, context: StackContext, work: Callable[[], None]) -> None:
        """Work on a stack in a thread of its own, after what is being done to it has ended."""
        self._keep(stack)
        # Only now: an operation that cannot be written down must not end the one before it.
        before = self._work.get(stack.id)
        if before is not None:
            before[1].cancelled.set()

        def run() -> None:
            if before is not None:
                before[0].join()
            try:
                if not self._closing.is_set():
                    work()
            except Exception as error:
                logger.exception("stack %s: the work on it failed", stack.name)
                verb = stack.status.partition("_")[0]
                stack.set_status(f"{verb}_FAILED", f"{type(error).__name__}: {error}")
            if not self._closing.is_set():
                logger.info("stack %s: %s %s", stack.name, stack.status, stack.reason)
                self._record_outcome({"stack": stack.as_members()})

        thread = threading.Thread(target=run, name=f"stack {stack.name}", daemon=True)
        self._work[stack.id] = thread, context
        thread.start()

    def _keep(self, stack: Stack) -> None:
        """Write down what is to become of a stack.

        Raises
        ------
        AwsError
            There is no room for it.
        """
        try:
            self._record_change({"stack": stack.as_members()})
        except OSError as error:
            raise AwsError(500, "InternalFailure", disk_failure(error)) from error

    def _settle(self, stack_id: str | None) -> None:
        found = self._work.get(stack_id or "")
        if found is not None:
            found[0].join(_SETTLE_S)

    def _context(self, request: ApiRequest, caller: Caller) -> StackContext:
        authorization = (request.header(b"authorization") or b"").decode("latin-1")
        access_key = authorization.partition("Credential=")[2].partition("/")[0]
        return StackContext(
            account=caller.account,
            region=caller.region,
            stack_id="",
            stack_name="",
            access_key=access_key,
            clients=self._clients,
            withdraw=lambda name: self._withdraw(name, authorization, caller),
            note=self._note_resource,
            closing=self._closing,
        )

    def _note_resource(self, stack_id: str, resource: Resource) -> None:
        self._record_outcome({"stack": stack_id, "resource": asdict(resource)})

    def _withdraw(self, name: str, authorization: str, caller: Caller) -> None:
        """Take an endpoint away that is being created."""
        scope = authorization.replace("/cloudformation/", "/sagemaker/")
        request = ApiRequest(
            method="POST",
            path=b"/",
            query=b"",
            headers=[
                (b"content-type", b"application/x-amz-json-1.1"),
                (b"x-amz-target", b"SageMaker.DeleteEndpoint"),
                (b"authorization", scope.encode("latin-1")),
                (b"host", f"api.sagemaker.{caller.region}.amazonaws.com".encode()),
            ],
            body=(json.dumps({"EndpointName": name}).encode(),),
        )

        async def take_away() -> None:
            # moto itself: the control plane refuses, as AWS does, to delete what is being created.
            await self._aws.answer(request)
            self._controller.reconcile(caller.account, caller.region)

        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(take_away(), self._loop).result(_CLOSING_S)


def members_of(request: ApiRequest) -> tuple[str, dict[str, Any]]:
    """Return the operation that a request names, and its members; every value is text."""
    form = b"".join(request.body) or request.query
    pairs = parse_qsl(form.decode("utf-8", "replace"), keep_blank_values=True)
    members: dict[str, Any] = {}
    for name, value in pairs:
        _put(members, name.split("."), value)
    operation = str(members.pop("Action", ""))
    members.pop("Version", None)
    return operation, {name: _lists(value) for name, value in members.items()}


def reply_of(operation: str, result: dict[str, Any], request_id: bytes) -> ApiReply:
    """Return an operation's answer."""
    model = get_service_model("cloudformation").operation_model(operation)
    context = SerializationContext(request_id.decode())
    answer = QuerySerializer(model, context=context).serialize(result)
    return ApiReply(200, [_XML, (b"x-amzn-requestid", request_id)], _bytes(answer["body"]))


def error_reply(error: AwsError, request_id: bytes) -> ApiReply:
    """Return an error."""
    body = (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
        f"<RequestId>{request_id.decode()}</RequestId></ErrorResponse>"
    )
    return ApiReply(error.status, [_XML, (b"x-amzn-requestid", request_id)], body.encode())


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _put(members: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        inner = members.setdefault(part, {})
        if not isinstance(inner, dict):
            raise AwsError(400, "MalformedQueryString", f"{'.'.join(path)} is given twice.")
        members = inner
    members[path[-1]] = value


def _lists(value: Any) -> Any:
    """Make lists of what the form has as member.1 and so on."""
    if not isinstance(value, dict):
        return value
    inner = value.get("member", value)
    if isinstance(inner, dict) and inner and all(re.fullmatch(r"\d+", name) for name in inner):
        return [_lists(inner[name]) for name in sorted(inner, key=int)]
    return {name: _lists(item) for name, item in value.items()}
