"""The server's own description in OpenAPI 3.1: every route, with what may be sent and answered.

DJL Serving publishes none (it answers ``OPTIONS /`` with an empty object); its statuses, bodies
and headers are the ones that are described. Whoever changes what a route answers changes it here:
tests/fuzz compares the two.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import mmekit
from mmekit_local.server import metrics

Content = dict[str, Any]

VERSION = "3.1.0"
PATH = "/openapi.json"

_ERRORS = {
    "400": "The request makes no sense, or is no HTTP.",
    "403": "Another site's page sent it, or Host is no name of this server.",
    "404": "What the path names is not there.",
    "405": "The path is known, and the method is not for it.",
    "408": "The request was not whole in time.",
    "409": "The name is taken, or a setting cannot be read.",
    "500": "The model could not be loaded, or its answer cannot be sent as HTTP.",
    "503": "Too many connections, a full queue, a worker that died, a model that is not ready.",
    "507": "The model does not fit into memory; unload another and try again.",
}
_BODILESS = {
    "413": "The body is too large.",
    "417": "Expect asks for something other than 100-continue.",
}
_OF_CONNECTION = ("400", "403", "408", "413", "417", "503")
"""What any request may get, before anybody looks at its path."""
_HANDLER = (
    "Which statuses, types and bodies there are is up to the handler: what its Output says. None "
    "is 204 without a body; an exception is 424, and 507 when memory ran out. Any method is "
    "answered as POST is, except OPTIONS."
)
_TEXT: Content = {"type": "string"}
_INTEGER: Content = {"type": "integer"}
_NUMBER: Content = {"type": "number"}
_BOOLEAN: Content = {"type": "boolean"}
_INT32: Content = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_ANYTHING: Content = {}


def description() -> Content:
    """Return the description as JSON content."""
    return {
        "openapi": VERSION,
        "info": {
            "title": "A multi-model container of SageMaker, as DJL Serving is one",
            "version": mmekit.__version__,
            "description": "Load, list, describe, invoke and unload models. No authentication.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "headers": _headers(),
            "responses": _error_responses(),
            "parameters": {"name": _parameter("name", "path", {**_TEXT, "minLength": 1})},
        },
    }


def body() -> bytes:
    """Return the description as it is sent."""
    return json.dumps(description(), indent=1).encode() + b"\n"


def _paths() -> Content:
    name = _ref("parameters", "name")
    return {
        "/models": {"get": _list(), "post": _load()},
        "/models/{name}": {
            "parameters": [name],
            "get": _operation("describeModel", _answers("Description"), "404", "405"),
            "delete": _operation("unloadModel", _answers("Status"), "404", "405"),
        },
        "/models/{name}/invoke": {
            "parameters": [name],
            # Anything after "invoke" makes it another path to DJL Serving, a query as well.
            "post": _invocation("invoke", "405"),
            "options": _operation("askWhetherLoaded", _answers("Empty"), "404", "405"),
        },
        "/predictions/{name}": {"parameters": [name], "post": _invocation("predict")},
        "/invocations": {"post": _invocation("invokeOnly", named_in_query=True)},
        "/v1/chat/completions": {"post": _invocation("complete", named_in_query=True)},
        "/ping": {"get": _ping()},
        "/metrics": {"get": _metrics()},
        PATH: {"get": _operation("describeServer", _answers("Document"))},
        "/": {"options": _operation("askForOptions", _answers("Empty"))},
    }


def _list() -> Content:
    operation = _operation("listModels", _answers("Page"), "409")
    operation["parameters"] = [
        # Whatever is no number from 0 to 100 as well is read as 100.
        _parameter("limit", "query", _INT32, allowEmptyValue=True),
        _parameter("next_page_token", "query", _INT32, allowEmptyValue=True),
    ]
    return operation


def _load() -> Content:
    operation = _operation("loadModel", _answers("Status"), "404", "409", "500", "507")
    operation["description"] = (
        "Answers once the model can be invoked. With a body that is not application/json, the "
        "same two are read from the query."
    )
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _ref("schemas", "Load")}},
    }
    name = {"parameters": {"name": "$request.body#/model_name"}}
    operation["responses"]["200"]["links"] = {
        then: {"operationId": then, **name}
        for then in ("describeModel", "invoke", "predict", "unloadModel")
    }
    return operation


def _invocation(operation_id: str, *errors: str, named_in_query: bool = False) -> Content:
    answers = {"200": _of_handler("What the handler answered.")}
    operation = _operation(operation_id, answers, "404", *errors)
    operation["description"] = _HANDLER
    responses = operation["responses"]
    for status in ("500", "507"):
        # The handler's own, without a body, or the server's.
        responses[status] = _of_handler(_ERRORS[status])
    responses["204"] = {"description": "The handler returned None.", "headers": _common_headers()}
    responses["424"] = {
        "description": "The handler raised, or returned what is no Output.",
        "headers": _common_headers(),
        "content": {"application/json": {"schema": _ref("schemas", "HandlerError")}},
    }
    responses["default"] = _of_handler("A status that the handler chose.")
    operation["requestBody"] = {
        "description": "Whatever the handler reads, up to 64 MiB.",
        "content": {
            kind: {"schema": _ANYTHING}
            for kind in ("application/json", "text/plain", "application/octet-stream", "*/*")
        },
    }
    attributes = "X-Amzn-SageMaker-Custom-Attributes"
    operation["parameters"] = [
        _parameter(attributes, "header", _TEXT, description="name=value;name=value")
    ]
    if named_in_query:
        about = "Not needed where a model was loaded at start."
        operation["parameters"].append(_parameter("model_name", "query", _TEXT, description=about))
    return operation


def _ping() -> Content:
    operation = _operation("ping", _answers("Health"))
    operation["responses"]["500"] = {
        **_answers("Health")["200"],
        "description": "The same, while a model has failed.",
    }
    return operation


def _metrics() -> Content:
    media_type = metrics.CONTENT_TYPE
    answer = {"description": "As Prometheus reads it.", "content": {media_type: {"schema": _TEXT}}}
    return _operation("readMetrics", {"200": answer})


def _operation(operation_id: str, answers: Content, *errors: str) -> Content:
    statuses = sorted({*errors, *_OF_CONNECTION})
    refused = {status: _ref("responses", status) for status in statuses}
    return {"operationId": operation_id, "responses": {**answers, **refused}}


def _answers(schema: str) -> Content:
    return {
        "200": {
            "description": "Done." if schema == "Status" else f"{schema}.",
            "headers": _common_headers(),
            "content": {"application/json": {"schema": _ref("schemas", schema)}},
        }
    }


def _of_handler(text: str) -> Content:
    content = {"*/*": {"schema": _ANYTHING}}
    return {"description": text, "headers": _common_headers(), "content": content}


def _error_responses() -> Content:
    found: Content = {}
    for status, text in _ERRORS.items():
        found[status] = {
            "description": text,
            "headers": _common_headers(),
            "content": {"application/json": {"schema": _ref("schemas", "Error")}},
        }
    found["503"]["headers"]["Retry-After"] = {"schema": _INTEGER, "description": "Seconds."}
    return {**found, **{status: {"description": text} for status, text in _BODILESS.items()}}


def _headers() -> Content:
    def of(schema: Content) -> Content:
        return {"required": True, "schema": schema}

    return {
        "x-request-id": of({**_TEXT, "format": "uuid"}),
        "Pragma": of({"const": "no-cache"}),
        "Cache-Control": of({"const": "no-cache; no-store, must-revalidate, private"}),
        "Expires": of(_TEXT),
    }


def _common_headers() -> Content:
    return {name: _ref("headers", name) for name in _headers()}


def _schemas() -> Content:
    listed = _object(modelName=_TEXT, modelUrl=_TEXT, status=_one_of("READY", "FAILED", "PENDING"))
    page = _object(models=_list_of(listed))
    # Absent on the last page.
    page["properties"]["nextPageToken"] = {**_TEXT, "pattern": "^[0-9]+$"}
    load = _object(model_name={**_TEXT, "minLength": 1}, url={**_TEXT, "minLength": 1})
    return {
        "Load": {
            **load,
            "description": "A name, and the path or file URL of the folder of an unpacked archive.",
            "additionalProperties": True,
        },
        "Status": _object(status=_TEXT),
        "Page": page,
        "Description": _list_of(_object(workflowName=_TEXT, models=_list_of(_model()))),
        "Health": {"type": "object", "additionalProperties": _object(status=_state(pending=True))},
        "Error": _object(code=_INTEGER, type=_TEXT, message=_TEXT),
        "HandlerError": _object(code={"const": 424}, message=_TEXT, error=_TEXT),
        "Document": _ANYTHING,
        "Empty": _object(),
    }


def _model() -> Content:
    worker = _object(
        id=_INTEGER, startTime={**_TEXT, "format": "date-time"}, status=_TEXT, pid=_INTEGER
    )
    group = _object(
        device=_object(deviceType=_TEXT, deviceId=_INTEGER),
        minWorkers=_INTEGER,
        maxWorkers=_INTEGER,
        workers=_list_of(worker),
    )
    return _object(
        modelName=_TEXT,
        modelUrl=_TEXT,
        batchSize=_INTEGER,
        maxBatchDelayMillis=_INTEGER,
        maxIdleSeconds=_INTEGER,
        queueSize=_INTEGER,
        requestInQueue=_INTEGER,
        status=_state(),
        loadedAtStartup=_BOOLEAN,
        workerGroups=_list_of(group),
        processes=_list_of(_process()),
        parking=_object(
            state=_one_of("AWAKE", "PARKED"),
            since={"anyOf": [{**_TEXT, "format": "date-time"}, {"type": "null"}]},
            parks=_INTEGER,
            wakes=_INTEGER,
            wakeSeconds=_NUMBER,
        ),
        memory=_object(admittedBytes=_INTEGER, usedBytes=_INTEGER),
    )


def _process() -> Content:
    fields = dataclasses.fields(metrics.ProcessMetrics)
    return _object(**{one.name: _NUMBER if one.type == "float" else _INTEGER for one in fields})


def _state(*, pending: bool = False) -> Content:
    return _one_of("Healthy", "Unhealthy", "FAILED", *(["PENDING"] if pending else []))


def _object(**properties: Content) -> Content:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list_of(items: Content) -> Content:
    return {"type": "array", "items": items}


def _one_of(*values: str) -> Content:
    return {"enum": list(values)}


def _parameter(name: str, where: str, schema: Content, **more: object) -> Content:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, **more}


def _ref(kind: str, name: str) -> Content:
    return {"$ref": f"#/components/{kind}/{name}"}
