"""Observing a model once, in a process of its own, and once more in a forked one.

The process has what a worker of DJL Serving has: the engine's folder and the model's on
PYTHONPATH, the model's folder as working directory, ``option.env`` in its environment and one
OpenMP thread (``bin/serving`` sets OMP_NUM_THREADS=1). Of the user's account it has nothing, unless
MME_TARGET is ``aws``: packing a model runs its handler, too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit.archive import _body, _imports, _observer, _siblings, proof
from mmekit.archive.files import write_atomically
from mmekit.archive.layers import shared_names
from mmekit.archive.measured import FORMAT, Measured, is_nothing
from mmekit.archive.measuring_process import (
    DEFAULT_TIMEOUT_S,
    MeasuringProcess,
    exit_of,
    worker_environment,
)
from mmekit.archive.package import (
    MEASURED_FILE,
    MODEL_FILE,
    MOST_BYTES,
    REQUIREMENTS_FILE,
    Example,
    Package,
    merge,
    read_artifacts,
    read_package,
)
from mmekit.archive.pickles import name_of_main, where_to_put
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.properties import (
    Properties,
    parse_entries,
    parse_properties,
    properties_of,
)
from mmekit.archive.request_variants import variants
from mmekit.archive.runtime import runtime_members
from mmekit.archive.staging import lay_out, stage
from mmekit.engine import engine_folder
from mmekit.errors import BatchError, MeasureError
from mmekit_runtime.signature import FILE_NAME as SIGNATURE_FILE
from mmekit_runtime.slots.stub import fork_server_environment

if TYPE_CHECKING:
    from threading import Event

    from mmekit.archive.contents import Contents

_SHOWN = 100
_REFUSED = "the handler answered 400"


def measure(package: Path, artifacts: Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Measured:
    """Load a model, ask it the sample request, and write measured.json beside its artefacts.

    A `Handler` is asked in batches as well: each answer must be that to the request alone.

    Then, in a second process, what the model imports is imported beforehand, and a fork of that
    process does the same: what a model takes with worker slots. What it shares with others
    (``option.shared``) is loaded before the fork, and the answer has to be the same.

    Parameters
    ----------
    package
        The package folder; without a sample request the model is only loaded.
    artifacts
        The artefact folder; its measured.json is written anew.
    timeout_s
        Seconds that load and prediction may take together, each time.

    Returns
    -------
    Measured
        MeasuredMemory, versions and imports.

    Raises
    ------
    BatchError
        It answers the sample differently when it answers other requests in the same call.
    MeasureError
        The model failed, with its own reason, died, or took too long.
    PackageError
        One of the folders cannot be read.
    """
    source = read_package(package)
    measured = observe(source, merge(source, read_artifacts(artifacts)), timeout_s)
    write_atomically(artifacts / MEASURED_FILE, measured.to_json())
    return measured


def observe(
    source: Package,
    contents: Contents,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    stop: Event | None = None,
) -> Measured:
    """Do what `measure` does, and write nothing; StoppedError when ``stop`` is set meanwhile."""
    if MODEL_FILE not in contents and not properties_in(contents).entry_point:
        raise MeasureError(
            f"The package has no {MODEL_FILE}",
            where=str(source.folder),
            remedy=f"write a {MODEL_FILE} with a function or object named handle",
        )
    with tempfile.TemporaryDirectory(prefix="mmekit-measure-") as temporary:
        stage = ObservedModel(source, contents, Path(temporary).resolve(), stop)
        found = stage.observe(timeout_s)
        unproven = stage.unproven(found.pop("proof"))
        signature = found.pop("signature")
        answers = found.pop("answers", None)
        forked = stage.fork(found.pop("preload"), found.pop("third_party"), timeout_s)
        stage.expect_same_answer(answers, forked)
    said = found.pop("answer")
    return Measured.from_content(
        {
            **found,
            "format": FORMAT,
            "memory": {**found["memory"], "forked": forked.private, "shared": forked.shared},
            "preload": forked.preload,
            "threads": forked.threads,
            "fork_failure": forked.failure,
            "unshared": forked.unshared,
            "unproven": unproven,
            "answer": own_answer(source, said),
            "answers_nothing": is_nothing(said),
            "signature": None if signature is None else json.loads(signature),
            "python": ".".join(map(str, sys.version_info[:3])),
            "fingerprint": fingerprint(contents),
        }
    )


def own_answer(package: Package, answer: str | None) -> str | None:
    """Return what a model answers to its package's sample, where that is not the package's answer.

    Parameters
    ----------
    answer
        Each byte a character.
    """
    example = Example.of(package)
    if example is None or example.answer is None or answer is None:
        return None
    body = answer.encode("latin-1")
    if _unlike(answer, example.answer.encode().decode("latin-1")) is None:
        return None
    try:
        return body.decode() if len(body) <= MOST_BYTES else ""
    except UnicodeDecodeError:
        return ""


def fingerprint(contents: Contents) -> str:
    """Return a SHA-256 over everything that could change what a measurement shows."""
    digest = hashlib.sha256()
    for member in contents:
        if member.name not in (PROPERTIES_FILE, REQUIREMENTS_FILE):
            # A name need not be UTF-8 on disk; that it has to be in an archive is said elsewhere.
            line = f"{member.name}\0{member.sha256()}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    # Of the settings, what says which of the files are loaded once for many models.
    text = contents.text(PROPERTIES_FILE, "latin-1") or ""
    properties = properties_of(parse_entries(text, skip_malformed=True))
    for name in shared_names(contents.files, properties):
        digest.update(f"shared\0{name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True)
class _Forked:
    preload: list[str]
    threads: dict[str, int]
    private: int | None
    failure: str | None
    answer: str | None = None
    shared: int | None = None
    unshared: str | None = None


class ObservedModel:
    """The model's folder as a server would have it, and processes that run in it."""

    def __init__(
        self, package: Package, contents: Contents, scratch: Path, stop: Event | None
    ) -> None:
        self._where = str(package.folder)
        self._scratch = scratch
        self._stop = stop
        self._has_signature = SIGNATURE_FILE in contents
        self._properties = properties_in(contents)
        self._engine = engine_folder()
        self._staged = stage(contents, self._properties, scratch / "model", scratch / "shared")
        self._folder = self._staged.folder
        lay_out(runtime_members(), self._folder)
        self._job = job_of(package, contents, self._properties)
        self._job["shared"] = None if self._staged.shared is None else str(self._staged.shared)
        # Run from a copy: its real neighbours would hide other modules of their names.
        self._script = scratch / "script" / "observer.py"
        self._script.parent.mkdir()
        shutil.copyfile(_observer.__file__, self._script)
        for file, name in (
            (_imports.__file__, _observer.IMPORTS_MODULE),
            (proof.__file__, _observer.PROOF_MODULE),
            (_body.__file__, _observer.BODY_MODULE),
            (_siblings.__file__, _observer.SIBLINGS_MODULE),
        ):
            shutil.copyfile(file, self._script.with_name(f"{name}.py"))

    def observe(self, timeout_s: float) -> dict[str, Any]:
        """Load the model and answer the sample in a fresh process."""
        environment = self._environment()
        status, output, found = self._run({"task": "observe"}, environment, timeout_s)
        if "traceback" in found:
            raise MeasureError(
                f"The model failed:\n{found['traceback']}{found['failure']}",
                where=self._where,
                remedy=_remedy(found["failure"]) + self._without_signature(found["failure"]),
            )
        if status != 0:
            raise MeasureError(
                f"The model's process ended with {exit_of(status)}\n{output}",
                where=self._where,
                remedy="look for a crash in native code, or for memory that ran out",
            )
        return found

    def _without_signature(self, failure: str) -> str:
        """Say what a sample that was refused may lack: the names of a table's columns."""
        if self._has_signature or _REFUSED not in failure:
            return ""
        return (
            f". There is no {SIGNATURE_FILE}, which says what the columns are called: write one "
            "beside each model's artefacts (mmekit.signature(X, y, model).to_json()); or, where "
            "all take the same columns, move the one that `mme init` wrote beside its own into "
            f"{self._where}, from where every model has it"
        )

    def unproven(self, found: dict[str, Any] | None) -> str | None:
        """Say what is not known of answers in batches; MeasureError for one that is wrong."""
        if found is not None and found["difference"] is not None:
            raise BatchError(
                f"A request is answered differently when others are answered with it: "
                f"{found['difference']}",
                where=f"{found['handler']}, {self._where}",
                remedy=proof.REMEDY,
            )
        return None if found is None else found["unproven"]

    def expect_same_answer(self, answers: list[str] | None, forked: _Forked) -> None:
        """Raise MeasureError where a body that was loaded before the fork changes the answer."""
        if answers is None or forked.shared is None or forked.answer is None:
            return
        alone, again = answers
        # An answer that is never the same twice says nothing.
        if _unlike(again, alone) is None and (how := _unlike(forked.answer, alone)) is not None:
            raise MeasureError(
                "The model answers its sample differently when load_shared was called in the "
                f"process that it was forked from: {how}",
                where=self._where,
                remedy="what load_shared returns must not depend on the process: keep no process "
                "number, time or folder in it, seed what is drawn at random, and open files in "
                "load",
            )

    def fork(self, preload: list[str], third_party: list[str], timeout_s: float) -> _Forked:
        """Do the same in a process that was forked from one with the imports.

        Imports that start threads are found, and left out of a second attempt, as the fork server
        does it.
        """
        # Elsewhere there is no /proc, which tells a fork's own pages from those that it shares.
        if not sys.platform.startswith("linux"):
            return _Forked(preload, {}, None, None)
        environment = self.fork_environment()
        names: list[str] | None = None
        threads: dict[str, int] = {}
        unshared: str | None = None
        while True:
            job: dict[str, Any] = {"task": "fork", "preload": preload, "third_party": third_party}
            if unshared is not None:
                job["shared"] = None  # each process loads it by itself
            try:
                status, output, found = self._run(job, environment, timeout_s)
            except MeasureError as error:
                # The model has loaded once by now: a fork that hangs is a finding, and no error.
                status, output, found = -signal.SIGKILL, error.what, self._findings()
            names = found.get("preload", []) if names is None else names
            if "traceback" in found:
                return _Forked(names, threads, None, found["failure"], unshared=unshared)
            if status != 0:
                failure = f"{exit_of(status)}: {output}"
                return _Forked(names, threads, None, failure, unshared=unshared)
            if found["threads"]:
                threads |= found["threads"]
            elif found.get("unshared") is not None:
                unshared = found["unshared"]
            else:
                seen = (found["forked"], found["failure"], found.get("answer"), found["shared"])
                return _Forked(names, threads, *seen, unshared=unshared)
            preload, third_party = [name for name in names if name not in threads], []

    def fork_environment(self) -> dict[str, str]:
        """Return the environment of a process that others are forked from."""
        return fork_server_environment(self._environment(), str(self._folder))

    def _environment(self) -> dict[str, str]:
        variables = worker_environment(self._engine, self._folder, self._properties)
        return {**variables, **self._staged.variables}

    def _run(
        self, task: dict[str, Any], environment: dict[str, str], timeout_s: float
    ) -> tuple[int, str, dict[str, Any]]:
        status, output = self.start(task, environment).wait(timeout_s, self._where)
        return status, output, self._findings()

    def start(
        self, task: dict[str, Any], environment: dict[str, str], *descriptors: int
    ) -> MeasuringProcess:
        """Start a process that does one task."""
        job = self._scratch / "job.json"
        job.write_text(json.dumps(self._job | task))
        self._findings_file.unlink(missing_ok=True)
        arguments = [self._script, self._engine, self._folder, job, self._findings_file]
        return MeasuringProcess(
            [self._properties.python_executable or sys.executable, *map(str, arguments)],
            self._folder,
            environment,
            stop=self._stop,
            descriptors=descriptors,
        )

    @property
    def _findings_file(self) -> Path:
        return self._scratch / "findings.json"

    def _findings(self) -> dict[str, Any]:
        if not self._findings_file.exists():
            return {}
        return dict(json.loads(self._findings_file.read_bytes()))


