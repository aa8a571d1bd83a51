"""Observing a model once, in a process of its own.

The process has what a worker of DJL Serving has: the engine's folder and the model's on
PYTHONPATH, the model's folder as working directory, ``option.env`` in its environment and one
OpenMP thread (``bin/serving`` sets OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmekit.archive import _observer
from mmekit.archive.atomic import write_atomically
from mmekit.archive.measured import FORMAT, Measured
from mmekit.archive.package import (
    MEASURED_FILE,
    MODEL_FILE,
    REQUIREMENTS_FILE,
    RUNTIME_FOLDER,
    Contents,
    Member,
    Package,
    merge,
    read_artifacts,
    read_contents,
    read_package,
)
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.properties import Properties, parse_properties
from mmekit.engine import engine_folder
from mmekit.errors import MeasureError

DEFAULT_TIMEOUT_S = 300.0
_OUTPUT_LINES = 12


def measure(package: Path, artifacts: Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Measured:
    """Load a model, ask it the sample request, and write measured.json beside its artefacts.

    Parameters
    ----------
    package
        The package folder; without a sample request the model is only loaded.
    artifacts
        The artefact folder; its measured.json is written anew.
    timeout_s
        Seconds that load and prediction may take together.

    Returns
    -------
    Measured
        Memory, versions and imports.

    Raises
    ------
    MeasureError
        The model failed, with its own reason, died, or took too long.
    PackageError
        One of the folders cannot be read.
    """
    source = read_package(package)
    contents = merge(source, read_artifacts(artifacts))
    if MODEL_FILE not in contents and not _properties(contents).entry_point:
        raise MeasureError(
            f"The package has no {MODEL_FILE}",
            where=str(package),
            remedy=f"write a {MODEL_FILE} with a function or object named handle",
        )
    found = _observe(source, contents, timeout_s)
    measured = Measured.from_content(
        {
            **found,
            "format": FORMAT,
            "python": ".".join(map(str, sys.version_info[:3])),
            "fingerprint": fingerprint(contents),
        }
    )
    write_atomically(artifacts / MEASURED_FILE, measured.to_json())
    return measured


def fingerprint(contents: Contents) -> str:
    """Return a SHA-256 over everything that could change what a measurement shows."""
    digest = hashlib.sha256()
    for member in contents:
        if member.name not in (PROPERTIES_FILE, REQUIREMENTS_FILE):
            digest.update(f"{member.name}\0{member.sha256()}\n".encode())
    return digest.hexdigest()


def runtime_members() -> list[Member]:
    """Return the files of mmekit_runtime, as they travel inside an archive.

    It is found, not imported: nothing of it may be in the caller's process because of us.
    """
    spec = find_spec(RUNTIME_FOLDER)
    if spec is None or spec.origin is None:
        raise MeasureError(f"{RUNTIME_FOLDER} is not installed", remedy="install mmekit again")
    return [
        Member(f"{RUNTIME_FOLDER}/{member.name}", member.size, member.path)
        for member in read_contents(Path(spec.origin).parent)
        if member.name.endswith(".py")
    ]


def _observe(package: Package, contents: Contents, timeout_s: float) -> dict[str, Any]:
    properties = _properties(contents)
    with tempfile.TemporaryDirectory(prefix="mmekit-measure-") as temporary:
        scratch = Path(temporary).resolve()
        model_folder = scratch / "model"
        _stage(contents, model_folder)
        # Run from a copy: its real neighbours would hide other modules of their names.
        script = scratch / "script" / "observer.py"
        script.parent.mkdir()
        shutil.copyfile(_observer.__file__, script)
        job, findings = scratch / "job.json", scratch / "findings.json"
        job.write_text(json.dumps(_job(package, properties)))
        engine = engine_folder()
        arguments = [engine, model_folder, job, findings]
        process = _Process(
            [properties.python_executable or sys.executable, str(script), *map(str, arguments)],
            model_folder,
            _environment(engine, model_folder, properties),
        )
        status, output = process.wait(timeout_s, str(package.folder))
        found = json.loads(findings.read_bytes()) if findings.exists() else {}
    if "failure" in found:
        raise MeasureError(
            f"The model failed: {found['failure']}\n{found['traceback']}",
            where=str(package.folder),
            remedy="run its handler in a test; it must load and answer the sample request",
        )
    if status != 0:
        raise MeasureError(
            f"The model's process ended with {_exit(status)}\n{output}",
            where=str(package.folder),
            remedy="look for a crash in native code, or for memory that ran out",
        )
    return dict(found)


def _properties(contents: Contents) -> Properties:
    text = contents.text(PROPERTIES_FILE, "latin-1") or ""
    return parse_properties(text, where=f"{contents.where}/{PROPERTIES_FILE}")


def _job(package: Package, properties: Properties) -> dict[str, Any]:
    sample = package.sample_request
    return {
        "entry_point": properties.entry_point or MODEL_FILE,
        "handler": properties.handler or "handle",
        "parameters": properties.init_parameters,
        "sample": None if sample is None else str(sample.path),
        "content_type": None if sample is None else sample.content_type,
    }


def _environment(engine: Path, model_folder: Path, properties: Properties) -> dict[str, str]:
    inherited = os.environ.get("PYTHONPATH")
    path = ([inherited] if inherited else []) + [str(engine), str(model_folder)]
    own = {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(path),
    }
    return {**os.environ, **own, **properties.env}


def _stage(contents: Contents, folder: Path) -> None:
    # Links, because artefacts may be large; nothing in a model folder is ever written to.
    for member in [*contents, *runtime_members()]:
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.path is None:
            target.write_bytes(member.data)
        else:
            target.symlink_to(member.path.absolute())


def _exit(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    return f"signal {signal.Signals(-status).name}"


class _Process:
    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise MeasureError(
                f"{command[0]} could not be started: {error.strerror}",
                remedy="correct option.pythonExecutable",
            ) from error

    def wait(self, timeout_s: float, where: str) -> tuple[int, str]:
        """Return the exit status and the last lines of output."""
        with self._process:
            try:
                output, _ = self._process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                raise MeasureError(
                    f"The model took longer than {timeout_s:g} s",
                    where=where,
                    remedy="give it more time, or look for what it waits for",
                ) from None
            finally:
                # What it started goes with it; it leads a session of its own.
                self._kill_group()
        lines = output.decode("utf-8", "replace").strip().splitlines()
        return self._process.returncode, "\n".join(lines[-_OUTPUT_LINES:])

    def _kill_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
