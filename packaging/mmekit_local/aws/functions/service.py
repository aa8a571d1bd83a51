"""Lambda's Invoke; and moto's functions, which are run by it, and refuse code that is none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from moto.awslambda.exceptions import InvalidParameterValueException
from moto.awslambda.models import LambdaFunction

from mmekit.aws_environment import leads_elsewhere
from mmekit_local.aws.functions import log
from mmekit_local.aws.functions.function import (
    CodeFolders,
    FunctionInvocation,
    find_function,
    function_of,
    zip_error,
)
from mmekit_local.aws.functions.runner import Runner
from mmekit_local.sagemaker.api import ApiReply, Caller
from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from typing import Any

    from mmekit_local.aws.functions.function import Function, InvocationResult
    from mmekit_local.sagemaker.api import ApiRequest

__all__ = ["Functions", "correct_functions"]

logger = logging.getLogger("mmekit.endpoint")

_PREFIX, _SUFFIX = "/2015-03-31/functions/", "/invocations"
_ACCOUNT_LIMIT = 1000  # AWS's default quota for concurrent executions
_REQUEST_BYTES = 6_291_456
_EVENT_BYTES = 1 << 20
_THROTTLED_S = 0.2  # between two tries of an event that has to wait for its turn

_Key = tuple[str, str, str]

_CODE = ("code_bytes", "code_size", "code_sha_256", "code_digest")


class Functions:
    """Runs functions when they are invoked.

    Parameters
    ----------
    url
        Where functions reach this service.
    folder
        For the code of functions and what they write; its owner removes it.
    is_deaf
        Says whether events of other services are to be left alone: they have been run before.
    """

    def __init__(self, url: str, folder: Path, is_replaying: Callable[[], bool] = bool) -> None:
        correct_functions(self._on_event)
        self._is_replaying = is_replaying
        self._loop = asyncio.get_running_loop()
        folder.mkdir(exist_ok=True)
        self._code_folders = CodeFolders(folder)
        self._runner = Runner(url, folder)
        self._running: Counter[_Key] = Counter()
        self._warned: set[tuple[_Key, str]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def answer(self, request: ApiRequest, caller: Caller) -> ApiReply | None:
        """Answer Invoke; None for any other request."""
        path = request.path.decode("latin-1").rstrip("/")
        invokes = path.startswith(_PREFIX) and path.endswith(_SUFFIX)
        if request.method != "POST" or not invokes:
            return None
        name = unquote(path[len(_PREFIX) : -len(_SUFFIX)])
        qualifier = parse_qs(request.query.decode("latin-1")).get("Qualifier", [None])[0]
        request_id = str(uuid.uuid4())
        try:
            return await self._invoke(request, caller, name, qualifier, request_id)
        except AwsError as error:
            return _refusal(error, request_id)

    async def close(self) -> None:
        """End all functions that are running."""
        for task in tuple(self._tasks):
            task.cancel()
        # Before they are waited for: each of them waits for its process to end.
        await self._runner.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _invoke(
        self, request: ApiRequest, caller: Caller, name: str, qualifier: str | None, request_id: str
    ) -> ApiReply:
        function = find_function(caller, name, qualifier)
        how = (request.header(b"x-amz-invocation-type") or b"RequestResponse").decode("latin-1")
        event = _event(b"".join(request.body), how)
        headers = [(b"x-amzn-requestid", request_id.encode())]
        if how == "DryRun":
            return ApiReply(204, headers)
        if how == "Event":
            self._begin(self._run_in_turn(function, event, request_id))
            return ApiReply(202, headers)
        # Who hangs up does not end the function, on AWS either.
        outcome, entries = await asyncio.shield(self._begin(self._run(function, event, request_id)))
        headers += [
            (b"content-type", b"application/json"),
            (b"x-amz-executed-version", function.version.encode()),
        ]
        if outcome.failed:
            headers.append((b"x-amz-function-error", b"Unhandled"))
        if request.header(b"x-amz-log-type") == b"Tail":
            headers.append((b"x-amz-log-result", base64.b64encode(log.tail_of(entries))))
        return ApiReply(200, headers, outcome.payload)

    def _on_event(self, record: Any, event: bytes) -> None:
        """Run a function for an event that another service has for it; called in any thread."""
        if self._is_replaying():
            return
        caller = Caller(str(record.account_id), str(record.region), "lambda")
        try:
            function = function_of(record, caller)
        except AwsError as error:
            logger.warning("%s", error.message)
            return
        with contextlib.suppress(RuntimeError):  # the service ends
            self._loop.call_soon_threadsafe(
                lambda: self._begin(self._run_in_turn(function, event, str(uuid.uuid4())))
            )

    async def _run_in_turn(self, function: Function, event: bytes, request_id: str) -> None:
        while True:
            try:
                outcome, _ = await self._run(function, event, request_id)
            except AwsError as error:
                if error.code != "TooManyRequestsException":
                    logger.warning("function %s: %s", function.name, error.message)
                    return
                await asyncio.sleep(_THROTTLED_S)
            else:
                if outcome.failed:
                    logger.warning("function %s failed: see %s", function.name, function.log_group)
                return

    async def _run(
        self, function: Function, event: bytes, request_id: str
    ) -> tuple[InvocationResult, list[tuple[int, str]]]:
        key = (function.account, function.region, function.name)
        self._admit(function, key)
        if function.runtime != log.RUNNING:
            what = f"asks for {function.runtime} and runs on {log.RUNNING}, which is here"
            self._warn(key, what)
        if elsewhere := sorted(name for name, _ in function.environment if leads_elsewhere(name)):
            names = ", ".join(elsewhere)
            self._warn(key, f"has {names}, which would lead away from here and is left out")
        # Nothing is awaited since it was admitted: else more than are reserved might come through.
        self._running[key] += 1
        try:
            root = await self._code_folders.take(function.digest, function.code)
            try:
                stream = log.new_stream(function.version)
                invocation = FunctionInvocation(function, request_id, event, root, stream)
                began_ms = int(time.time() * 1000)
                outcome = await self._runner.run(invocation)
            finally:
                self._code_folders.give_back(root)
        except OSError as error:
            message = f"The function could not be started: {error}"
            raise AwsError(500, "ServiceException", message) from error
        finally:
            self._running[key] -= 1
        if outcome.timed_out:
            what = "function %s timed out after %g s: its Timeout may be up to 900"
            logger.warning(what, function.name, function.seconds)
        entries = log.entries_of(invocation, outcome, began_ms, int(time.time() * 1000))
        try:
            log.write(invocation, entries)
        except Exception:  # a subscription of the user's may fail in any way
            logger.exception("the log of %s is lost", function.name)
        return outcome, entries

    def _warn(self, key: _Key, what: str) -> None:
        if (key, what) not in self._warned:
            self._warned.add((key, what))
            logger.warning("function %s %s", key[2], what)

    def _admit(self, function: Function, key: _Key) -> None:
        if function.reserved is not None and self._running[key] >= function.reserved:
            raise _too_many("ReservedFunctionConcurrentInvocationLimitExceeded")
        if sum(self._running.values()) >= _ACCOUNT_LIMIT:
            raise _too_many("ConcurrentInvocationLimitExceeded")

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _event(body: bytes, how: str) -> bytes:
    limit = _EVENT_BYTES if how == "Event" else _REQUEST_BYTES
    if len(body) > limit:
        message = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
        raise AwsError(413, "RequestTooLargeException", message)
    body = body or b"{}"
    try:
        json.loads(body)
    except ValueError as error:
        message = f"Could not parse request body into json: {error}"
        raise AwsError(400, "InvalidRequestContentException", message) from error
    return body


def _too_many(reason: str) -> AwsError:
    return AwsError(429, "TooManyRequestsException", "Rate Exceeded.", {"Reason": reason})


def _refusal(error: AwsError, request_id: str) -> ApiReply:
    """Return an error as Lambda sends it (rest-json)."""
    side = "User" if error.status < 500 else "Service"  # noqa: PLR2004 - HTTP's boundary
    # botocore's models have `message` for some of these errors and `Message` for others.
    body = {"Type": side, "Message": error.message, "message": error.message, **error.members}
    headers = [
        (b"content-type", b"application/json"),
        (b"x-amzn-errortype", error.code.encode()),
        (b"x-amzn-requestid", request_id.encode()),
    ]
    return ApiReply(error.status, headers, json.dumps(body).encode())


def correct_functions(begin: Callable[[Any, bytes], None]) -> None:
    """Refuse code that cannot be a function's, as AWS does; a second time does no harm.

    Parameters
    ----------
    begin
        Runs a function, of which it gets moto's record, with an event: what a topic, a queue, a
        bucket or a log has for it. moto would ask Docker, and say nothing where there is none.
    """

    def invoke(function: Any, event: Any = None) -> tuple[str, bool, str]:
        content = json.loads(event) if isinstance(event, str) else event
        begin(function, json.dumps(content or {}).encode())
        return "null", False, ""

    # Every time: another service in this process has a loop of its own to run them in.
    setattr(LambdaFunction, "_invoke_lambda", invoke)  # noqa: B010
    if not hasattr(LambdaFunction, "_mmekit_set_code"):
        setattr(LambdaFunction, "_mmekit_set_code", LambdaFunction._set_function_code)  # noqa: B010, SLF001
        setattr(LambdaFunction, "_set_function_code", _set_code)  # noqa: B010


def _set_code(function: Any, spec: dict[str, Any]) -> None:
    before = {name: getattr(function, name, None) for name in _CODE}
    function._mmekit_set_code(spec)  # noqa: SLF001 - set above
    if function.package_type != "Zip":
        return
    code = function.code_bytes
    if not code and "S3Key" in spec:
        message = (
            "Error occurred while GetObject. S3 Error Code: NoSuchKey. "
            "S3 Error Message: The specified key does not exist."
        )
    else:
        message = zip_error(code) or ""
    if message:
        # moto has taken it by now. When an update is refused, the function keeps the code it had.
        for name, value in before.items():
            setattr(function, name, value)
        raise InvalidParameterValueException(message)
