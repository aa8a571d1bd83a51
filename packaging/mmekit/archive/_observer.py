"""Load a model in this process, ask it once, and write down what was seen.

Started by `mmekit.archive.measure` in a process of its own, from a folder of its own; standard
library and DJL's engine only, so that nothing else is in the figures. Arguments: the engine's
folder, the model's folder, a JSON file with the job, and the file for the findings.

The job's ``task`` is ``observe``, or ``fork``: import what was found to be worth importing
beforehand, fork, and do the same in the child.
"""

from __future__ import annotations

import ast
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
    from collections.abc import Callable, Iterable, Iterator

_FRAMES = 6
_FRAMES_OF_OTHERS = 3
_NOT_THE_MODEL_S = frozenset({"djl_python", "djl_python_engine", "mmekit", "mmekit_runtime"})
_IMPORT_FUNCTION = ("<frozen importlib._bootstrap>", "_find_and_load")


class ImportWitness:
    """A finder that finds nothing, and remembers who asked for which module.

    Attributes
    ----------
    importers
        For each top-level module, the module that asked for it first.
    asked
        The modules that were asked for by the model's own code, or by any code while no other
        import was going on; in that order, found or not.
    """

    def __init__(self, model_folder: str) -> None:
        self.importers: dict[str, str] = {}
        self.asked: dict[str, None] = {}
        self._model_folder = model_folder

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Note the importing module; leave the search to the real finders."""
        self._note_outermost()
        if "." in name or name in self.importers:
            return
        frame = sys._getframe(1)  # noqa: SLF001 - the importer is known by its frame alone
        while frame.f_back is not None and _belongs_to_import(frame.f_globals.get("__name__", "")):
            frame = frame.f_back
        self.importers[name] = str(frame.f_globals.get("__name__", "")).partition(".")[0]

    def _note_outermost(self) -> None:
        """Note the import that all others on the stack serve, inside of the model's own modules."""
        frame = sys._getframe(2)  # noqa: SLF001
        outermost = None
        while frame is not None:
            if (frame.f_code.co_filename, frame.f_code.co_name) == _IMPORT_FUNCTION:
                name = frame.f_locals["name"]
                if _is_of_model(name, self._model_folder):
                    break
                if name.partition(".")[0] not in sys.stdlib_module_names:
                    outermost = name
            frame = frame.f_back  # type: ignore[assignment]
        if outermost is not None:
            self.asked[outermost] = None


def _belongs_to_import(module: str) -> bool:
    return module == __name__ or module.partition(".")[0] in ("importlib", "_frozen_importlib")


def _is_of_model(name: str, model_folder: str) -> bool:
    # By place, not by name: a folder of weights may be called as a library is.
    file = getattr(sys.modules.get(name), "__file__", None)
    return name.partition(".")[0] in _NOT_THE_MODEL_S or (
        file is not None and str(file).startswith(f"{model_folder}{os.sep}")
    )


def observe(model_folder: str, job: dict[str, Any]) -> dict[str, Any]:
    """Load the model and answer the sample; return what was seen."""
    # What a worker has imported before it comes to the model (djl_python_engine.py).
    before = set(sys.modules)
    from djl_python.arg_parser import ArgParser  # noqa: F401
    from djl_python.inputs import Input  # noqa: F401
    from djl_python.python_sync_engine import PythonSyncEngine  # noqa: F401

    of_engine = set(sys.modules)
    witness = ImportWitness(model_folder)
    sys.meta_path.insert(0, witness)
    handler = _load_and_ask(model_folder, job)

    memory = _memory()
    sys.meta_path.remove(witness)
    loaded = {name for name in sys.modules if name not in before}
    found = {
        "memory": memory,
        "preload": _importable(_with_packages(witness.asked), model_folder),
        "third_party": _importable(
            [name for name in sys.modules if name not in of_engine], model_folder
        ),
        **_libraries(Path(model_folder), loaded, witness.importers),
    }
    known: Any = getattr(handler, "signature", None)
    signature = known.to_json().decode() if hasattr(known, "to_json") else None
    # Last: what further requests import and take is no part of what was seen.
    return {**found, "signature": signature, "proof": _prove(handler, job)}


