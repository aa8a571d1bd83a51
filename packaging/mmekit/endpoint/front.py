"""The one port: tells the planes apart. A bare ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit.endpoint.caller import caller_of
from mmekit.endpoint.errors import runtime_reply, unsigned
from mmekit.endpoint.http import (
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    new_request_id,
    read_body,
    send_reply,
)

if TYPE_CHECKING:
    from mmekit.endpoint.aws import Aws
    from mmekit.endpoint.control_plane import ControlPlane
    from mmekit.endpoint.data_plane import DataPlane
    from mmekit.endpoint.metrics import Metrics

__all__ = ["Front"]

_PREFIX, _SUFFIX = "/endpoints/", "/invocations"


class Front:
    """Takes every request and hands it to whoever answers it.

    Parameters
    ----------
    data_plane
        Answers invocations.
    control_plane
        Answers requests to SageMaker and CloudFormation.
    aws
        Answers all others.
    metrics
        Brought up to date before CloudWatch is asked.
    """

    def __init__(
        self, data_plane: DataPlane, control_plane: ControlPlane, aws: Aws, metrics: Metrics
    ) -> None:
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._aws = aws
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        endpoint = _invoked_endpoint(scope)
        if endpoint is None:
            reply = await self._answer(scope, receive)
        else:
            reply = await self._invoke(endpoint, scope, receive)
        await send_reply(reply, send)

    async def _invoke(self, endpoint: str, scope: Scope, receive: Receive) -> Reply:
        headers = scope["headers"]
        caller = caller_of(next((v for k, v in headers if k == b"authorization"), None))
        if caller is None:
            await read_body(receive, 0)
            return runtime_reply(unsigned(), new_request_id())
        if caller.service != "sagemaker":  # an S3 object may be called what it likes
            return await self._answer(scope, receive)
        return await self._data_plane.answer(caller, endpoint, headers, receive)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        request = Request(
            method=scope["method"],
            path=scope["raw_path"],
            query=scope["query_string"],
            headers=scope["headers"],
            body=await read_body(receive) or (),
            server=scope["server"],
            client=scope["client"] or ("", 0),  # None when the client has gone
        )
        caller = caller_of(request.header(b"authorization"))
        if caller is not None and caller.service in ("sagemaker", "cloudformation"):
            return await self._control_plane.answer(request, caller)
        if caller is not None and caller.service == "monitoring":
            self._metrics.flush()
        return await self._aws.answer(request)


def _invoked_endpoint(scope: Scope) -> str | None:
    """Return the name of the endpoint that a request invokes, or None."""
    path: str = scope["path"]
    if scope["method"] == "POST" and path.startswith(_PREFIX) and path.endswith(_SUFFIX):
        return path[len(_PREFIX) : -len(_SUFFIX)]
    return None
