"""The real DJL Serving on this machine, for users who have its distribution and Java.

The distribution is what DJL publishes as a tar archive: ``bin/serving``, ``lib/*.jar``, ``conf/``.
It is started as SageMaker's containers start it (serving/docker of DJL Serving 0.36), with every
folder that it writes to its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mmekit.errors import ServerError
from mmekit_local.ports import free_port
from mmekit_local.scratch import scratch_folder
from mmekit_local.server.external_server import ExternalServer, serve_external

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_local.server.run import ServerOptions

__all__ = ["DjlServing", "distribution", "java_version", "require_djl", "run_djl"]

HOME_VARIABLE = "MMEKIT_DJL_HOME"
MINIMUM_JAVA = 11
"""What the classes of DJL Serving 0.36 are compiled for; its images have 17."""

# Those of AWS's images, which have -Xms1g as well.
_JAVA_OPTIONS = "-Xmx1g -XX:+ExitOnOutOfMemoryError"
_START_S = 120.0
_START_MODEL_S = 400.0
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


class DjlServing(ExternalServer):
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

    name = "DJL Serving"

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
        seconds = _START_S if model is None else _START_MODEL_S
        super().__init__(folder, port, host=host, start_seconds=seconds)
        self._model = model
        self._memory = memory
        self._environment = dict(environment or {})

    def command(self) -> list[str]:
        """Write the settings and return what to start.

        Raises
        ------
        ServerError
            There is no distribution or no Java.
        """
        require_djl()
        (self.folder / "t").mkdir(parents=True, exist_ok=True)
        settings = self.folder / "config.properties"
        settings.write_text(self._settings())
        # Not java itself: the script sets OMP_NUM_THREADS, and with it the default of maxWorkers.
        return [str(distribution() / "bin" / "serving"), "-f", str(settings)]

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

    def variables(self) -> dict[str, str]:
        """Return its environment, as SageMaker's containers set it."""
        folder = self.folder
        options = os.environ.get("JAVA_OPTS", _JAVA_OPTIONS)
        variables = {
            **os.environ,
            # Of its own: DJL Serving kills whatever a djl_sock.*.pid in there names.
            "JAVA_OPTS": f"{options} -Djava.io.tmpdir={folder / 't'}",
            "MODEL_SERVER_HOME": str(folder),
            # DJL Serving never refreshes what it has unpacked: a folder of its own begins empty.
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


def run_djl(options: ServerOptions) -> None:
    """Serve with DJL Serving until SIGTERM, SIGINT or, if asked for, the end of standard input.

    Raises
    ------
    ServerError
        There is no distribution, no Java, or DJL Serving ended by itself.
    """
    port = options.port or free_port(options.host)
    # The name is short because a socket's path may have 104 to 108 characters.
    with scratch_folder("mme-djl-") as folder:
        server = DjlServing(
            folder, port, host=options.host, model=options.model, memory=options.memory
        )
        serve_external(server, exit_with_stdin=options.exit_with_stdin)


def _escaped(path: Path) -> str:
    # Properties.load: a backslash escapes, and everything beyond Latin-1 is \uXXXX.
    text = str(path.resolve()).replace("\\", "\\\\")
    return "".join(one if one < "\x7f" else _unicode_escape(one) for one in text)


def _unicode_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
