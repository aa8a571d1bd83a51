"""What `mme pack --register` does with an archive: a version of a model package group."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.deploy.registry import RegisteredModel

__all__ = ["Register", "ask_to_register", "expect_registrable", "registered_archive"]

Register = Annotated[
    str | None,
    typer.Option(
        "--register",
        metavar="GROUP",
        help="Upload the archive (MME_BUCKET) and make it the newest version of this model package "
        "group, which waits for an approval. The group is made if there is none.",
    ),
]


def expect_registrable(group: str | None, *, is_series: bool, thin: bool) -> None:
    """Refuse what cannot be registered before a model is packed for minutes."""
    if group is None:
        return
    if not group:
        raise typer.BadParameter("the value is empty", param_hint="--register")
    if is_series:
        raise typer.BadParameter(
            "a group has versions of one model: pack models one by one to register them",
            param_hint="--register",
        )
    if thin:
        raise typer.BadParameter(
            "a thin archive is not whole without its layers, and the registry keeps none",
            param_hint="--register",
        )


def ask_to_register(group: str | None, *, yes: bool) -> None:
    """Ask before something is uploaded to a real account and registered there; say which it is."""
    if group is None:
        return
    from mmekit.deploy.registry import place_of_registry
    from mmekit.errors import DeployError

    place, is_real = place_of_registry()
    if not is_real:
        return
    typer.echo(f"to register as the newest version of {group}: {place}", err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise DeployError(
            "To register a model in a real account needs confirmation, and standard input is no "
            "terminal.",
            where=place,
            remedy="Run the command with --yes.",
        )
    typer.confirm("Pack it and register it there?", abort=True, err=True)


def registered_archive(file: Path, group: str) -> RegisteredModel:
    """Upload an archive and register it; say on standard error what happens."""
    from mmekit.deploy.registry import register

    return register(file, group, lambda text: typer.echo(text, err=True))
