"""The command `mme`: every room behind one door.

The rooms are imported when their command runs, so that `mme --help` answers at once.
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn

import typer
from typer.core import TyperGroup

from mmekit import __version__
from mmekit.errors import CheckError, EndpointError, MmekitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.archive import Finding
    from mmekit.archive import Memory as MeasuredMemory

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 2**10, "MI": 2**20, "GI": 2**30}


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


def _complain(error: MmekitError | OSError) -> NoReturn:
    if isinstance(error, CheckError) and error.findings:
        _print_findings(error.findings, stderr=True)
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


class Server(str, Enum):
    """The kinds of container that can serve the models."""

    EMBEDDED = "embedded"


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; write it like 4GiB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _not_empty(text: str) -> str:
    if not text:
        raise typer.BadParameter("it is empty")
    return text


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - click hands it over so
    if wanted:
        typer.echo(f"mmekit {__version__}")
        raise typer.Exit


Artifacts = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        exists=True,
        file_okay=False,
        help="The folder that training wrote, such as build/artifacts/extra_trees_classifier.",
    ),
]
PackageFolder = Annotated[
    Path,
    typer.Argument(
        metavar="PACKAGE",
        exists=True,
        file_okay=False,
        help="The folder with model.py and serving.properties.",
    ),
]
Host = Annotated[
    str,
    typer.Option(help="The address to listen on. Anything but loopback lets others run models."),
]
Memory = Annotated[
    int | None,
    typer.Option(
        parser=_bytes,
        metavar="SIZE",
        help="What models may use, such as 4GiB: beyond it a load is refused with 507. "
        "Otherwise the machine's.",
    ),
]


@app.callback()
def mme(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print it.")
    ] = False,
) -> None:
    """Package Python models for DJL Serving and rehearse SageMaker multi-model endpoints.

    **A model's way:** mme check, mme pack, mme up, mme invoke.
    """


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A package folder, or a packed archive.")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what would go wrong on an endpoint, and the remedy; exit 1 when that is an error.

    **Example:** mme check model_packages/extra_trees_classifier
    """
    from mmekit import archive

    findings = archive.check(path)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif findings:
        _print_findings(findings)
    else:
        typer.echo(f"{path}: nothing found")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def measure(package: PackageFolder, *, artifacts: Artifacts) -> None:
    """Load the model in a fresh worker and write down its memory and libraries.

    The observation is kept in measured.json beside the artefacts, and every later `mme pack`
    reads it. Measure again when the model or its libraries change.

    **Example:** mme measure model_packages/setfit_classifier --artifacts
    build/artifacts/setfit_classifier
    """
    from mmekit import archive

    measured = archive.measure(package, artifacts)
    typer.echo(
        f"{package.name}: {_described(measured.memory)}, Python {measured.python}, "
        + ", ".join(f"{name} {measured.libraries[name]}" for name in measured.required)
    )


@app.command()
def pack(
    package: PackageFolder,
    *,
    artifacts: Artifacts,
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The archive: NAME.tar.gz.")
    ],
    worker_slots: Annotated[
        bool,
        typer.Option(help="Let stock DJL Serving load by forking, one process behind all workers."),
    ] = True,
) -> None:
    """Join a package folder and its artefacts into an archive, the same bytes every time.

    **Example:** mme pack model_packages/extra_trees_classifier --artifacts
    build/artifacts/extra_trees_classifier -o build/archives/extra_trees_classifier.tar.gz
    """
    from mmekit import archive

    packed = archive.pack(package, artifacts, output, worker_slots=worker_slots)
    if packed.findings:
        _print_findings(packed.findings)
    typer.echo(f"{packed.path}: {packed.size / 2**20:.1f} MiB, SHA-256 {packed.sha256}")


