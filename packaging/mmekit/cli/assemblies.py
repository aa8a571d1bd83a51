"""Commands about what the AWS CDK synthesised: cdk publish, cdk deploy, cdk destroy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmekit.cli.application import app

cdk = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    cdk, name="cdk", help="Put what `cdk synth` wrote on the local service; AWS has cdk for it."
)

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", exists=True, file_okay=False, help="What cdk synth wrote: cdk.out."
    ),
]


@cdk.command()
def publish(folder: Folder) -> None:
    """Upload the assets that stacks refer to: archives, functions, templates.

    An image that `cdk deploy` would build stands for DJL Serving here, unless images.json says
    otherwise: mme images add.

    **Example:** mme cdk publish infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    published = Assembly(folder, Settings()).publish()
    for url in published.files:
        typer.echo(url)
    typer.echo(f"{len(published.files)} uploaded, {published.there} there already")
    for uri in published.images:
        typer.echo(f"image {uri}: choose what runs for it with mme images add '{uri}' -- COMMAND")


@cdk.command()
def deploy(folder: Folder) -> None:
    """Publish the assets, create or update the stacks, wait and print their outputs.

    **Example:** mme cdk deploy infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    for stack, outputs in Assembly(folder, Settings()).deploy(typer.echo).items():
        for name, value in outputs.items():
            typer.echo(f"{stack}.{name} = {value}")


@cdk.command()
def destroy(folder: Folder) -> None:
    """Delete the stacks, the last first, and wait.

    **Example:** mme cdk destroy infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    Assembly(folder, Settings()).destroy(typer.echo)
