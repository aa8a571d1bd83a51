"""Commands about container images: images list, images add, images remove, images push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import AsJson, Panel, app

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit_local.containers.images import ImageRule

images = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    images,
    name="images",
    help="Choose what runs for a container image; push images to ECR.",
    rich_help_panel=Panel.REHEARSE,
)

Pattern = Annotated[
    str,
    typer.Argument(metavar="PATTERN", help="Image URIs with * and ?, such as '*/my-image:*'."),
]


def _pairs(given: list[str] | None) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition("=") for item in given or ()]
    for name, sign, _ in pairs:
        if not sign or not name:
            raise typer.BadParameter(f"{name!r} is not NAME=VALUE")
    return tuple((name, value) for name, _, value in pairs)


@images.command("list")
def list_images(
    uri: Annotated[
        str | None, typer.Argument(metavar="[URI]", help="Show only what runs for this image.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the rules by precedence, the built-in ones last."""
    from mmekit_local.containers import BUILT_IN, ImageRules

    rules = ImageRules.read()
    found = None if uri is None else rules.find(uri)
    shown = (*rules.rules, *BUILT_IN) if uri is None else tuple(filter(None, [found]))
    if as_json:
        _print_json(shown, rules.file)
    elif uri is None:
        _print(shown, rules.file)
    elif found is None:
        typer.echo("nothing: no rule matches it, and creating an endpoint with it fails")
    else:
        typer.echo(found.refusal or _quoted(found.words()))


@images.command()
def add(
    pattern: Pattern,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="-- COMMAND",
            help="The program to run, with arguments; or `mms HANDLER.py`, `djl`, `embedded`.",
        ),
    ],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="A variable for COMMAND; repeatable."),
    ] = None,
    holds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ITEM",
            help="A content of the image, for `--image` of `mme check` and `mme pack`: python3.11, "
            "catboost==1.2.8, or its base image; repeatable.",
        ),
    ] = None,
) -> None:
    """Run a command instead of the container of an image.

    A rule with the same pattern is replaced. The command gets the environment variables of a
    SageMaker container, among them SAGEMAKER_BIND_TO_PORT. The rule is written to the file that
    MME_IMAGES names, or to images.json in this folder or above it. A running `mme up` uses it for
    the containers that it starts next.

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
    """Remove the rule with this pattern from images.json."""
    from mmekit_local.containers import ImageRules

    rules = ImageRules.read().removing(pattern)
    rules.write()
    typer.echo(f"{rules.file}: removed {pattern}")


@images.command()
def push(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="The folder with the Dockerfile.",
        ),
    ],
    *,
    repository: Annotated[
        str, typer.Option(metavar="NAME", help="The ECR repository; it is created if missing.")
    ],
    tag: Annotated[str, typer.Option(metavar="TAG", help="The tag of the image.")] = "latest",
    build_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg", metavar="NAME=VALUE", help="A build argument of Docker; repeatable."
        ),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="The AWS region. Default: that of the AWS configuration.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands and exit.")
    ] = False,
) -> None:
    """Build an image with Docker and push it to ECR.

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


def _print(shown: Iterable[ImageRule], file: Path | None) -> None:
    from mmekit.printing import TextTable, show

    rows = []
    for rule in shown:
        variables = " ".join(f"{name}={value}" for name, value in rule.environment)
        runs = f"nothing. {rule.refusal}" if rule.refusal else _quoted(rule.command)
        rows.append((rule.pattern, variables, " ".join(rule.holds), _origin(rule, file), runs))
    show(TextTable(("Pattern", "Environment", "Holds", "From", "Runs"), tuple(rows)))


def _print_json(shown: Iterable[ImageRule], file: Path | None) -> None:
    import json

    content = [
        {
            "pattern": rule.pattern,
            "runs": None if rule.refusal else list(rule.command),
            "refusal": rule.refusal or None,
            "environment": dict(rule.environment),
            "holds": list(rule.holds),
            "from": _origin(rule, file),
        }
        for rule in shown
    ]
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _origin(rule: ImageRule, file: Path | None) -> str:
    return "built in" if rule.folder is None else str(file)


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    import shlex

    return shlex.join(words)
