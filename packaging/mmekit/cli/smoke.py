"""The command that proves an account, or a rehearsal: smoke."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import AsJson, Panel, app
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from mmekit.smoke import SmokeCourse


class SmokeTarget(str, Enum):
    """Where a smoke test runs."""

    LOCAL = "local"
    AWS = "aws"


@app.command(rich_help_panel=Panel.OPERATE)
def smoke(  # noqa: PLR0913 - an option each
    *,
    target: Annotated[
        SmokeTarget | None,
        typer.Option(help="The local service (`mme up`), or AWS. Default: MME_TARGET."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Default: MME_REGION, or AWS's own configuration.")
    ] = None,
    instance_type: Annotated[
        str, typer.Option(help="There is one instance of it.")
    ] = "ml.m5.xlarge",
    image: Annotated[
        str | None, typer.Option(help="Default: AWS's DJL Serving for the region.")
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable of the container. Repeatable."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(min=0.1, max=120, help="After so many, everything is taken down."),
    ] = 15.0,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, as on the local target.")
    ] = False,
    as_json: AsJson = False,
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="Write the report to a file, too."),
    ] = None,
) -> None:
    """Deploy three models, check all, take all down, and report.

    The models have worker slots and layers. Answers, latency, log and metrics of CloudWatch are
    looked at. On AWS it takes some ten minutes, and says first what it costs. However it ends,
    by Ctrl-C too, it removes what it made. The report has no account, ARN or secret in it. The
    exit code is 0 only when every check has passed.

    **Examples:** mme up -- mme smoke  ·  mme smoke --target aws --output smoke.md
    """
    from mmekit.smoke import SmokeCourse, SmokeOptions

    chosen = SmokeOptions(
        target=None if target is None else target.value,
        region=region,
        instance_type=instance_type,
        image=image,
        environment=_variables(environment or []),
        minutes=minutes,
    )
    course = SmokeCourse(chosen, _say)
    try:
        for line in course.announcement():
            _say(line)
        _ask(course, yes=yes)
    except BaseException:
        course.cancel()
        raise
    report = course.run()
    text = report.to_json() if as_json else report.markdown()
    typer.echo(text, nl=False)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    if course.signal is not None:
        raise typer.Exit(128 + course.signal)
    if not report.passed:
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _variables(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
        found[name] = value
    return found


def _ask(course: SmokeCourse, *, yes: bool) -> None:
    if yes or not course.is_real:
        return
    if not sys.stdin.isatty():
        raise DeployError(
            "A smoke test in a real account needs confirmation, and standard input is no terminal.",
            where=course.name,
            remedy="Review the cost above, then run the command with --yes.",
        )
    typer.confirm("Go on?", abort=True, err=True)
