"""The application behind `mme`, to which every module of commands adds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mmekit import __version__
from mmekit.errors import CheckError, MmekitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.archive import Finding

__all__ = ["app", "print_findings"]

# The other wings are in every installation, the libraries that they need in these extras.
_EXTRAS = {"mmekit_local": "local", "mmekit_bench": "bench"}


class _ReportingGroup(TyperGroup):
    """Says what happened, where and what to do about it, instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # `mme check … | head`: click ends quietly
        except (MmekitError, OSError) as error:
            if ctx.params["debug"]:
                raise
            _complain(error)
        except ModuleNotFoundError as error:
            extra = _extra_for(error)
            if extra is None or ctx.params["debug"]:
                raise
            _complain(
                MmekitError(
                    f"`mme {ctx.invoked_subcommand}` needs {error.name}, which is not installed.",
                    remedy=f'pip install "mmekit[{extra}]"',
                )
            )


def _extra_for(error: ModuleNotFoundError) -> str | None:
    """Return the extra of the wing that was the first to be asked; none for anybody else's code."""
    at = error.__traceback__
    while at is not None:
        wing = at.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if wing in _EXTRAS:
            return _EXTRAS[wing]
        at = at.tb_next
    return None


def _complain(error: MmekitError | OSError) -> NoReturn:
    if isinstance(error, CheckError) and error.findings:
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print it.")
    ] = False,
) -> None:
    """Package Python models for DJL Serving and rehearse SageMaker multi-model endpoints.

    **A model's way:** mme init, mme check, mme pack, mme up, mme invoke.
    """


def print_findings(findings: Sequence[Finding], *, stderr: bool = False) -> None:
    """Print findings as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"error": "bold red", "warning": "yellow", "note": "cyan"}
    table = Table(show_lines=True)
    for heading in ("Severity", "Where", "What and what to do about it"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(
            Text(finding.severity, style=colours[finding.severity]),
            Text(f"{finding.where}\n{finding.rule}"),
            Text(f"{finding.message}\nRemedy: {finding.remedy}"),
        )
    Console(stderr=stderr).print(table)