def properties_in(contents: Contents) -> Properties:
    """Return the settings of a model."""
    text = contents.text(PROPERTIES_FILE, "latin-1") or ""
    return parse_properties(text, where=f"{contents.where}/{PROPERTIES_FILE}")


def job_of(package: Package, contents: Contents, properties: Properties) -> dict[str, Any]:
    """Return what a process is told of the model that it loads."""
    sample = package.sample_request
    different: tuple[bytes, ...] = ()
    if sample is not None:
        signature = contents.signature
        different = variants(sample.body, sample.content_type, signature)
    return {
        "entry_point": properties.entry_point or MODEL_FILE,
        "handler": properties.handler or "handle",
        "parameters": properties.init_parameters,
        "sample": None if sample is None else str(sample.path),
        "content_type": None if sample is None else sample.content_type,
        "different": [base64.b64encode(body).decode() for body in different],
    }


def _remedy(failure: str) -> str:
    name = name_of_main(failure)
    if name is None:
        return "run its handler in a test; it must load and answer the sample request"
    return where_to_put(name)


def _unlike(answer: str, expected: str) -> str | None:
    """Say how an answer differs from another; None where it does not."""
    if answer == expected:
        return None
    texts = [one.encode("latin-1").decode("utf-8", "replace") for one in (answer, expected)]
    try:
        if proof.agree(*map(json.loads, texts)):
            return None
    except ValueError:
        pass
    shown = [one if len(one) <= _SHOWN else f"{one[: _SHOWN - 2]} …" for one in texts]
    return f"{shown[0].strip()!r} in place of {shown[1].strip()!r}"
