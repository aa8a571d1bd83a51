"""Load a model in this process, ask it once, and write down what was seen.

Started by `mmekit.archive.measure` in a process of its own, from a folder of its own; standard
library and DJL's engine only, so that nothing else is in the figures. Arguments: the engine's
folder, the model's folder, a JSON file with the job, and the file for the findings.

The job's ``task`` is ``observe``, or ``fork``: import what was found to be worth importing
beforehand, fork, and do the same in the child; or ``siblings``: a child for each of many models.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import json
import logging
import os
import re
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What stands beside a copy of this file; no module of a model is called so.
IMPORTS_MODULE, PROOF_MODULE = "_mmekit_imports", "_mmekit_proof"
BODY_MODULE, SIBLINGS_MODULE = "_mmekit_body", "_mmekit_siblings"

_FRAMES = 6
_FRAMES_OF_OTHERS = 3


def observe(model_folder: str, job: dict[str, Any]) -> dict[str, Any]:
    """Load the model and answer the sample; return what was seen."""
    imports = _sibling(IMPORTS_MODULE)
    # What a worker has imported before it comes to the model (djl_python_engine.py).
    before = set(sys.modules)
    from djl_python.arg_parser import ArgParser  # noqa: F401
    from djl_python.inputs import Input  # noqa: F401
    from djl_python.python_sync_engine import PythonSyncEngine  # noqa: F401

    of_engine = set(sys.modules)
    recorder = imports.ImportRecorder(model_folder)
    # In front: whoever stands behind the finder that knows a module is not asked.
    sys.meta_path.insert(0, recorder)
    asked = _Asked(model_folder, job)
    memory = _memory()
    sys.meta_path.remove(recorder)
    loaded = {name for name in sys.modules if name not in before}
    found = {
        "memory": memory,
        "preload": imports.importable(imports.with_packages(recorder.asked), model_folder),
        "third_party": imports.importable(
            [name for name in sys.modules if name not in of_engine], model_folder
        ),
        **imports.libraries_of(Path(model_folder), loaded, recorder.importers),
    }
    # Last: what further requests import and take is no part of what was seen.
    if job["shared"] is not None and asked.answer is not None:
        found["answers"] = [asked.answer, asked.ask_again()]
    return {**found, **_told_by(asked, job)}


def _told_by(asked: _Asked, job: dict[str, Any]) -> dict[str, Any]:
    """Return what a loaded model says of itself, which is never another's."""
    known: Any = getattr(asked.handler, "signature", None)
    signature = known.to_json().decode() if hasattr(known, "to_json") else None
    proof = _prove(asked.handler, job)
    return {"signature": signature, "answer": asked.answer, "proof": proof}


