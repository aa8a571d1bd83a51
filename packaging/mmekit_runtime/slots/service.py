"""A model's module, asked the way DJL's python_sync_engine.py asks it."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import struct
import sys
from typing import TYPE_CHECKING, Any

from mmekit_runtime.handler import Handler
from mmekit_runtime.messages import Reply, Request, is_out_of_memory
from mmekit_runtime.slots import shared_body
from mmekit_runtime.wire import WireAnswer, WireRequest, encode_answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

# The engine logs to the root logger, and so does what stands in for it.
_logger = logging.getLogger()

PREDICT_TIMEOUT_S = 120.0
"""DJL Serving's, where a model says nothing."""

_COUNT = struct.Struct(">h")
_CHUNK = struct.Struct(">bi")
"""Before each chunk of a stream: whether another follows, and the length of this one."""


class Arguments:
    """The arguments of djl_python_engine.py (arg_parser.py) that matter here.

    argparse would do, and cost half a mebibyte of copied pages in every model process.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        given = dict(itertools.pairwise(argv))
        self.model_dir = given["--model-dir"]
        self.entry_point = given.get("--entry-point", "")
        self.recommended_entry_point = given.get("--recommended-entry-point", "")
        self.device_id = given.get("--device-id", "-1")
        self.log_level = given.get("--log-level", "info")
        cluster_size = given.get("--cluster-size", "")
        self.cluster_size = int(cluster_size) if cluster_size.isdigit() else None


def configure_logging(level: str) -> None:
    """Log as djl_python_engine.py does."""
    wanted = getattr(logging, level.upper(), None)
    logging.basicConfig(
        stream=sys.stdout,
        format="%(levelname)s::%(message)s",
        # Set anew, even to what it is, it writes to every logger that there is: those of a process
        # with hundreds of libraries lie in 3.5 MiB of pages that are shared until then.
        level=None if wanted == _logger.level else level.upper(),
        # What was imported before the fork may have set up logging, and the engine is first.
        force=True,
    )
    filename = os.environ.get("SM_TELEMETRY_LOG_REV_2022_12")
    if filename is not None:
        # configure_sm_logging of djl_python_engine.py.
        from djl_python.sm_log_filter import SMLogFilter

        handler = logging.FileHandler(filename=filename)
        handler.addFilter(SMLogFilter())
        _logger.addHandler(handler)


def predict_timeout(properties: Mapping[str, str]) -> float:
    """Return the seconds after which a server gives up a request, read as PyModel does."""
    try:
        return max(1.0, float(properties["predict_timeout"]))
    except (KeyError, ValueError):
        return PREDICT_TIMEOUT_S


class ModelService:
    """The model: its module is imported when this is made.

    Attributes
    ----------
    handler
        The module's ``handle`` when that is a `Handler`, which answers several requests at once.
    """

    def __init__(self, arguments: Arguments) -> None:
        from djl_python import service_loader

        self._arguments = arguments
        entry_point = arguments.entry_point or arguments.recommended_entry_point
        self._service = service_loader.load_model_service(
            arguments.model_dir, entry_point, arguments.device_id
        )
        module = self._service.module
        found = {name: _decorated(module, f"is_{name}") for name in _FORMATTERS}
        self._formatters = {name: value for name, value in found.items() if value is not None}
        self._verified = not arguments.recommended_entry_point
        handle = getattr(module, "handle", None)
        self.handler = handle if isinstance(handle, Handler) else None

    def receive_shared(self, token: str) -> None:
        """Give the handler the body that was loaded before this process was forked."""
        received = shared_body.loaded(token)
        if received is not None and self.handler is not None and self.handler.shares():
            received.set_environment()
            self.handler.receive_shared(received.shared)

    def invoke(self, message: WireRequest) -> Any:
        """Return the Output of one request; an exception becomes one, as run_server has it."""
        from djl_python import Input, Output

        inputs = Input()
        # A copy: an initialisation is told to the fork server as it came, for others to repeat.
        inputs.properties = {**message.properties}
        for name, formatter in self._formatters.items():
            # As the engine has it: a setting goes before the decorated output formatter alone.
            if name == "input_formatter" or name not in inputs.properties:
                inputs.properties[name] = formatter
        if self._arguments.cluster_size:
            inputs.properties["cluster_size"] = self._arguments.cluster_size
        inputs.properties["device_id"] = self._arguments.device_id
        for key, value in message.content:
            # The engine hands over bytearrays, which a model may change in place.
            inputs.content.add(key=key, value=bytearray(value))
        inputs.function_name = inputs.properties.get("handler")
        self._verify(inputs.function_name)
        try:
            output = self._service.invoke_handler(inputs.function_name, inputs)
        except Exception as error:
            _logger.exception("Failed invoke service.invoke_handler()")
            return as_output(error)
        if output is None:
            return Output(code=204, message="No content")
        if not isinstance(output, Output):
            return Output().error(f"Invalid output type: {type(output)}")
        return output

    def _verify(self, function: str) -> None:
        """Take the recommended entry point when the model's own file has no such function."""
        if self._verified:
            return
        from djl_python import service_loader

        arguments = self._arguments
        if not service_loader.has_function_in_module(self._service.module, function):
            self._service = service_loader.load_model_service(
                arguments.model_dir, arguments.recommended_entry_point, arguments.device_id
            )
            self.handler = None
        self._verified = True


