"""Whom a command asks: an endpoint by name or by its deployment file, and which of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import not_empty

if TYPE_CHECKING:
    from mmekit.settings import Settings

__all__ = ["ENDPOINT_HELP", "Endpoint", "current_key"]

ENDPOINT_HELP = (
    "The endpoint's name, or its deployment file, such as staging.yaml: then with the region and "
    "the profile of that."
)
Endpoint = Annotated[str, typer.Argument(help=ENDPOINT_HELP, callback=not_empty)]


def current_key(settings: Settings, endpoint: str, name: str) -> str:
    """Return the key of a model's current version; say on standard error which it is."""
    from botocore.exceptions import BotoCoreError, ClientError

    from mmekit.deploy.target import current_target

    try:
        found = current_target(settings, endpoint, name)
    except (BotoCoreError, ClientError):  # the invocation meets the same, and says it
        return name
    if found.note:
        typer.echo(f"mme: {found.note}", err=True)
    return found.key
