"""Commands that watch an endpoint: top, logs."""

from __future__ import annotations

import re
import sys
import time
from enum import Enum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mmekit.cli.addressee import Endpoint
from mmekit.cli.application import AsJson, Panel, app, not_empty
from mmekit.errors import EndpointError
from mmekit.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mmekit.operate import ContainerLine, EndpointView, LineReader, OperatedEndpoint
    from mmekit.settings import Settings

_Told = TypeVar("_Told")


class TopSource(str, Enum):
    """Who tells `mme top` of an endpoint."""

    SERVICE = "service"
    CLOUDWATCH = "cloudwatch"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EVERY_S = {True: 2.0, False: 60.0}  # of the local service; of CloudWatch, whose minutes are whole
_FOLLOW_S = {True: 1.0, False: 5.0}
_ROWS_BESIDE_MODELS = 15
_NAMED = 3


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a time such as 30s, 10m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


@app.command(rich_help_panel=Panel.OPERATE)
def top(
    endpoint: Endpoint,
    *,
    once: Annotated[bool, typer.Option("--once", help="Print once, as in a pipe.")] = False,
    every: Annotated[
        float | None,
        typer.Option(min=0.2, metavar="SECONDS", help="Default: 2; 60 with CloudWatch."),
    ] = None,
    source: Annotated[
        TopSource | None,
        typer.Option(help="Default: service on the local target, cloudwatch on AWS."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an endpoint does: models, latency, failures.

    In a terminal it is live until q or Ctrl-C. MME_TARGET says whether the endpoint is local or on
    AWS, where CloudWatch tells what it knows (docs/observability.md).

    **Examples:** mme top mmekit  ·  mme top mmekit --once  ·  MME_TARGET=aws mme top mmekit --json
    """
    from mmekit.deploy.whereabouts import whereabouts
    from mmekit.operate import cloudwatch_view, drawn_view, find_endpoint, rehearsal_view
    from mmekit.printing import show
    from mmekit.progress import under_way

    asked = whereabouts(endpoint)
    settings = asked.settings
    is_local = settings.target == "local"
    if source is TopSource.SERVICE and not is_local:
        raise typer.BadParameter("AWS has CloudWatch alone", param_hint="--source")
    is_service = source is not TopSource.CLOUDWATCH and is_local

    def look() -> EndpointView:
        found = _told(settings, lambda: find_endpoint(settings, asked.name))
        read = rehearsal_view if is_service else cloudwatch_view
        return _told(settings, lambda: read(settings, found))

    if as_json or once or not sys.stdout.isatty():
        with under_way(f"looking at {asked.name}"):
            view = look()
        if as_json:
            import json

            typer.echo(json.dumps(view.members(), indent=2, ensure_ascii=False))
        else:
            show(*drawn_view(view))
        return
    from mmekit.operate.live import watch

    watch(
        lambda height: drawn_view(look(), most_models=max(5, height - _ROWS_BESIDE_MODELS)),
        every or _EVERY_S[is_service],
    )


@app.command(rich_help_panel=Panel.OPERATE)
def logs(
    endpoint: Endpoint,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            callback=lambda text: None if text is None else not_empty(text),
            help="Only lines of this model: its target model, or the name it was packed with.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="How far back: 30s, 10m, 2h, 1d.")
    ] = "10m",
    errors: Annotated[
        bool, typer.Option("--errors", help="Only failures, with their tracebacks.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line: at, instance, message.")
    ] = False,
) -> None:
    """Print what the containers of an endpoint printed.

    All instances together, in the order of time, each line with its instance. MME_TARGET says
    whether the endpoint is local or on AWS.

    **Examples:** mme logs mmekit --since 1h --errors  ·  mme logs mmekit --model ridge.tar.gz -f
    """
    from mmekit.deploy.whereabouts import whereabouts
    from mmekit.operate import LineReader, find_endpoint
    from mmekit.operate.lines import recent

    began = recent(_seconds(since))
    asked = whereabouts(endpoint)
    settings = asked.settings
    found = _told(settings, lambda: find_endpoint(settings, asked.name, deleted=True))
    if found.status == "Deleted":
        typer.echo(f"mme: {asked.name} is deleted; this is the log it left.", err=True)
    reader = LineReader(settings, asked.name, began)
    chosen = _told(settings, lambda: _chosen(settings, found, model, errors=errors))
    printed = 0
    try:
        first = _read(settings, reader)
        printed += _print_lines(chosen(first), as_json=as_json)
        if reader.was_cut:
            typer.echo("mme: there is more: take a shorter --since, or --follow.", err=True)
        while follow:
            time.sleep(_FOLLOW_S[settings.target == "local"])
            printed += _print_lines(chosen(_read(settings, reader)), as_json=as_json)
    except KeyboardInterrupt:
        return
    if not printed:
        _explain_nothing(first, since, model, errors=errors)


def _read(settings: Settings, reader: LineReader) -> list[ContainerLine]:
    from mmekit.progress import under_way

    with under_way("reading the log"):
        return _told(settings, reader.read)


def _chosen(
    settings: Settings, endpoint: OperatedEndpoint, model: str | None, *, errors: bool
) -> Callable[[Iterable[ContainerLine]], Iterator[ContainerLine]]:
    """Return what chooses among lines; it remembers a traceback from one reading to the next."""
    from mmekit.deploy.target import current_target
    from mmekit.operate import FailedLines, model_lines
    from mmekit.operate.lines import name_in_key
    from mmekit.operate.metered import is_metered
    from mmekit.operate.packed import packed_name

    failed = FailedLines()
    # With versions on, the key of an object has a digest that nobody types.
    key = None if model is None else current_target(settings, endpoint.name, model).key
    name = None if key is None else packed_name(settings, endpoint.data_urls, key)
    if model is not None and name not in (None, name_in_key(model)):
        typer.echo(
            f"mme: {model} was packed as {name}: lines of workers are those of every model that "
            "was, as the log tells no more.",
            err=True,
        )

    def choose(lines: Iterable[ContainerLine]) -> Iterator[ContainerLine]:
        # Lines of metrics are for programs: `mme top` has them.
        lines = (line for line in lines if not is_metered(line))
        if key is not None:
            lines = model_lines(lines, key, name, endpoint)
        return (line for line in lines if not errors or failed.has(line))

    return choose


def _print_lines(lines: Iterable[ContainerLine], *, as_json: bool) -> int:
    import json
    from datetime import datetime, timezone

    count = 0
    for line in lines:
        at = datetime.fromtimestamp(line.at / 1000, timezone.utc)
        moment = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if as_json:
            content = {"at": moment, "instance": line.instance, "message": line.text}
            typer.echo(json.dumps(content, ensure_ascii=False))
        else:
            typer.echo(f"{moment}  {line.instance}  {line.text}")
        count += 1
    return count


def _explain_nothing(
    lines: list[ContainerLine], since: str, model: str | None, *, errors: bool
) -> None:
    from mmekit.deploy.whereabouts import nearest
    from mmekit.operate.lines import name_in_key, workers_of

    if not lines:
        typer.echo(f"mme: nothing was printed in the last {since}.", err=True)
        return
    names = workers_of(lines)
    if model is not None and not errors:
        near = nearest(name_in_key(model), names) or names[:_NAMED]
        known = f"Lines name: {', '.join(near)}." if names else "No line names a model."
        raise EndpointError(
            f"No line of the last {since} is of the model {model}.",
            where=model,
            remedy=f"{known} Servers name a model by the first 15 characters of what it was packed "
            "as; see docs/observability.md.",
        )
    what = "failure" if errors else "line"
    typer.echo(f"mme: no {what} among {counted(len(lines), 'line')} of the last {since}.", err=True)


def _told(settings: Settings, ask: Callable[[], _Told]) -> _Told:
    """Return what AWS answers, or say what is wrong and what to do about it."""
    from mmekit.deploy.account import deploy_errors

    with deploy_errors(settings):
        return ask()