def _sibling(name: str) -> Any:
    """Import a module beside this file; nothing else of that folder may be found meanwhile."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[0]


def _prove(handler: Any, job: dict[str, Any]) -> dict[str, Any] | None:
    """Compare answers in batches with answers alone; None for what never gets batches."""
    runtime = sys.modules.get("mmekit_runtime")
    if job["sample"] is None or runtime is None or not isinstance(handler, runtime.Handler):
        return None
    prove = _sibling(PROOF_MODULE).prove
    different = [base64.b64decode(body) for body in job["different"]]
    sample = Path(job["sample"]).read_bytes()
    return dict(vars(prove(handler, runtime.Request, sample, job["content_type"], different)))


class _Asked:
    """A model that is loaded and has answered the sample.

    Attributes
    ----------
    handler
        What answers; None where it has no such name.
    answer
        The answer, each byte a character; None without a sample.
    """

    def __init__(self, model_folder: str, job: dict[str, Any], body: Any = None) -> None:
        from djl_python.service_loader import load_model_service

        self._job = job
        self._logged = _LoggedErrors()
        logging.getLogger().addHandler(self._logged)
        self._service = load_model_service(model_folder, job["entry_point"], "-1")
        self.handler = getattr(self._service.module, job["handler"], None)
        _sibling(BODY_MODULE).hand_over(body, self.handler)
        # Without a body: that is how the engine tells a handler to load.
        self._ask(job["parameters"], None)
        self.answer = None if job["sample"] is None else self.ask_again()

    def ask_again(self) -> str:
        """Return the answer to the sample."""
        sample = Path(self._job["sample"]).read_bytes()
        return self._ask({"Content-Type": self._job["content_type"]}, sample).decode("latin-1")

    def _ask(self, properties: dict[str, str], body: bytes | None) -> bytes:
        from djl_python.inputs import Input

        inputs = Input()
        inputs.function_name = self._job["handler"]
        inputs.properties = {**properties, "device_id": "-1"}
        if body is not None:
            inputs.content.add(key="data", value=body)
        self._logged.last = None
        output = self._service.invoke_handler(self._job["handler"], inputs)
        return _expect_success(output, self._logged.last)


class _LoggedErrors(logging.Handler):
    """Remembers what was logged last: a handler may answer an exception instead of raising it."""

    last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.last = record.exc_info[1]


class _AnsweredError(Exception):
    """The handler answered with the status of a failure; the cause is what it logged, if it did."""

    def __init__(self, code: int, message: str, body: str) -> None:
        try:
            content = json.loads(body)
        except ValueError:
            content = body
        if isinstance(content, dict):
            content = content.get("error") or content.get("message") or ""
        said, text = str(content).strip(), f"{code} {message}"
        super().__init__(text if said in text else f"{text}: {said}")

    def __str__(self) -> str:
        return f"the handler answered {self.args[0]}"

    def is_about(self, error: BaseException) -> bool:
        """Return whether the answer says no more than an exception does."""
        reason = str(error) or type(error).__name__
        return " ".join(self.args[0].split()).endswith(" ".join(reason.split()))


def _expect_success(output: Any, logged: BaseException | None) -> bytes:
    code = getattr(output, "code", 204)
    if output is not None and not hasattr(output, "code"):
        raise TypeError(f"the handler returned {type(output).__name__}, not an Output or None")
    if output is None:
        return b""
    body = b"".join(bytes(output.content.value_at(i)) for i in range(output.content.size()))
    if code >= 300:  # noqa: PLR2004 - PyProcess.predictStandard draws the line here
        raise _AnsweredError(code, output.message, body.decode("utf-8", "replace")) from logged
    return body


def _memory() -> dict[str, Any]:
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
        # Not ru_maxrss: Linux carries it over fork and exec, so that it is as large as the process
        # that asked for the measurement, a notebook of gigabytes say.
        status = Path("/proc/self/status").read_text()
    except OSError:
        return _memory_without_proc()
    sizes = {
        key: int(size) * 1024 for key, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)
    }
    return {
        "proportional": sizes["Pss"],
        "private": sizes["Private_Clean"] + sizes["Private_Dirty"],
        "peak": int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024,
        "source": "smaps_rollup",
    }


def _memory_without_proc() -> dict[str, Any]:
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    try:
        import psutil
    except ImportError:
        return {"proportional": peak, "private": peak, "peak": peak, "source": "getrusage"}
    resident = psutil.Process().memory_info().rss
    return {"proportional": resident, "private": resident, "peak": peak, "source": "psutil"}


def fork(model_folder: str, job: dict[str, Any], report: Callable[..., None]) -> None:
    """Import what the job names, fork, and load the model and answer the sample in the child.

    ``report`` is told what is known before the fork, and again after it.
    """
    from mmekit_runtime.slots import copy_on_write, template_process

    for name in template_process.BASE_IMPORTS:
        importlib.import_module(name)
    preload: list[str] = []
    threads: dict[str, int] = {}
    # The rest, in case that something was imported by a module that is gone again.
    for name in dict.fromkeys([*job["preload"], *job["third_party"]]):
        if name in sys.modules and name not in job["preload"]:
            continue
        running = template_process.thread_count()
        try:
            importlib.import_module(name)
        except BaseException:  # noqa: BLE001, S112 - the model imports it in another way
            continue
        preload.append(name)
        started = template_process.thread_count() - running
        if started > 0:
            threads[name] = started
    # Should the fork hang, this is what the file says when the process is killed.
    report(preload=preload, threads=threads, forked=None, failure=None)
    if threads:
        return
    body, shared = None, None
    if job["shared"] is not None:
        before = _memory()["private"]
        body, unshared = _sibling(BODY_MODULE).load(job, model_folder)
        shared = max(0, _memory()["private"] - before)
        report(preload=preload, threads={}, forked=None, failure=None, unshared=unshared)
        if unshared is not None:
            return
    plugs = copy_on_write.prepare_to_fork()
    child = _in_child(model_folder, job, body)
    report(preload=preload, threads={}, shared=shared, **child)
    del plugs


def load_siblings(model_folder: str, job: dict[str, Any]) -> None:
    """Import what one model of a package was measured with, and load the others in forks."""
    from mmekit_runtime.slots import copy_on_write, template_process

    for name, version in job["libraries"].items():
        if importlib.metadata.version(name) != version:
            raise RuntimeError(f"{name} {version} was measured, and is another now")
    for name in (*template_process.BASE_IMPORTS, *job["preload"]):
        importlib.import_module(name)
    body = None
    if job["shared"] is not None:
        body, unshared = _sibling(BODY_MODULE).load(job, model_folder)
        if unshared is not None:
            raise RuntimeError(unshared)
    imports, siblings = _sibling(IMPORTS_MODULE), _sibling(SIBLINGS_MODULE)

    def see(model: dict[str, Any]) -> dict[str, Any]:
        folder = model["folder"]
        os.chdir(folder)
        sys.path[:] = [folder if place == model_folder else place for place in sys.path]
        witness = siblings.Witness()
        asked = _Asked(folder, {**job, **model}, body)
        seen = {
            "forked": _memory()["private"],
            "classes": witness.classes,
            "modules": sorted(imports.importable(witness.modules, folder)),
        }
        return {**seen, **_told_by(asked, {**job, **model})}

    plugs = copy_on_write.prepare_to_fork()
    siblings.load_each(job, see)
    del plugs


def _in_child(model_folder: str, job: dict[str, Any], body: Any) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            asked = _Asked(model_folder, job, body)
            result = {"forked": _memory()["private"], "failure": None, "answer": asked.answer}
        except BaseException as error:  # noqa: BLE001
            result = {"forked": None, "failure": _told(error)}
        with contextlib.suppress(OSError), open(writer, "w") as stream:  # noqa: PTH123
            json.dump(result, stream)
        # No sys.exit: what the parent has buffered and registered would run here a second time.
        os._exit(0)
    os.close(writer)
    # Read before waiting: a child that has filled the pipe does not end until somebody reads.
    with open(reader) as stream:  # noqa: PTH123
        text = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if text:
        return dict(json.loads(text))
    how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    return {"forked": None, "failure": f"it ended with {how}"}


def _told(error: BaseException) -> str:
    if isinstance(error, _AnsweredError):
        cause = error.__cause__
        if cause is None:
            return str(error)
        return _told(cause) if error.is_about(cause) else f"{_told(cause)}\n{error}"
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def _lines(error: BaseException, model_folder: str) -> str:
    """Return the lines of the model's own files that led to an error, the innermost last.

    Where there are none, they are those of the library that raised it.
    """
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)
    frames = [frame for one in reversed(chain) for frame in _frames(one)]
    not_the_models = _sibling(IMPORTS_MODULE).NOT_THE_MODELS
    own, others = [], []
    for file, *where in frames:
        if file.is_relative_to(model_folder):
            name = file.relative_to(model_folder)
            if name.parts[0] not in not_the_models:
                own.append((name.as_posix(), *where))
        elif not_the_models.isdisjoint(file.parts[-3:-1]):
            others.append((str(file).rpartition("site-packages/")[2], *where))
    shown = dict.fromkeys(own[-_FRAMES:] or others[-_FRAMES_OF_OTHERS:])
    return "".join(
        f"  {file}, line {line}{place}\n" + (f"    {code}\n" if code else "")
        for file, line, place, code in shown
    )


def _frames(error: BaseException) -> Iterator[tuple[Any, ...]]:
    for frame in traceback.extract_tb(error.__traceback__):
        # Neither this file nor the machinery of imports.
        if frame.filename != __file__ and not frame.filename.startswith("<"):
            yield Path(frame.filename), frame.lineno, f", in {frame.name}", frame.line
    if isinstance(error, SyntaxError) and error.filename:
        yield Path(error.filename), error.lineno, "", (error.text or "").strip()


def main() -> int:
    """Do the job; write the findings, or the failure and the lines that led to it."""

    def report(**findings: Any) -> None:
        Path(findings_file).write_text(json.dumps(findings))

    engine, model_folder, job_file, findings_file = sys.argv[1:]
    # As in a worker, where the engine's script is what Python was started with.
    sys.path[0] = engine
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s::%(message)s", level=logging.INFO)
    job = {**json.loads(Path(job_file).read_bytes()), "engine": engine}
    try:
        if job["task"] == "fork":
            fork(model_folder, job, report)
        elif job["task"] == "siblings":
            load_siblings(model_folder, job)
        else:
            report(**observe(model_folder, job))
    except BaseException as error:  # noqa: BLE001 - a model may even call sys.exit
        report(failure=_told(error), traceback=_lines(error, model_folder))
        return 1
    return 0


if __name__ == "__main__":
    # Threads that a library left running must not keep the process.
    code = main()
    sys.stdout.flush()
    os._exit(code)