@app.command()
def environment(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what belongs into the SageMaker model's Environment for the best throughput.

    Lines of NAME=value, as for `docker run --env-file`, or with --json the object for create_model.

    **Example:** mme environment --json
    """
    from mmekit import archive

    variables = archive.container_environment()
    if as_json:
        import json

        typer.echo(json.dumps(variables, indent=2))
    else:
        for name, value in variables.items():
            typer.echo(f"{name}={value}")


@app.command()
def serve(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Host = "127.0.0.1",
    memory: Memory = None,
) -> None:
    """Be one multi-model container: SageMaker's contract in front of DJL's Python engine.

    **Example:** mme serve --port 8080 --memory 4GiB
    """
    from mmekit.server import ServerOptions, run

    run(ServerOptions(port=port, host=host, memory=memory))


@app.command()
def up(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND]", help="Run this meanwhile; the service ends when it does."
        ),
    ] = None,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8950,
    host: Host = "127.0.0.1",
    server: Annotated[
        Server, typer.Option(help="The kind of container that serves the models.")
    ] = Server.EMBEDDED,
    instances: Annotated[
        int | None,
        typer.Option(min=1, help="Containers a variant. Otherwise its InitialInstanceCount."),
    ] = None,
    memory: Memory = None,
) -> None:
    """Be SageMaker, S3 and the rest of AWS on one port, for unmodified boto3.

    Point boto3 at it with AWS_ENDPOINT_URL, or use the settings of this repository, whose
    default it is. Ctrl-C ends it and every container it started.

    **Examples:** mme up  ·  mme up --instances 2  ·  mme up -- jupyter lab notebooks
    """
    if command:
        from mmekit.companion import free_port, run_beside

        port = port or free_port(host)  # both sides have to know it
        chosen = {
            "--port": port,
            "--host": host,
            "--server": server.value,
            "--instances": instances,
            "--memory": memory,
        }
        options = [f"{name}={value}" for name, value in chosen.items() if value is not None]
        raise typer.Exit(run_beside(command, options, host, port))
    from mmekit.endpoint import EndpointOptions, run

    run(
        EndpointOptions(
            port=port,
            host=host,
            server=server.value,
            instances=instances,
            memory=memory,
        )
    )


@app.command()
def invoke(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.", callback=_not_empty)],
    *,
    target_model: Annotated[
        str,
        typer.Option(
            help="The archive's key under the prefix, such as ridge.tar.gz.", callback=_not_empty
        ),
    ],
    data: Annotated[typer.FileBinaryRead, typer.Option(help="The request's body; - is stdin.")],
    content_type: Annotated[
        str | None, typer.Option(help="Otherwise what the suffix of --data stands for.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="What the answer shall be, such as text/csv.")
    ] = None,
    custom_attributes: Annotated[
        str | None, typer.Option(help="Such as probabilities=true.")
    ] = None,
) -> None:
    """Ask a model for predictions and print its answer, on the target that MME_TARGET names.

    **Example:** mme invoke mmekit --target-model extra_trees_classifier.tar.gz --data
    model_packages/extra_trees_classifier/sample_request.json
    """
    from mmekit.settings import Settings

    settings = Settings()
    request = {
        "EndpointName": endpoint,
        "TargetModel": target_model,
        "Body": data.read(),
        "ContentType": content_type or _content_type(data),
        "Accept": accept,
        "CustomAttributes": custom_attributes,
    }
    answer, answered = _invoke(settings, {name: value for name, value in request.items() if value})
    sys.stdout.buffer.write(answer)
    is_text = answered.startswith("text/") or "json" in answered
    if answer and answer[-1:] != b"\n" and (is_text or sys.stdout.isatty()):
        typer.echo()


@app.command()
def demo() -> None:
    """Run all notebooks against one local endpoint: train, package and serve four models.

    Leaves build/artifacts, build/archives and build/notebooks, and ends with a table of
    latencies. It is run in the folder of the repository.
    """
    from mmekit.demo import run

    run()


def _print_findings(findings: Sequence[Finding], *, stderr: bool = False) -> None:
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


def _described(memory: MeasuredMemory) -> str:
    text = f"{memory.required_mb} MiB"
    return text if memory.forked_mb is None else f"{text}, {memory.forked_mb} MiB forked"


def _content_type(data: BinaryIO) -> str:
    from mmekit.archive.package import CONTENT_TYPES

    suffix = Path(data.name).suffix if isinstance(data.name, str) else ""
    return CONTENT_TYPES.get(suffix, "application/json")


def _invoke(settings: Any, request: dict[str, Any]) -> tuple[bytes, str]:
    """Return the answer's body and content type."""
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"{request['EndpointName']}, {request['TargetModel']}"
    try:
        answer = settings.client("sagemaker-runtime").invoke_endpoint(**request)
        return bytes(answer["Body"].read()), answer.get("ContentType") or ""
    except ClientError as error:
        raise EndpointError(str(error), where=where) from error
    except BotoCoreError as error:
        remedy = "Start the local endpoint: mme up." if settings.target == "local" else None
        raise EndpointError(str(error), where=where, remedy=remedy) from error


def main() -> None:
    """Run `mme`."""
    app(prog_name="mme")


if __name__ == "__main__":
    main()
