"""Commands about container images: images list, images add, images remove, images push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmekit.cli.application import app

images = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    images,
    name="images",
    help="Which server an image URI stands for on the local endpoint, and images for AWS.",
)

Pattern = Annotated[
    str,
    typer.Argument(metavar="PATTERN", help="Of image URIs, with * and ?, such as '*/my-image:*'."),
]


def _pairs(given: list[str] | None) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition("=") for item in given or ()]
    for name, sign, _ in pairs:
        if not sign or not name:
            raise typer.BadParameter(f"{name!r} is no NAME=VALUE")
    return tuple((name, value) for name, _, value in pairs)


@images.command("list")
def list_images(
    uri: Annotated[
        str | None, typer.Argument(metavar="[URI]", help="Say what runs for this one.")
    ] = None,
) -> None:
    """Show the rules, the first that matches first; the last are built in."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mmekit_local.containers import BUILT_IN, ImageRules

    rules = ImageRules.read()
    if uri is not None:
        rule = rules.find(uri)
        if rule is None:
            typer.echo("nothing: no rule is about it, and an endpoint with it fails")
        else:
            typer.echo(rule.refusal or _quoted(rule.words()))
        return
    table = Table()
    for heading in ("Pattern", "Runs", "Environment", "Holds", "From"):
        table.add_column(heading, overflow="fold")
    for rule in (*rules.rules, *BUILT_IN):
        variables = "\n".join(f"{name}={value}" for name, value in rule.environment)
        origin = "built in" if rule.folder is None else str(rules.file)
        holds = "\n".join(rule.holds)
        runs = f"nothing. {rule.refusal}" if rule.refusal else _quoted(rule.command)
        cells = (rule.pattern, runs, variables, holds, origin)
        table.add_row(*map(Text, cells))
    Console().print(table)


@images.command()
def add(
    pattern: Pattern,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="-- COMMAND",
            help="A program and its arguments; `mms HANDLER.py`, `djl` and `embedded` are ours.",
        ),
    ],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="May be given several times."),
    ] = None,
    holds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ITEM",
            help="What is in it, for `mme check --image` and `mme pack --image`: python3.11, "
            "catboost==1.2.8, or the image that it was built from. May be given several times.",
        ),
    ] = None,
) -> None:
    """Let an image stand for a command; a rule of the same pattern is replaced.

    The command gets a SageMaker container's variables, among them SAGEMAKER_BIND_TO_PORT. The
    rule goes into the file that MME_IMAGES names, or into images.json in this folder or above. A
    running `mme up` heeds it for the next container that it starts.

    **Example:** mme images add 'my-registry/my-image:1' --env WORKERS=2 -- python serving/serve.py
    """
    from mmekit.archive.image import image_holding
    from mmekit.archive.stock_images import STOCK_IMAGES
    from mmekit_local.containers import ImageRules

    if holds:
        image_holding(pattern, holds, STOCK_IMAGES)  # refused before it is written
    rules = ImageRules.read(may_be_new=True).adding(pattern, command, _pairs(env), holds or ())
    rules.write()
    typer.echo(f"{rules.file}: {pattern} runs {_quoted(command)}")
    if command[0] == "mms":
        from mmekit_local.containers.mms import unprovided_imports

        handler = Path(command[1])
        for name in unprovided_imports(handler):
            typer.echo(
                f"warning: {handler} imports {name}, which {handler.parent / 'requirements.txt'} "
                "does not ask for, unless what it asks for brings it",
                err=True,
            )


@images.command()
def remove(pattern: Pattern) -> None:
    """Forget a rule of images.json, by its very pattern."""
    from mmekit_local.containers import ImageRules

    rules = ImageRules.read().removing(pattern)
    rules.write()
    typer.echo(f"{rules.file}: nothing more about {pattern}")


@images.command()
def push(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", exists=True, file_okay=False, help="The one with the Dockerfile."
        ),
    ],
    *,
    repository: Annotated[
        str, typer.Option(metavar="NAME", help="Of ECR; it is created when it is not there.")
    ],
    tag: Annotated[str, typer.Option(metavar="TAG")] = "latest",
    build_arg: Annotated[
        list[str] | None,
        typer.Option("--build-arg", metavar="NAME=VALUE", help="May be given several times."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Otherwise what AWS's own configuration says.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; nothing is.")
    ] = False,
) -> None:
    """Build an image with Docker and push it to ECR in your account.

    **Example:** mme images push infrastructure/containers/mms --repository mmekit-mms-catboost
    --build-arg HANDLER=catboost
    """
    from mmekit_local.containers.ecr import ImagePush

    image = ImagePush(folder, repository, tag, _pairs(build_arg), region)
    if dry_run:
        for line in image.script():
            typer.echo(line)
    else:
        typer.echo(image.run(typer.echo))


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    import shlex

    return shlex.join(words)
