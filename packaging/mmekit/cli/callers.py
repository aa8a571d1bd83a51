"""Commands that call an endpoint: invoke."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from mmekit.cli.application import app
from mmekit.cli.options import not_empty
from mmekit.errors import EndpointError


@app.command()
def invoke(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.", callback=not_empty)],
    *,
    target_model: Annotated[
        str,
        typer.Option(
            help="The archive's key under the prefix, such as ridge.tar.gz.", callback=not_empty
        ),
    ],
    data: Annotated[typer.FileBinaryRead, typer.Option(help="The request's body; - is stdin.")],
    content_type: Annotated[
        str | None, typer.Option(help="Otherwise what the suffix of --data stands for.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="What the answer shall be, such as text/csv.")
    ] = None,
    custom_attributes: Annotated[
        str | None, typer.Option(help="Such as probabilities=true.")
    ] = None,
) -> None:
    """Ask a model for predictions and print its answer, on the target that MME_TARGET names.

    **Example:** mme invoke mmekit --target-model extra_trees_classifier.tar.gz --data
    model_packages/extra_trees_classifier/sample_request.json
    """
    from mmekit.settings import Settings

    settings = Settings()
    request = {
        "EndpointName": endpoint,
        "TargetModel": target_model,
        "Body": data.read(),
        "ContentType": content_type or _content_type(data),
        "Accept": accept,
        "CustomAttributes": custom_attributes,
    }
    answer, answered = _invoke(settings, {name: value for name, value in request.items() if value})
    sys.stdout.buffer.write(answer)
    is_text = answered.startswith("text/") or "json" in answered
    if answer and answer[-1:] != b"\n" and (is_text or sys.stdout.isatty()):
        typer.echo()


def _content_type(data: BinaryIO) -> str:
    from mmekit.archive.package import CONTENT_TYPES

    suffix = Path(data.name).suffix if isinstance(data.name, str) else ""
    return CONTENT_TYPES.get(suffix, "application/json")


def _invoke(settings: Any, request: dict[str, Any]) -> tuple[bytes, str]:
    """Return the answer's body and content type."""
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"{request['EndpointName']}, {request['TargetModel']}"
    try:
        answer = settings.client("sagemaker-runtime").invoke_endpoint(**request)
        return bytes(answer["Body"].read()), answer.get("ContentType") or ""
    except ClientError as error:
        raise EndpointError(str(error), where=where) from error
    except BotoCoreError as error:
        remedy = "Start the local endpoint: mme up." if settings.target == "local" else None
        raise EndpointError(str(error), where=where, remedy=remedy) from error