def _prove(handler: Any, job: dict[str, Any]) -> dict[str, Any] | None:
    """Compare answers in batches with answers alone; None for what never gets batches."""
    runtime = sys.modules.get("mmekit_runtime")
    if job["sample"] is None or runtime is None or not isinstance(handler, runtime.Handler):
        return None
    sys.path.insert(0, str(Path(__file__).parent))
    prove = importlib.import_module(job["proof"]).prove
    del sys.path[0]
    different = [base64.b64decode(body) for body in job["different"]]
    sample = Path(job["sample"]).read_bytes()
    return dict(vars(prove(handler, runtime.Request, sample, job["content_type"], different)))


def _load_and_ask(model_folder: str, job: dict[str, Any]) -> Any:
    from djl_python.inputs import Input
    from djl_python.service_loader import load_model_service

    logged = _LoggedErrors()
    logging.getLogger().addHandler(logged)
    service = load_model_service(model_folder, job["entry_point"], "-1")

    def ask(properties: dict[str, str], body: bytes | None) -> None:
        inputs = Input()
        inputs.function_name = job["handler"]
        inputs.properties = {**properties, "device_id": "-1"}
        if body is not None:
            inputs.content.add(key="data", value=body)
        logged.last = None
        _expect_success(service.invoke_handler(job["handler"], inputs), logged.last)

    ask(job["parameters"], None)
    if job["sample"] is not None:
        ask({"Content-Type": job["content_type"]}, Path(job["sample"]).read_bytes())
    return getattr(service.module, job["handler"], None)


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


def _expect_success(output: Any, logged: BaseException | None) -> None:
    code = getattr(output, "code", 204)
    if output is not None and not hasattr(output, "code"):
        raise TypeError(f"the handler returned {type(output).__name__}, not an Output or None")
    if code >= 300:  # noqa: PLR2004 - PyProcess.predictStandard draws the line here
        values = [bytes(output.content.value_at(i)) for i in range(output.content.size())]
        body = b"".join(values).decode("utf-8", "replace")
        raise _AnsweredError(code, output.message, body) from logged


def _memory() -> dict[str, Any]:
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return _memory_without_proc(peak)
    sizes = {
        key: int(size) * 1024 for key, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)
    }
    return {
        "proportional": sizes["Pss"],
        "private": sizes["Private_Clean"] + sizes["Private_Dirty"],
        "peak": peak,
        "source": "smaps_rollup",
    }


def _memory_without_proc(peak: int) -> dict[str, Any]:
    try:
        import psutil
    except ImportError:
        return {"proportional": peak, "private": peak, "peak": peak, "source": "getrusage"}
    resident = psutil.Process().memory_info().rss
    return {"proportional": resident, "private": resident, "peak": peak, "source": "psutil"}


def _with_packages(names: Iterable[str]) -> list[str]:
    """Put the packages that a module is in before it.

    They are imported anyway. Named, they are what two models have in common that use different
    parts of a library.
    """
    packages: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        packages.update({".".join(parts[: i + 1]): None for i in range(len(parts))})
    return list(packages)


def _importable(names: Iterable[str], model_folder: str) -> list[str]:
    """Return those of the names that are modules of libraries, imported under that very name."""
    return [
        name
        for name in names
        if name in sys.modules
        and getattr(getattr(sys.modules[name], "__spec__", None), "name", None) == name
        and name.partition(".")[0] not in sys.stdlib_module_names
        and not _is_of_model(name, model_folder)
    ]


