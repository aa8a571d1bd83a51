"""A model as an OpenAPI 3.1 document: how SageMaker's endpoint is asked, and what it answers.

Sources: AWS's reference of InvokeEndpoint (path, headers, ModelError), docs/handlers.md (bodies).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit import __version__
from mmekit_runtime import media_types

if TYPE_CHECKING:
    from mmekit.archive.describe import Description
    from mmekit_runtime.signature import Column, Signature

_TYPES = {
    "boolean": "boolean",
    "integer": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "string": "string",
    "datetime": "string",
}
_TABLE_KINDS = (media_types.CSV, media_types.JSON_LINES)
_BINARY_KINDS = (media_types.NPY, media_types.NPZ, media_types.PARQUET, media_types.ARROW)


def openapi(described: Description) -> dict[str, Any]:
    """Return a document about one model, ready for ``json.dumps``.

    Examples
    --------
    >>> from mmekit.archive import describe
    >>> openapi(describe("model_packages/linear_regression"))["info"]["title"]
    'linear_regression'
    """
    target = f"{described.name}.tar.gz"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": described.name,
            "version": "1",
            "summary": f"The model {described.name} behind a SageMaker multi-model endpoint",
            "description": "\n".join(
                [f"Made by mmekit {__version__}.", *map(_lack, described.lacks)]
            ),
        },
        "servers": [
            {
                "url": "https://runtime.sagemaker.{region}.amazonaws.com",
                "description": "AWS; requests are signed (SigV4)",
                "variables": {"region": {"default": "us-east-1"}},
            },
            {"url": "http://127.0.0.1:8950", "description": "mme up"},
        ],
        "paths": {
            "/endpoints/{name}/invocations": {
                "parameters": [_path_parameter()],
                "post": {
                    "operationId": "invoke",
                    "summary": f"Ask {described.name}",
                    "parameters": [_target(target), _attributes()],
                    "requestBody": {"required": True, "content": _bodies(described)},
                    "responses": _responses(described),
                },
            }
        },
        "components": {"schemas": _schemas(described.signature)},
    }


def _lack(lack: str) -> str:
    return f"The model does not say {lack}."


def _path_parameter() -> dict[str, Any]:
    name = {"type": "string", "pattern": "^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$"}
    return {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The endpoint.",
        "schema": name,
    }


def _target(target: str) -> dict[str, Any]:
    return {
        "name": "X-Amzn-SageMaker-Target-Model",
        "in": "header",
        "required": True,
        "description": "The archive's key under the endpoint's prefix.",
        "schema": {"type": "string", "maxLength": 1024},
        "example": target,
    }


def _attributes() -> dict[str, Any]:
    return {
        "name": "X-Amzn-SageMaker-Custom-Attributes",
        "in": "header",
        "description": "Parameters as pairs, such as probabilities=true, with semicolons between.",
        "schema": {"type": "string", "maxLength": 1024},
    }


def _bodies(described: Description) -> dict[str, Any]:
    signature, example = described.signature, described.example
    bodies: dict[str, Any] = {}
    if signature is not None and signature.inputs:
        bodies[media_types.JSON] = {"schema": {"$ref": "#/components/schemas/Request"}}
        names = ", ".join(signature.names)
        for kind in _TABLE_KINDS:
            what = (
                "A header of these names in any order, or none"
                if kind == media_types.CSV
                else ("An object with these names a line, or a list in this order")
            )
            bodies[kind] = {"schema": {"type": "string", "description": f"{what}: {names}."}}
        for kind in _BINARY_KINDS:
            bodies[kind] = {"schema": {"description": f"A table with the columns {names}."}}
    elif example is None:
        bodies["*/*"] = {"schema": {"description": "Nobody has said what the model takes."}}
    if example is not None:
        body = bodies.setdefault(example.content_type, {"schema": {}})
        body["example"] = _parsed(example.request, example.content_type)
    return bodies


def _responses(described: Description) -> dict[str, Any]:
    example = described.example
    answer: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Answer"}}
    if example is not None and example.answer is not None:
        answer["example"] = _parsed(example.answer, media_types.JSON)
    error = {media_types.JSON: {"schema": {"$ref": "#/components/schemas/ModelError"}}}
    return {
        "200": {"description": "A prediction a row.", "content": {media_types.JSON: answer}},
        "400": {"description": "The endpoint does not take the request (ValidationError)."},
        "424": {
            "description": "The model does not take the request, or failed (ModelError).",
            "content": error,
        },
    }


def _schemas(signature: Signature | None) -> dict[str, Any]:
    schemas: dict[str, Any] = {
        "Answer": _answer(signature),
        "ModelError": {
            "type": "object",
            "properties": {
                "Message": {"type": "string"},
                "OriginalStatusCode": {
                    "type": "integer",
                    "description": "The model's own status: 400 for a record that does not fit.",
                },
                "OriginalMessage": {
                    "type": "string",
                    "description": "JSON: code, message, expected and received.",
                },
                "LogStreamArn": {"type": "string"},
            },
        },
    }
    if signature is not None and signature.inputs:
        schemas |= _of_table(signature)
    return schemas


def _of_table(signature: Signature) -> dict[str, Any]:
    columns = {column.name: _column(column) for column in signature.inputs}
    required = [column.name for column in signature.inputs if column.required]
    record = {"$ref": "#/components/schemas/Record"}
    records = {"type": "array", "minItems": 1, "items": record}
    row = {"$ref": "#/components/schemas/Row"}
    rows = {"type": "array", "minItems": 1, "items": row}
    either = {"anyOf": [records, rows, row]}
    by_column = {
        "type": "object",
        "properties": {
            name: {"anyOf": [{"type": "array", "minItems": 1, "items": one}, one]}
            for name, one in columns.items()
        },
        "required": required,
        "additionalProperties": False,
    }
    split = {
        "type": "object",
        "properties": {
            "columns": {"type": "array", "items": {"enum": list(columns)}},
            "data": {"type": "array", "minItems": 1, "items": {"type": "array"}},
        },
        "required": ["data"],
    }
    forms: dict[str, dict[str, Any]] = {
        "instances": either,
        "inputs": {"anyOf": [*either["anyOf"], by_column]},
        "dataframe_records": records,
        "dataframe_split": split,
    }
    return {
        "Record": {
            "type": "object",
            "properties": columns,
            "required": required,
            "additionalProperties": False,
        },
        "Row": {
            "type": "array",
            "description": f"In the order of training: {', '.join(columns)}.",
            "prefixItems": list(columns.values()),
            "minItems": len(columns),
            "maxItems": len(columns),
        },
        "Request": {"anyOf": [*(_form(name, one) for name, one in forms.items()), records, rows]},
    }


def _form(name: str, rows: dict[str, Any]) -> dict[str, Any]:
    properties = {name: rows, "parameters": {"type": "object"}}
    return {"type": "object", "properties": properties, "required": [name]}


def _column(column: Column) -> dict[str, Any]:
    among = column.known if column.known is not None else column.categories
    if among is not None:
        gap = [None] if column.missing and None not in among else []
        return {"enum": [*among, *gap]}
    kind = _TYPES.get(column.type)
    if column.dtype in ("date", "time"):
        kind = "string"
    if kind is None:
        return {}
    schema: dict[str, Any] = {"type": [kind, "null"] if column.missing else kind}
    if column.dtype in ("date", "time"):
        schema["format"] = column.dtype
    elif column.type == "datetime":
        schema["description"] = "A time in ISO 8601."
    return schema


def _answer(signature: Signature | None) -> dict[str, Any]:
    one: dict[str, Any] = {}
    outputs = () if signature is None else signature.outputs
    if len(outputs) == 1:
        kind = _TYPES.get(outputs[0].type)
        # What is not finite is null.
        one = {} if kind is None else {"type": [kind, "null"] if kind == "number" else kind}
    elif outputs:
        one = {"description": f"The outputs {', '.join(column.name for column in outputs)}."}
    return {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": one},
            "probabilities": {"type": "array"},
            "classes": {"type": "array"},
        },
        "required": ["predictions"],
    }


def _parsed(text: str, content_type: str) -> Any:
    if content_type != media_types.JSON:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
