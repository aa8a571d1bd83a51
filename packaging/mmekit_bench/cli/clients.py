"""Commands that let many clients call at once: clients call-lambda, clients call-sagemaker."""

from __future__ import annotations

import mimetypes
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.addressee import ENDPOINT_HELP, current_key
from mmekit.cli.application import INTERRUPTED, AsJson, Panel, app, not_empty
from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from mmekit_bench.clients import Call, CallRequest, ExecutionSummary


class RetryMode(str, Enum):
    """Botocore's ways to try again."""

    STANDARD = "standard"
    ADAPTIVE = "adaptive"
    LEGACY = "legacy"


_MOST_CLIENTS = 10_000

clients = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    clients,
    name="clients",
    help="Send N concurrent requests, directly or through Lambda.",
    rich_help_panel=Panel.MEASURE,
)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 0 < int(part) <= _MOST_CLIENTS for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers from 1 to {_MOST_CLIENTS}, such as 160,170,180,250"
        )
    return tuple(dict.fromkeys(map(int, parts)))


Numbers = Annotated[
    str,
    typer.Option(
        "--clients",
        "-n",
        metavar="N,N,…",
        help="Concurrent clients; several numbers run in sequence.",
    ),
]
Data = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The request body.")]
ContentType = Annotated[str | None, typer.Option(help="Default: by the suffix of --data.")]
TargetModel = Annotated[str | None, typer.Option(help="The model of a multi-model endpoint.")]
MaxAttempts = Annotated[
    int | None, typer.Option(min=0, help="The most retries of botocore, such as when throttled.")
]
Mode = Annotated[RetryMode | None, typer.Option("--retry-mode", help="The retry mode of botocore.")]
Output = Annotated[
    Path, typer.Option(file_okay=False, help="The folder for the CSV files and the report.")
]


@clients.command("call-lambda")
def call_lambda(  # noqa: PLR0913 - an option each
    *,
    numbers: Numbers,
    function: Annotated[str, typer.Option(help="The function's name or ARN.", callback=not_empty)],
    data: Data,
    content_type: ContentType = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help=f"{ENDPOINT_HELP} Default: the function's ENDPOINT_NAME."
        ),
    ] = None,
    target_model: TargetModel = None,
    max_attempts: MaxAttempts = None,
    retry_mode: Mode = None,
    output: Output = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Invoke a Lambda function that invokes an endpoint.

    The function is that of infrastructure/lambda. --max-attempts and --retry-mode apply to the
    function's own requests, and override its environment variables. MME_TARGET says whether the
    function is local or on AWS.

    **Example:** mme clients call-lambda --function call-sagemaker -n 160,170,180,250
    --data request.json --max-attempts 100
    """
    from mmekit.deploy.whereabouts import whereabouts
    from mmekit.settings import Settings
    from mmekit_bench.clients import LambdaCall
    from mmekit_bench.clients.calls import endpoint_of

    asked = None if endpoint is None else whereabouts(endpoint)
    settings = Settings() if asked is None else asked.settings
    name = None if asked is None else asked.name
    if target_model is not None and (known := name or endpoint_of(settings, function)):
        target_model = current_key(settings, known, target_model)
    request = _request(data, content_type, target_model, max_attempts, retry_mode)
    _run(LambdaCall(settings, function, request, name), _numbers(numbers), output, as_json)


@clients.command("call-sagemaker")
def call_sagemaker(  # noqa: PLR0913 - an option each
    *,
    numbers: Numbers,
    endpoint: Annotated[
        str, typer.Option(metavar="NAME|FILE", help=ENDPOINT_HELP, callback=not_empty)
    ],
    data: Data,
    content_type: ContentType = None,
    target_model: TargetModel = None,
    max_attempts: MaxAttempts = None,
    retry_mode: Mode = None,
    output: Output = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Invoke an endpoint directly.

    Without --max-attempts there are no retries. MME_TARGET says whether it is local or on AWS.

    **Example:** mme clients call-sagemaker --endpoint serverless -n 160 --data request.json
    """
    from mmekit.deploy.whereabouts import whereabouts
    from mmekit_bench.clients import EndpointCall

    asked = whereabouts(endpoint)
    if target_model is not None:
        target_model = current_key(asked.settings, asked.name, target_model)
    request = _request(data, content_type, target_model, max_attempts, retry_mode)
    _run(EndpointCall(asked.settings, asked.name, request), _numbers(numbers), output, as_json)