_FORMATTERS = ("output_formatter", "input_formatter")


def _decorated(module: ModuleType, attribute: str) -> Any:
    for name in dir(module):
        value = getattr(module, name)
        if callable(value) and getattr(value, attribute, False):
            return value
    return None


def as_output(error: BaseException) -> Any:
    """Return the Output for an exception: the cases of PythonSyncEngine.run_server."""
    from djl_python import Output

    if is_out_of_memory(error):
        return Output(code=507, message=str(error))
    return Output().error(str(error))


class _Recording:
    """A socket for ``Output.send`` that keeps the bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def sendall(self, data: bytes) -> None:
        """Keep the bytes."""
        self.data += data


def output_bytes(output: Any) -> bytes:
    """Return what an Output without a stream sends; an error's bytes when it cannot be encoded."""
    recording = _Recording()
    try:
        output.send(recording)
    except Exception as error:
        _logger.exception("the output could not be sent")
        recording = _Recording()
        as_output(error).send(recording)
    return bytes(recording.data)


def stream_chunks(output: Any) -> Iterator[bytes]:
    """Return what an Output with a stream sends, chunk by chunk: ``Output.send`` of the engine.

    The first is its head; an exception of the stream becomes its last chunk.
    """
    head = copy.copy(output)
    head.stream_content, head.content = None, type(output.content)()
    recording = _Recording()
    try:
        head.send(recording)
    except Exception:
        _logger.exception("the output could not be sent")
        yield output_bytes(head)
        return
    # No content, where the head of a stream says that chunks follow.
    yield bytes(recording.data[: -_COUNT.size]) + _COUNT.pack(-1)
    while True:
        try:
            chunk = _chunk(output)
        except StopIteration:
            yield _CHUNK.pack(0, 0)
            return
        except Exception as error:
            _logger.exception("Failed read streaming content from output")
            text = str(error).encode("utf-8", "replace")
            yield _CHUNK.pack(0, len(text)) + text
            return
        yield _CHUNK.pack(1, len(chunk)) + chunk


def _chunk(output: Any) -> bytes:
    data = next(output.stream_content)
    if output.stream_output_formatter is not None:
        data = output.stream_output_formatter(data)
    # Not their subclasses, which the engine writes as JSON.
    if type(data) is str:
        return data.encode()
    if type(data) in (bytes, bytearray):
        return bytes(data)
    return bytes(output._encode_json(data))  # noqa: SLF001  as its own method does


def reply_bytes(reply: Reply) -> bytes:
    """Return the bytes of a handler's reply."""
    properties = (("Content-Type", reply.content_type),) if reply.content_type else ()
    return encode_answer(WireAnswer(reply.status, reply.message, properties, ((None, reply.body),)))


def is_single(message: WireRequest) -> bool:
    """Whether this is one request, not a batch of the server's, for the function ``handle``."""
    return "batch_size" not in message.properties and (
        message.properties.get("handler", "handle") == "handle"
    )


def request_of(message: WireRequest) -> Request:
    """Turn a request of the wire into one of the handler."""
    body = next((value for key, value in message.content if key == "data"), None)
    return Request.read(message.properties, message.content[0][1] if body is None else body)
