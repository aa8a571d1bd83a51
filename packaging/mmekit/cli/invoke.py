"""The command that asks a model of an endpoint: invoke."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

from mmekit.cli.addressee import Endpoint, current_key
from mmekit.cli.application import Panel, app, not_empty


@app.command(rich_help_panel=Panel.DEPLOY)
def invoke(
    endpoint: Endpoint,
    *,
    target_model: Annotated[
        str,
        typer.Option(
            help="The archive's key under the prefix, such as ridge.tar.gz; with versions, the "
            "current one.",
            callback=not_empty,
        ),
    ],
    data: Annotated[typer.FileBinaryRead, typer.Option(help="The request body; - is stdin.")],
    content_type: Annotated[
        str | None,
        typer.Option(help="Default: by the suffix of --data."),
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="The content type of the response, such as text/csv.")
    ] = None,
    custom_attributes: Annotated[
        str | None, typer.Option(help="Parameters of the model, such as probabilities=true.")
    ] = None,
) -> None:
    """Invoke a model of an endpoint and print the response.

    Without a known suffix, a body that is a JSON object or array is sent as JSON, which is said;
    for any other --content-type is required.

    **Example:** mme invoke mmekit --target-model extra_trees_classifier.tar.gz --data
    model_packages/extra_trees_classifier/sample_request.json
    """
    from mmekit.deploy.invocation import Invocation, content_type_of
    from mmekit.deploy.invocation import invoke as send
    from mmekit.deploy.whereabouts import whereabouts
    from mmekit.progress import under_way

    asked = whereabouts(endpoint)
    body = data.read()
    name = data.name if isinstance(data.name, str) and data.name != "<stdin>" else None
    source = name or "standard input"
    note = ""
    # Of an empty body it is not asked what it is.
    if body and content_type is None:
        content_type, note = content_type_of(name, body)
    invocation = Invocation(
        asked.name,
        target_model,
        body,
        content_type or "",
        accept,
        custom_attributes,
        source,
        endpoint,
    )
    invocation.expect_sound()
    if note:
        typer.echo(f"mme: {note}", err=True)
    # The first call of a model waits until it is downloaded and loaded.
    with under_way(f"waiting for {target_model}"):
        target = current_key(asked.settings, asked.name, target_model)
        answer, answered = send(asked.settings, replace(invocation, target=target))
    sys.stdout.buffer.write(answer)
    is_text = answered.startswith("text/") or "json" in answered
    if answer and answer[-1:] != b"\n" and (is_text or sys.stdout.isatty()):
        typer.echo()
