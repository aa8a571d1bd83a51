"""What `mme pack --register` does with an archive: a version of a model package group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.deploy.registry import RegisteredModel

__all__ = ["Register", "expect_registrable", "registered_archive"]

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


def registered_archive(file: Path, group: str) -> RegisteredModel:
    """Upload an archive and register it; say on standard error what happens."""
    from mmekit.deploy.registry import register

    return register(file, group, lambda text: typer.echo(text, err=True))