def _libraries(
    model_folder: Path, loaded: set[str], importers: dict[str, str]
) -> dict[str, dict[str, str] | list[str]]:
    own = {name.partition(".")[0] for name in loaded if _is_of_model(name, str(model_folder))}
    own |= _NOT_THE_MODEL_S
    standard = sys.stdlib_module_names
    candidates = {
        name
        for name in {module.partition(".")[0] for module in loaded} - own - standard
        if name.isidentifier() and not name.startswith("_")
    }
    providers = _providers(candidates)
    imports = sorted(name for name in candidates if providers.get(name))
    # A library that another library tried to import may be absent: nobody relies on it.
    asked = {
        name
        for name, importer in importers.items()
        if importer in own or importer in standard or importer == __name__
    }
    asked |= _named_in_source(model_folder)
    return {
        "imports": imports,
        "modules": sorted(
            name
            for name in loaded
            if re.fullmatch(r"[^.]+\.[a-zA-Z]\w*", name)
            and name.partition(".")[0] in imports
            and getattr(getattr(sys.modules[name], "__spec__", None), "name", None) == name
        ),
        "libraries": {d: v for name in imports for d, v in providers[name].items()},
        "required": sorted({d for name in imports if name in asked for d in providers[name]}),
    }


def _providers(top_level: set[str]) -> dict[str, dict[str, str]]:
    """Return for each top-level module the distributions (and versions) that installed it.

    importlib.metadata.packages_distributions knows no wheels without top_level.txt on Python 3.10,
    and several distributions may share a namespace: only one whose file was loaded counts.
    """
    files = {
        str(Path(file).resolve())
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in top_level and (file := getattr(module, "__file__", None))
    }
    providers: dict[str, dict[str, str]] = {}
    for distribution in importlib.metadata.distributions():
        record = distribution.read_text("RECORD")
        if record is None:
            names = (distribution.read_text("top_level.txt") or "").split()
        else:
            paths = [line.partition(",")[0] for line in record.splitlines()]
            by_name: dict[str, list[str]] = {}
            for path in paths:
                first = re.split(r"[/.]", path, maxsplit=1)[0]
                if first in top_level:
                    by_name.setdefault(first, []).append(path)
            root = str(Path(str(distribution.locate_file(""))).resolve())
            names = [
                name
                for name, owned in by_name.items()
                if any(os.path.join(root, path) in files for path in owned)  # noqa: PTH118 - many
            ]
        canonical = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        for name in names:
            providers.setdefault(name, {})[canonical] = distribution.version
    return providers


def _named_in_source(model_folder: Path) -> set[str]:
    """Return the top-level modules that the model's own files import outside of a try."""
    names: set[str] = set()
    for path in sorted(model_folder.glob("*.py")):
        try:
            nodes: list[ast.AST] = [ast.parse(path.read_bytes())]
        except (SyntaxError, ValueError):
            continue
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
            if not isinstance(node, ast.Try):
                nodes.extend(ast.iter_child_nodes(node))
    return names


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
    report(preload=preload, threads=threads, forked=None, failure=None)
    if not threads:
        plugs = copy_on_write.prepare_to_fork()
        report(preload=preload, threads=threads, **_in_child(model_folder, job))
        del plugs


def _in_child(model_folder: str, job: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _load_and_ask(model_folder, job)
            result = {"forked": _memory()["private"], "failure": None}
        except BaseException as error:  # noqa: BLE001
            result = {"forked": None, "failure": _told(error)}
        with contextlib.suppress(OSError), open(writer, "w") as stream:  # noqa: PTH123
            json.dump(result, stream)
        os._exit(0)
    os.close(writer)
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
    own, others = [], []
    for file, *where in frames:
        if file.is_relative_to(model_folder):
            name = file.relative_to(model_folder)
            if name.parts[0] not in _NOT_THE_MODEL_S:
                own.append((name.as_posix(), *where))
        elif _NOT_THE_MODEL_S.isdisjoint(file.parts[-3:-1]):
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
    job = json.loads(Path(job_file).read_bytes())
    try:
        if job["task"] == "fork":
            fork(model_folder, job, report)
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
