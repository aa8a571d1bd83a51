"""The real DJL Serving on this machine, for users who have its distribution and Java.

The distribution is what DJL publishes as a tar archive: ``bin/serving``, ``lib/*.jar``, ``conf/``.
It is started as SageMaker's containers start it (serving/docker of DJL Serving 0.36), with every
folder that it writes to its own.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from mmekit.errors import ServerError
from mmekit.scratch import ScratchFolder, sweep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.server.run import ServerOptions

_logger = logging.getLogger("mmekit.server")

HOME_VARIABLE = "MMEKIT_DJL_HOME"
MINIMUM_JAVA = 11
"""What the classes of DJL Serving 0.36 are compiled for; its images have 17."""

_JAVA_OPTIONS = "-Xmx1g -XX:+ExitOnOutOfMemoryError"
_START_S = 120.0
_START_MODEL_S = 400.0
_STOP_S = 30.0
_INTERVAL_S = 0.05
_OK = 200
_MIB = 1 << 20


def distribution() -> Path:
    """Return the folder of DJL Serving that ``MMEKIT_DJL_HOME`` names.

    Raises
    ------
    ServerError
        The variable is not set, or the folder holds no distribution.
    """
    named = os.environ.get(HOME_VARIABLE)
    remedy = (
        "unpack DJL Serving's distribution (serving-VERSION.tar) and name the folder that has "
        f"bin/serving, lib/ and conf/ in {HOME_VARIABLE}; or use the embedded server"
    )
    if not named:
        raise ServerError(f"{HOME_VARIABLE} is not set", remedy=remedy)
    home = Path(named).expanduser().resolve()
    complete = (home / "bin" / "serving").is_file() and (home / "conf").is_dir()
    if not complete or not any(home.glob("lib/serving-*.jar")):
        what = f"{HOME_VARIABLE} names no distribution of DJL Serving"
        raise ServerError(what, where=str(home), remedy=remedy)
    return home


def java_version() -> int:
    """Return the major version of the Java that ``bin/serving`` would start.

    Raises
    ------
    ServerError
        There is none, or it is older than 11.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    remedy = (
        "install Java 17 (for instance the package openjdk-17-jre-headless) and put it on PATH, "
        "or name its folder in JAVA_HOME; or use the embedded server, which needs none"
    )
    if java is None:
        raise ServerError("DJL Serving needs Java, and there is none on PATH", remedy=remedy)
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        what = "DJL Serving needs Java, and this one does not run"
        raise ServerError(what, where=java, remedy=remedy) from error
    # 'version "17.0.15"' or, before Java 9, 'version "1.8.0_452"'.
    match = re.search(r'version "(?:1\.)?(\d+)', told)
    version = int(match[1]) if match else 0
    if version < MINIMUM_JAVA:
        what = f"DJL Serving needs Java {MINIMUM_JAVA} or later, this is {version or 'unknown'}"
        raise ServerError(what, where=java, remedy=remedy)
    return version


def require_djl() -> None:
    """Make sure that DJL Serving could be started.

    Raises
    ------
    ServerError
        There is no distribution, no Java, or too old a one; the remedy is with it.
    """
    distribution()
    java_version()