def _request(
    data: Path,
    content_type: str | None,
    target_model: str | None,
    max_attempts: int | None,
    retry_mode: RetryMode | None,
) -> CallRequest:
    from mmekit.archive.package import CONTENT_TYPES
    from mmekit_bench.clients import CallRequest

    guessed = CONTENT_TYPES.get(data.suffix) or mimetypes.guess_type(data.name)[0]
    return CallRequest(
        body=data.read_bytes(),
        content_type=content_type or guessed or "application/octet-stream",
        target_model=target_model,
        max_attempts=max_attempts,
        retry_mode=None if retry_mode is None else retry_mode.value,
    )


def _run(call: Call, numbers: tuple[int, ...], output: Path, as_json: bool) -> None:  # noqa: FBT001
    """Let so many call, then the next number of them; write each one's table, and draw them all."""
    from contextlib import ExitStack
    from datetime import datetime

    from mmekit.progress import under_way
    from mmekit_bench.clients import ExecutionTable, call_together, summary_of

    date = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    summaries: list[ExecutionSummary] = []
    interrupted = False
    with ExitStack() as stack:
        # All files before anybody calls: one that cannot be written must not cost a run.
        tables = [
            stack.enter_context(
                ExecutionTable(output / f"{call.name}_execution_{date}_{number}.csv")
            )
            for number in numbers
        ]
        call.check()
        for number, table in zip(numbers, tables, strict=True):
            executions = []
            try:
                with under_way(f"{number} clients call {call.name}"):
                    for execution in call_together(call, number):
                        table.add(execution)
                        executions.append(execution)
            except KeyboardInterrupt:
                interrupted = True
            if executions:
                summaries.append(summary_of(number, executions))
                told = f"{table.path}: {len(executions)} of {number} clients"
                typer.echo(told, err=as_json)
            if interrupted:
                break
    if summaries:
        _report(call, summaries, output / f"{call.name}_execution_{date}.svg", as_json=as_json)
    if interrupted:
        typer.echo("mme: interrupted; the responses so far are kept.", err=True)
        raise typer.Exit(INTERRUPTED)
    if not any(one.answered for one in summaries):
        raise typer.Exit(1)


def _report(call: Call, summaries: list[ExecutionSummary], picture: Path, *, as_json: bool) -> None:
    from mmekit_bench.plot import draw_executions

    if as_json:
        _print_json(summaries)
    else:
        _print_table(summaries)
    _print_failure(summaries)
    try:
        draw_executions(summaries, call.title, picture)
        typer.echo(str(picture), err=as_json)
    except MmekitError as error:  # the figures are there all the same
        typer.echo(f"mme: {error}", err=True)


def _print_table(summaries: list[ExecutionSummary]) -> None:
    from mmekit.printing import TextTable, show
    from mmekit_bench.clients import PERCENTILES

    counts, times = [], []
    for one in summaries:
        figures = (one.clients, one.answered, one.throttled, one.failed)
        retries = ("" if count is None else str(count) for count in (one.retries, one.most_retries))
        counts.append((*map(str, figures), *retries))
        seconds = (f"{value:.3f}" for value in one.seconds or ())
        times.append((str(one.clients), *(tuple(seconds) or ("",) * len(PERCENTILES))))
    heads = ("Clients", "Answered", "Throttled", "Failed", "Retries", "Most of one")
    show(TextTable(heads, tuple(counts), numbers=heads), "")
    timed = ("Clients", *(f"{percent}%" for percent in PERCENTILES))
    show(TextTable(timed, tuple(times), numbers=timed, title="Seconds until the answer"))


def _print_json(summaries: list[ExecutionSummary]) -> None:
    import json
    from dataclasses import asdict

    from mmekit_bench.clients import PERCENTILES

    content = []
    for one in summaries:
        times = dict(zip(map(str, PERCENTILES), one.seconds, strict=False))
        content.append({**asdict(one), "seconds": times})
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _print_failure(summaries: list[ExecutionSummary]) -> None:
    failure = next((one.first_failure for one in summaries if one.first_failure), None)
    if failure is not None:
        typer.echo(f"The first failure: {failure}", err=True)
        if "Task timed out" in failure:
            typer.echo(
                "  remedy: Raise the Timeout of the function (at most 900 s, retries included), "
                "or lower --max-attempts.",
                err=True,
            )
