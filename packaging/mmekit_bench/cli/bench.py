"""Commands that put load on an endpoint or a container: bench, bench compare."""

from __future__ import annotations

from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.addressee import ENDPOINT_HELP, current_key
from mmekit.cli.application import AsJson, Panel, app

if TYPE_CHECKING:
    from mmekit_bench import Destination, LoadPlan, LoadResult, Payload


class Client(str, Enum):
    """Who sends the requests."""

    RAW = "raw"
    BOTO3 = "boto3"


class Arrivals(str, Enum):
    """When the requests of an open loop are due."""

    EVEN = "even"
    POISSON = "poisson"


class Generator(str, Enum):
    """What a result can be held against."""

    WRK = "wrk"


_A_WHILE_S = 10.0

bench = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    subcommand_metavar="[compare A.json B.json]",
)
app.add_typer(bench, name="bench", rich_help_panel=Panel.MEASURE)


@bench.callback()
def load(  # noqa: PLR0913 - an option each
    context: typer.Context,
    *,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help=ENDPOINT_HELP),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A container instead: http://HOST:PORT with --targets, or the full URL."),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            "--targets",
            "--models",
            metavar="A,B,…",
            help="Target models, the most requested first. Default: all of the endpoint, in their "
            "current versions.",
        ),
    ] = None,
    distribution: Annotated[
        str,
        typer.Option(
            metavar="one|uniform|hot|top-N|zipf",
            help="How models are chosen; hot: 9 of 10 times the first.",
        ),
    ] = "uniform",
    data: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The request body."),
    ] = None,
    package: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Use the sample request of this package."),
    ] = None,
    content_type: Annotated[
        str | None, typer.Option(help="Default: by the suffix of --data.")
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(
            "--connections",
            "-c",
            min=1,
            help="Concurrent requests. Default: 1; 64 with --rate.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Open loop: requests a second, sent whatever the responses."),
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="With --rate: at even intervals, or a Poisson process.")
    ] = Arrivals.EVEN,
    outstanding: Annotated[
        int, typer.Option(min=1, help="With --rate: drop requests beyond so many pending ones.")
    ] = 1000,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds to run. Default: 10, without --requests.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="The most requests to send.")] = None,
    warm_up: Annotated[
        float, typer.Option(min=0, help="Seconds of load before the measurement.")
    ] = 0,
    ramp: Annotated[
        str | None,
        typer.Option(metavar="FROM:TO", help="Raise connections, or the --rate, linearly."),
    ] = None,
    spike: Annotated[
        str | None,
        typer.Option(
            metavar="TIMES@START+LENGTH",
            help="10@5+3: tenfold load from second 5 to 8.",
        ),
    ] = None,
    client: Annotated[
        Client, typer.Option(help="Raw HTTP, or signed boto3 calls in threads.")
    ] = Client.RAW,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for a response.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the random choices.")] = 0,
    check_with: Annotated[
        Generator | None, typer.Option(help="Repeat the load with wrk, for comparison.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            dir_okay=False,
            metavar="FILE.json",
            help="Write the result, FILE.csv (by second) and FILE.svg (plots).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load-test an endpoint or a container.

    Reports throughput, latency percentiles and errors.

    **Examples:** mme bench --endpoint mmekit -c 8 --package
    model_packages/extra_trees_classifier -o build/bench.json  ·  mme bench --url
    http://127.0.0.1:8080/models/ridge/invoke --data request.json --rate 200  ·  mme bench compare
    before.json after.json
    """
    if context.invoked_subcommand is not None:
        return
    from mmekit_bench import LoadPlan

    if (data is None) == (package is None):
        raise typer.BadParameter("give either --data or --package, for the request body")
    if duration is None and requests is None:
        duration = _A_WHILE_S
    if duration is None and (ramp or spike):
        raise typer.BadParameter("--ramp and --spike need a --duration")
    if output is not None and output.suffix != ".json":
        raise typer.BadParameter(f"--output {output} does not end with .json")
    if check_with is not None and (rate is not None or ramp or spike):
        raise typer.BadParameter("wrk supports none of --rate, --ramp and --spike")
    destination, names = _destination(endpoint, url, targets)
    plan = LoadPlan(
        destination=destination,
        payload=_payload(data, package, content_type),
        targets=names,
        distribution=distribution,
        connections=connections or (1 if rate is None else 64),
        rate=rate,
        poisson=arrivals is Arrivals.POISSON,
        outstanding=outstanding,
        duration=duration,
        requests=requests,
        warm_up=warm_up,
        ramp=ramp,
        spike=spike,
        client=client.value,
        timeout=timeout,
        seed=seed,
    )
    _run(plan, check_with, output, as_json)


@bench.command()
def compare(
    first: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, metavar="A.json", help="The first result."),
    ],
    second: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, metavar="B.json", help="The second result."),
    ],
    *,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="PERCENT",
            help="By how much a figure of B may be worse than A's, apart from noise.",
        ),
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Compare two results: ratios, and significant differences.

    Exits with 1 when B is worse than A: its throughput, p50, p90 or p99 by more than noise and the
    tolerance, or its share of failed and dropped requests by more than 0.1 % of all; with 3 when
    too little was measured to tell.

    **Example:** mme bench compare before.json after.json --tolerance 10
    """
    import json
    from dataclasses import asdict

    from mmekit.printing import show
    from mmekit_bench import read_result
    from mmekit_bench.comparison import compare as held_against
    from mmekit_bench.report import compared

    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    results = (read_result(first), read_result(second))
    comparison = held_against(*results, tolerance / 100)
    if as_json:
        rows = [{**asdict(row), "ratio": row.ratio} for row in comparison.rows]
        content = {
            "first": str(first),
            "second": str(second),
            "tolerancePercent": tolerance,
            "worse": [row.name for row in comparison.worse],
            "judged": comparison.is_judged,
            "rows": rows,
            "differences": list(comparison.differences),
        }
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(*compared(comparison, results, names))
    raise typer.Exit(comparison.exit_code)


def _destination(
    endpoint: str | None, url: str | None, targets: str | None
) -> tuple[Destination, tuple[str, ...]]:
    from mmekit.deploy.whereabouts import whereabouts
    from mmekit.progress import under_way
    from mmekit_bench import Destination, listed_targets

    if bool(endpoint) == bool(url):
        raise typer.BadParameter("give either --endpoint or --url, to say where requests go")
    named = tuple(name.strip() for name in (targets or "").split(",") if name.strip())
    if endpoint:
        asked = whereabouts(endpoint)
        destination = Destination.of_endpoint(asked.name, asked.settings, profile=asked.profile)
        with under_way("looking for the models"):
            keys = tuple(current_key(asked.settings, asked.name, name) for name in named)
            return destination, keys or listed_targets(asked.name, asked.settings)
    destination = Destination.of_url(url or "")
    if destination.path is None and not named:
        raise typer.BadParameter(f"{url} names no model: add --targets, or /models/NAME/invoke")
    if destination.path is not None and len(named) > 1:
        raise typer.BadParameter(f"{url} names one model, and --targets several")
    return destination, named or (destination.path or "",)


def _payload(data: Path | None, package: Path | None, content_type: str | None) -> Payload:
    from dataclasses import replace

    from mmekit_bench import Payload

    payload = Payload.of_package(package) if package else Payload.of_file(data or Path())
    return payload if content_type is None else replace(payload, content_type=content_type)


def _run(
    plan: LoadPlan,
    check_with: Generator | None,
    output: Path | None,
    as_json: bool,  # noqa: FBT001 - the option's value
) -> None:
    """Put the load on, print and keep what it found; exit 1 when there was no answer at all."""
    from dataclasses import replace

    from mmekit.printing import show
    from mmekit.progress import under_way
    from mmekit_bench.load import put_load, put_load_with_wrk, require_wrk
    from mmekit_bench.report import Display, reported

    if check_with is not None:
        require_wrk()
    # The processes that generate the load import it: that it is missing is said before they start.
    import_module("httptools")
    with Display(plan) as display:
        result = put_load(plan, display)
    if check_with is not None and not result.interrupted:
        seconds = max(1, min(round(plan.duration or _A_WHILE_S), round(_A_WHILE_S)))
        with under_way(f"putting the same load on with {check_with.value} for {seconds} s"):
            result = replace(result, check=put_load_with_wrk(plan, seconds))
    if as_json:
        typer.echo(result.to_json().decode())
    else:
        show(*reported(result))
    if output is not None:
        _keep(result, output, told_on_stderr=as_json)
    if not result.recording.answered:
        raise typer.Exit(1)


def _keep(result: LoadResult, output: Path, *, told_on_stderr: bool = False) -> None:
    from mmekit_bench.plot import draw_load

    series, picture = output.with_suffix(".csv"), output.with_suffix(".svg")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(result.to_json())
    series.write_text(result.to_csv(), encoding="utf-8")
    written = [output.name, series.name]
    try:
        draw_load(result, picture)
        written.append(picture.name)
    finally:  # the figures are there all the same
        typer.echo(f"{output.parent}: {', '.join(written)}", err=told_on_stderr)