class DjlServing:
    """One process of DJL Serving with a folder of its own.

    Parameters
    ----------
    folder
        Where it may write: engine, sockets, logs. The path should be short, because the sockets
        of the workers lie below it.
    model
        A model's folder, loaded at start (single-model mode); None for a multi-model container.
    memory
        Bytes that models may take. DJL Serving knows what shall stay free instead
        (``reserved_memory_mb``): what is available now, less this.
    environment
        Variables of the container, for instance ``OPTION_...``.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        host: str = "127.0.0.1",
        model: Path | None = None,
        memory: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self._model = model
        self._memory = memory
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of Java, None before the start."""
        return self._process.pid if self._process else None

    def start(self, output: IO[bytes] | None = None) -> None:
        """Start it; `wait_until_healthy` says when it can be used.

        Parameters
        ----------
        output
            A file for what it prints; None for this process's own standard output.

        Raises
        ------
        ServerError
            There is no distribution or no Java.
        """
        require_djl()
        home = distribution()
        (self.folder / "t").mkdir(parents=True, exist_ok=True)
        settings = self.folder / "config.properties"
        settings.write_text(self._settings())
        self._process = subprocess.Popen(
            [str(home / "bin" / "serving"), "-f", str(settings)],
            cwd=self.folder,
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal is for this process alone, which ends Java in order.
            start_new_session=True,
        )
        self._guard = _guard(self._process.pid)

    def wait_until_healthy(self) -> None:
        """Return when ``/ping`` answers 200; a model that is loaded at start is ready then.

        Raises
        ------
        ServerError
            It ended, or is not healthy in time.
        """
        assert self._process  # noqa: S101
        seconds = _START_S if self._model is None else _START_MODEL_S
        deadline = time.monotonic() + seconds
        while not self._is_healthy():
            if self._process.poll() is not None:
                what = f"DJL Serving ended with exit code {self._process.returncode}"
                remedy = "its own output, above, says why"
                raise ServerError(what, where=f"{self.host}:{self.port}", remedy=remedy)
            if time.monotonic() > deadline:
                what = f"DJL Serving was not healthy within {seconds:.0f} s"
                raise ServerError(what, where=f"{self.host}:{self.port}")
            time.sleep(_INTERVAL_S)

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        assert self._process  # noqa: S101
        return self._process.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process:
            self._process.terminate()

    def stop(self) -> None:
        """End it, and its workers with it."""
        if self._process is None:
            return
        workers = []
        with contextlib.suppress(psutil.Error):
            workers = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._guard:
            self._guard.kill()
            self._guard.communicate()
        # Workers end when their connection does; one in the middle of a request does so late.
        _, alive = psutil.wait_procs(workers, timeout=1)
        for worker in alive:
            with contextlib.suppress(psutil.Error):
                worker.kill()

    def _settings(self) -> str:
        address = f"http://{self.host}:{self.port}"
        lines = [f"inference_address={address}", f"management_address={address}"]
        if self._model is None:
            lines += ["load_models=NONE"]
        else:
            lines += [f"model_store={_escaped(self._model)}", "load_models=ALL"]
        if self._memory is not None:
            reserved = psutil.virtual_memory().available - self._memory
            lines.append(f"reserved_memory_mb={max(0, reserved // _MIB)}")
        return "\n".join(lines) + "\n"

    def _variables(self) -> dict[str, str]:
        folder = self.folder
        options = os.environ.get("JAVA_OPTS", _JAVA_OPTIONS)
        variables = {
            **os.environ,
            "JAVA_OPTS": f"{options} -Djava.io.tmpdir={folder / 't'}",
            "MODEL_SERVER_HOME": str(folder),
            "ENGINE_CACHE_DIR": str(folder / "engine"),
            "DJL_CACHE_DIR": str(folder / "cache"),
            # No call to EC2's metadata, none to a model zoo.
            "DJL_OFFLINE": "true",
            "OPT_OUT_TRACKING": "true",
            "PYTHON_EXECUTABLE": sys.executable,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        }
        if self._model is None:
            variables["SAGEMAKER_MULTI_MODEL"] = "true"
        else:
            variables.pop("SAGEMAKER_MULTI_MODEL", None)
        return {**variables, **self._environment}

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == _OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def run_djl(options: ServerOptions) -> None:
    """Serve with DJL Serving until SIGTERM, SIGINT or, if asked for, the end of standard input.

    Raises
    ------
    ServerError
        There is no distribution, no Java, or DJL Serving ended by itself.
    """
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    from mmekit.server.run import warn_of

    warn_of(options.host)
    # The name is short because a socket's path may have 104 to 108 characters.
    sweep("mme-djl-")
    scratch = ScratchFolder("mme-djl-")
    folder = scratch.path
    port = options.port or free_port(options.host)
    server = DjlServing(folder, port, host=options.host, model=options.model, memory=options.memory)
    asked = threading.Event()

    def end(*_: object) -> None:
        asked.set()
        server.terminate()

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.start()
        if options.exit_with_stdin:
            threading.Thread(target=_watch_stdin, args=(end,), daemon=True, name="stdin").start()
        try:
            server.wait_until_healthy()
            _logger.info("serving on http://%s:%d", options.host, port)
            code = server.wait()
        except ServerError:
            if not asked.is_set():
                raise
            return
        if not asked.is_set():
            raise ServerError(
                f"DJL Serving ended with exit code {code}",
                where=f"{options.host}:{port}",
                remedy="its own output, above, says why",
            )
    finally:
        server.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        scratch.remove()


def free_port(host: str) -> int:
    """Return a port on which nothing listened a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """End a process when this one ends, however it ends.

    The guard reads from a pipe that this process holds open and never writes to.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'cat > /dev/null; kill "$0"', str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _watch_stdin(end: object) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    if callable(end):
        end()


def _escaped(path: Path) -> str:
    # Properties.load: a backslash escapes, and everything beyond Latin-1 is \uXXXX.
    text = str(path.resolve()).replace("\\", "\\\\")
    return "".join(one if one < "\x7f" else _unicode_escape(one) for one in text)


def _unicode_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
