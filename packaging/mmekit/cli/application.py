"""The application behind `mme`, to which modules of commands add theirs, and common options."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mmekit import __version__
from mmekit.errors import CheckError, MmekitError
from mmekit.extras import optional_libraries

__all__ = [
    "INTERRUPTED",
    "Artifacts",
    "AsJson",
    "Image",
    "PackageFolder",
    "Panel",
    "app",
    "deployment_file",
    "not_empty",
]

INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell has it."""


class Panel(str, Enum):
    """The groups of commands that `mme --help` shows, in its order."""

    PACKAGE = "Package a model"
    REHEARSE = "Rehearse on this machine"
    MEASURE = "Measure"
    DEPLOY = "Deploy and invoke an endpoint"
    OPERATE = "Operate an endpoint"


class _ReportingGroup(TyperGroup):
    """Says what happened, where and what to do about it, instead of a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands by their panels; within one, in the order of their registration."""
        panels = [panel.value for panel in Panel]
        return sorted(
            super().list_commands(ctx),
            key=lambda name: panels.index(getattr(self.commands[name], "rich_help_panel", "")),
        )

    def invoke(self, ctx: Any) -> Any:
        try:
            return self._invoke(ctx)
        except BrokenPipeError:
            raise  # `mme check … | head`: click ends quietly
        except (MmekitError, OSError) as error:
            if ctx.params["debug"]:
                raise
            _complain(error)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError:
            # Which command it was is known only now.
            with optional_libraries(f"`mme {ctx.invoked_subcommand}`"):
                raise


def _complain(error: MmekitError | OSError) -> NoReturn:
    if isinstance(error, CheckError) and error.findings:
        from mmekit.printing import print_findings

        print_findings(error.findings, stderr=True)
    if isinstance(error, OSError):
        where = None if error.filename is None else str(error.filename)
        error = MmekitError(error.strerror or str(error), where=where)
    typer.echo(f"mme: {error}", err=True)
    raise typer.Exit(1)


app = typer.Typer(
    cls=_ReportingGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - click hands it over so
    if wanted:
        typer.echo(f"mmekit {__version__}")
        raise typer.Exit


@app.callback()
def mme(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print it."),
    ] = False,
) -> None:
    """Package Python models for DJL Serving and serve them from SageMaker multi-model endpoints.

    The same archives and boto3 calls work on this machine (`mme up`) and on AWS. MME_TARGET says
    which of the two a command means: local, the default, or aws.

    **From a trained model to a response:** mme init, mme check, mme pack, mme up, mme deploy, mme
    invoke.
    """


def not_empty(text: str) -> str:
    """Refuse a value that is given and empty."""
    if not text:
        raise typer.BadParameter("the value is empty")
    return text


def deployment_file(given: Path) -> Path:
    """Return the deployment file that is meant: `staging` is staging.yaml, or staging.yml.

    What is not there at all is returned as it is: whoever reads it says so.
    """
    if given.is_file():
        return given
    found = [
        file
        for ending in (".yaml", ".yml")
        if given.name and (file := given.with_name(given.name + ending)).is_file()
    ]
    if len(found) > 1:
        raise typer.BadParameter(f"both {found[0]} and {found[1]} are there: which is meant?")
    if not found and given.is_dir():
        raise typer.BadParameter(f"{given} is a folder, and no file of mme deploy")
    return found[0] if found else given


Artifacts = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        exists=True,
        file_okay=False,
        help="The folder with the trained model's artefacts, such as "
        "build/artifacts/extra_trees_classifier.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Image = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="The container image to compare libraries with: a stock DJL image, an entry of "
        "images.json, a declaration such as mine:1=python3.11,catboost==1.2.8, or `none` to skip "
        "it. Default: djl-inference:0.36.0-cpu-full.",
    ),
]
PackageFolder = Annotated[
    Path,
    typer.Argument(
        metavar="PACKAGE",
        exists=True,
        file_okay=False,
        help="The package folder: model.py, serving.properties.",
    ),
]
