"""What DJL's engine calls for a model of another convention."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmekit_runtime.conventions import djl, sagemaker
from mmekit_runtime.conventions.script import MODEL_FILE, Script, find_script, provide_decorators
from mmekit_runtime.messages import Reply, RequestError, is_out_of_memory
from mmekit_runtime.metering.current import CURRENT
from mmekit_runtime.metering.loading import metered_load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_logger = logging.getLogger("mmekit_runtime")

OPTION = "convention"
"""``option.convention`` in serving.properties, as it reaches a handler."""


_FAILED = 424
"""What the engine makes of an exception."""


class ConventionModel(Protocol):
    """A loaded model of some convention."""

    def answer(self, inputs: Any) -> Any:
        """Answer one request's djl_python Input with an Output."""


class EntryPoint:
    """``handle(inputs)`` for a model whose script knows nothing of DJL's engine.

    The model is loaded by the empty request that DJL Serving sends first. A failure is answered
    as `mmekit_runtime.Handler` answers it: 400, 406 or 415 for a request that cannot be read, 424
    for an exception, 507 when memory ran out.
    """

    def __init__(self) -> None:
        self._model: ConventionModel | None = None

    def __call__(self, inputs: Any) -> Any:
        """Answer a djl_python Input with a djl_python Output; load when the Input is empty."""
        properties = inputs.get_properties()
        folder = Path(inputs.get_property("model_dir") or os.getcwd())  # noqa: PTH109
        if inputs.is_empty():
            return self._initialise(folder, inputs)
        if self._model is None:
            self._model = load(folder, properties)
        if isinstance(self._model, _OwnHandle):
            return _metered(self._model.answer, inputs)
        if not inputs.is_batch():
            return _metered(self._answer, inputs)
        return self._answer_batch(inputs)

    def _initialise(self, folder: Path, inputs: Any) -> Any:
        from djl_python import Output

        try:
            if self._model is None:
                with metered_load(inputs.get_properties(), folder):
                    self._model = load(folder, inputs.get_properties())
        except Exception as error:
            _logger.exception("the model could not be loaded from %s", folder)
            # DJL Serving shows the message and drops the body; it must be a single line.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if is_out_of_memory(error):
                return Output(code=507, message=reason)
            return Output().error(reason, message=reason)
        if isinstance(self._model, _OwnHandle):
            return self._model.answer(inputs)
        return Output(message="loaded")

    def _answer(self, inputs: Any) -> Any:
        if self._model is None:
            raise RuntimeError("the model is not loaded")
        if isinstance(self._model, djl.DjlModel) and self._model.is_raw:
            return self._model.answer(inputs)  # what is raised is the engine's to answer
        try:
            return self._model.answer(inputs)
        except RequestError as error:
            return _output(Reply.of_request_error(error))
        except Exception as error:
            _logger.exception("the request failed")
            return _output(Reply.of_exception(error))

    def _answer_batch(self, inputs: Any) -> Any:
        """Answer a batch of DJL Serving: it has one status; each request's own is in its body."""
        from djl_python import Output

        began = time.monotonic_ns()
        answers = [self._answer(single) for single in inputs.get_batches()]
        if CURRENT.meter is not None:
            statuses = [answer.code for answer in answers]
            CURRENT.meter.answered(statuses, time.monotonic_ns() - began)
        output = Output()
        for name, value in answers[0].properties.items():
            output.add_property(name, value)
        for index, answer in enumerate(answers):
            output.add(answer.content.value_at(0), batch_index=index)
        return output


def load(folder: Path, properties: Mapping[str, Any]) -> ConventionModel:
    """Load the model of a folder by the convention that it was made for.

    Parameters
    ----------
    folder
        The model folder.
    properties
        What the initialising request carries: serving.properties, ``option.`` taken off.

    Raises
    ------
    ValueError
        Nothing in the folder can be served.
    """
    provide_decorators()
    made_for = properties.get(OPTION) or find_script(folder) or djl.recommended(folder)
    if made_for is None:
        expected = f"{MODEL_FILE}, code/inference.py or model.skops"
        raise ValueError(f"there is nothing to serve in the folder: expected {expected}")
    if made_for in djl.LOADERS:
        script = None
        if (folder / MODEL_FILE).is_file():
            is_raw = djl.is_raw(properties)
            script = Script.as_of_djl(folder) if is_raw else Script.load(folder, MODEL_FILE)
        return djl.DjlModel(made_for, folder, properties, script)
    script = Script.load(folder, made_for)
    if script.handle is not None:
        return _OwnHandle(script.handle)
    if script.decorated:
        return djl.DjlModel(djl.SKLEARN, folder, properties, script)
    return sagemaker.SageMakerModel(made_for, folder, script.functions)


class _OwnHandle:
    """A script that answers DJL's Input by itself, in a place where older engines look for none."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def answer(self, inputs: Any) -> Any:
        return self._handle(inputs)


def _metered(answer: Callable[[Any], Any], inputs: Any) -> Any:
    """Answer a request, and tell the meter with which status, if there is one."""
    if CURRENT.meter is None:
        return answer(inputs)
    began = time.monotonic_ns()
    status = _FAILED
    try:
        output = answer(inputs)
        # None is an answer without content.
        status = getattr(output, "code", 204)
    finally:
        CURRENT.meter.answered([status], time.monotonic_ns() - began)
    return output


def _output(reply: Reply) -> Any:
    from djl_python import Output

    output = Output(code=reply.status, message=reply.message)
    output.add_property("Content-Type", reply.content_type)
    return output.add(reply.body)
