"""Commands that serve models: serve, up, and demo, which does it for the notebooks here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmekit.cli.application import app
from mmekit.cli.options import Containers, Host, Memory, NoInstall, Server


@app.command()
def serve(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Host = "127.0.0.1",
    memory: Memory = None,
    server: Annotated[
        Server,
        typer.Option(
            help="djl is the real DJL Serving that MMEKIT_DJL_HOME names, mms Multi Model Server, "
            "which is installed on first use."
        ),
    ] = Server.EMBEDDED,
    handler: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="For --server mms: the Python file with handle(data, context).",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Serve this one model instead: an unpacked archive, loaded at start and asked at "
            "/invocations.",
        ),
    ] = None,
    no_install: NoInstall = False,
) -> None:
    """Be one container: SageMaker's contract in front of DJL's Python engine, or another server.

    Without --model it is a multi-model container, which is told by POST /models what to load.

    **Examples:** mme serve --port 8080 --memory 4GiB  ·  mme serve --model build/unpacked/ridge
    """
    from mmekit_local.server import ServerOptions, run, run_djl

    _see_who_installs(server.value, no_install=no_install)
    options = ServerOptions(
        port=port, host=host, memory=memory, model=model, installs=not no_install
    )
    if (server is Server.MMS) != (handler is not None):
        raise typer.BadParameter("--server mms and --handler FILE go together")
    if handler is not None:
        from mmekit_local.containers.mms import run_mms

        run_mms(options, handler)
    else:
        start = run_djl if server is Server.DJL else run
        start(options)


@app.command()
def up(  # noqa: PLR0913 - an option each
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND]",
            help="Run this meanwhile; the service ends when it does. To the command AWS is the "
            "service, and your credentials are gone. The service's output goes to standard error.",
        ),
    ] = None,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8950,
    host: Host = "127.0.0.1",
    server: Annotated[
        Containers,
        typer.Option(
            help="What DJL Serving's images are: embedded, or the DJL Serving that MMEKIT_DJL_HOME "
            "names; `mme images` says what others are. docker runs every image itself."
        ),
    ] = Containers.EMBEDDED,
    instances: Annotated[
        int | None,
        typer.Option(min=1, help="Containers a variant. Otherwise its InitialInstanceCount."),
    ] = None,
    memory: Memory = None,
    state: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="DIR",
            help="Keep buckets, models and endpoints here, and go on with what is here already. "
            "Without it everything is temporary.",
        ),
    ] = None,
    state_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Let endpoints be Creating, Updating and Deleting at least for so long.",
        ),
    ] = 0.0,
    autoscaling_minute: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long a minute of Application Auto Scaling lasts.",
        ),
    ] = 60.0,
    no_install: NoInstall = False,
) -> None:
    """Be SageMaker, S3 and the rest of AWS on one port, for unmodified boto3.

    Run a program as its COMMAND, point boto3 at it with AWS_ENDPOINT_URL, or use the settings of
    this repository, whose default it is. Ctrl-C ends it and every container it started.

    **Examples:** mme up  ·  mme up --instances 2  ·  mme up --state ~/.mme  ·  mme up -- jupyter
    lab notebooks
    """
    _see_who_installs(server.value, no_install=no_install)
    if command:
        from mmekit_local.companion import run_beside
        from mmekit_local.ports import free_port

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


@app.command()
def demo() -> None:
    """Run all notebooks against one local endpoint: train, package and serve six models.

    Leaves build/artifacts, build/archives and build/notebooks, and ends with a table of
    latencies. It is run in the folder of the repository.
    """
    from mmekit_local.demo import run

    run()


def _see_who_installs(server: str, *, no_install: bool) -> None:
    if no_install and server != "embedded":
        raise typer.BadParameter(f"--no-install is for the embedded server, and not for {server}")
