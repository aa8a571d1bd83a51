"""Commands that serve models: serve, up, and demo, which does it for the notebooks here."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mmekit.cli.application import Panel, app
from mmekit.errors import DemoError
from mmekit.extras import require_extras

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class Server(str, Enum):
    """The kinds of container that `mme serve` can be."""

    EMBEDDED = "embedded"
    DJL = "djl"
    MMS = "mms"


class Containers(str, Enum):
    """What the containers of `mme up` can be."""

    EMBEDDED = "embedded"
    DJL = "djl"
    DOCKER = "docker"


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size such as 4GiB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 picks a free one.")]
Host = Annotated[
    str,
    typer.Option(help="The address to listen on. There is no authentication; keep to loopback."),
]
Memory = Annotated[
    int | None,
    typer.Option(
        parser=_bytes,
        metavar="SIZE",
        help="The memory for models of a container, such as 4GiB; a load beyond it gets 507. "
        "Default: that of the machine, and with `up` of the instance type.",
    ),
]
NoInstall = Annotated[
    bool,
    typer.Option(
        "--no-install",
        help="Install nothing: refuse models whose requirements.txt is not satisfied here. "
        "Default: uv creates a virtual environment for each set of requirements, once.",
    ),
]


@app.command(rich_help_panel=Panel.REHEARSE)
def up(  # noqa: PLR0913 - an option each
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND]",
            help="Run a command and stop when it ends. It gets the local endpoint as AWS and test "
            "credentials instead of yours; the service logs to standard error.",
        ),
    ] = None,
    *,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="The port; 0 picks a free one. Default: that of MME_LOCAL_URL, which is 8950.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="The address to listen on. There is no authentication; keep to loopback. "
            "Default: that of MME_LOCAL_URL, which is 127.0.0.1."
        ),
    ] = None,
    server: Annotated[
        Containers,
        typer.Option(
            help="What runs for DJL Serving's images: the embedded server, or DJL Serving from "
            "MMEKIT_DJL_HOME (djl). docker runs every image itself. "
            "For other images see mme images."
        ),
    ] = Containers.EMBEDDED,
    instances: Annotated[
        int | None,
        typer.Option(min=1, help="Instances of each variant. Default: its InitialInstanceCount."),
    ] = None,
    memory: Memory = None,
    state: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="DIR",
            help="Store buckets, models and endpoints in this folder, and restore them at the next "
            "start. Default: nothing is kept.",
        ),
    ] = None,
    state_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="The least time that an endpoint is Creating, Updating or Deleting.",
        ),
    ] = 0.0,
    autoscaling_minute: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="The length of a minute of Application Auto Scaling.",
        ),
    ] = 60.0,
    no_install: NoInstall = False,
) -> None:
    """Run SageMaker, S3 and more of AWS locally, for plain boto3.

    All services are on one port. Run a program as its COMMAND, or point boto3 at it with
    AWS_ENDPOINT_URL. `mme` and the notebooks use it by default. Ctrl-C stops it and all containers.

    **Examples:** mme up  ·  mme up --instances 2  ·  mme up --state ~/.mme  ·  mme up -- jupyter
    lab notebooks
    """
    _see_who_installs(server.value, no_install=no_install)
    require_extras("`mme up`", "local")
    from mmekit_local.ports import free_port, listening_address

    host, port = listening_address(host, port)
    if command:
        from mmekit_local.companion import run_beside

        port = port or free_port(host)  # both sides have to know it
        chosen = {
            "--port": port,
            "--host": host,
            "--server": server.value,
            "--instances": instances,
            "--memory": memory,
            "--state": state,
            "--state-seconds": state_seconds,
            "--autoscaling-minute": autoscaling_minute,
        }
        options = [f"{name}={value}" for name, value in chosen.items() if value is not None]
        options += ["--no-install"] if no_install else []
        raise typer.Exit(run_beside(command, options, host, port))
    if server is Containers.DJL:
        from mmekit_local.server import require_djl

        require_djl()
    from mmekit.aws_environment import forget_account
    from mmekit_local.aws import run
    from mmekit_local.containers import launcher_for
    from mmekit_local.sagemaker import EndpointOptions

    launcher = launcher_for(server.value, installs=not no_install)
    forget_account()
    run(
        EndpointOptions(
            port=port,
            host=host,
            server=server.value,
            instances=instances,
            memory=memory,
            state=state,
            state_seconds=state_seconds,
            autoscaling_minute=autoscaling_minute,
        ),
        launcher=launcher,
    )


@app.command(rich_help_panel=Panel.REHEARSE)
def serve(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 picks a free one.")
    ] = 8080,
    host: Host = "127.0.0.1",
    memory: Memory = None,
    server: Annotated[
        Server,
        typer.Option(
            help="The model server: embedded, DJL Serving from MMEKIT_DJL_HOME (djl), or Multi "
            "Model Server (mms), which is installed on first use."
        ),
    ] = Server.EMBEDDED,
    handler: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="With --server mms: the Python file with handle(data, context).",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Serve a single model at /invocations: the folder of an unpacked archive. "
            "Default: multi-model, loaded by POST /models.",
        ),
    ] = None,
    no_install: NoInstall = False,
) -> None:
    """Run one container of an endpoint, without SageMaker around it.

    The embedded server implements SageMaker's container contract with DJL's Python engine.

    **Examples:** mme serve --port 8080 --memory 4GiB  ·  mme serve --model build/unpacked/ridge
    """
    require_extras("`mme serve`", "local")
    from mmekit_local.server import ServerOptions, run, run_djl

    _see_who_installs(server.value, no_install=no_install)
    options = ServerOptions(
        port=port, host=host, memory=memory, model=model, installs=not no_install
    )
    if (server is Server.MMS) != (handler is not None):
        raise typer.BadParameter("--server mms and --handler FILE are only valid together")
    if handler is not None:
        from mmekit_local.containers.mms import run_mms

        run_mms(options, handler)
    else:
        start = run_djl if server is Server.DJL else run
        start(options)


@app.command(rich_help_panel=Panel.REHEARSE)
def demo() -> None:
    """Run the repository's notebooks on a local endpoint.

    They train, package and serve six models. Run it in the repository's folder: it writes
    build/artifacts, build/archives and build/notebooks, and prints a table of latencies. Without
    the repository, `mme new-project` makes a project with a notebook of its own.
    """
    # Before what is missing is said, which is gigabytes.
    if not Path("notebooks", "0_set_up.ipynb").is_file():
        raise DemoError(
            "The demonstration is the notebooks of mmekit's repository, and there are none here.",
            where=str(Path("notebooks").absolute()),
            remedy="run it in a clone of the repository (`make demo`); without one, `mme "
            "new-project NAME` makes a project whose notebook trains, packs and serves a model",
        )
    require_extras("`mme demo`", "local", "notebooks")
    from mmekit_local.demo import run

    run()


def _see_who_installs(server: str, *, no_install: bool) -> None:
    if no_install and server != "embedded":
        raise typer.BadParameter(f"--no-install is for the embedded server, not for {server}")
