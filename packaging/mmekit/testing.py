"""Run a handler as DJL's Python engine runs it, without a server: for notebooks and for tests.

`load_handler` lays out a model folder as an archive would, imports its model.py the way
``djl_python/service_loader.py`` does and sends the empty request that loads the model. What comes
back is invoked with bytes and answers with bytes::

    model = load_handler("model_packages/linear_regression", "build/artifacts/linear_regression")
    model.invoke(b"0.05", content_type="text/csv").json()      # {"predictions": [...]}

Any model.py for DJL Serving will do; it need not use mmekit_runtime. In tests, the fixture
``mme_model`` of `mmekit.pytest_plugin` is the same function and clears up after itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit.archive import describe, parse_properties, read_package, read_properties
from mmekit.archive.contents import read_contents
from mmekit.archive.conventions import ENTRY_POINT as CONVENTIONS
from mmekit.archive.package import CONTENT_TYPES, as_served
from mmekit.archive.proof import REMEDY, agree, prove
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.request_variants import variants
from mmekit.archive.staging import staged_model
from mmekit.engine import engine_folder
from mmekit.errors import ArchiveError, BatchError, ModelLoadError, PackageError
from mmekit_runtime.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType, TracebackType

    from typing_extensions import Self

    from mmekit.archive.properties import Properties
    from mmekit.archive.staging import StagedModel

__all__ = ["Answer", "LocalModel", "Sample", "agree", "load_handler", "read_sample"]

_logger = logging.getLogger("mmekit.testing")
_SUCCESS = range(200, 300)
_CODE_FOLDER = "code"
_STAND_INS = ("djl_python.input_parser", "djl_python.output_formatter")


@dataclass(frozen=True)
class Answer:
    """What a handler answered.

    Attributes
    ----------
    status
        The HTTP status: 200 for an answer, 204 when the handler returned None, 424 for an
        exception, 507 when memory ran out, or what the handler chose.
    message
        The reason phrase.
    body
        The first content of the Output; empty when it has none.
    headers
        The Output's properties, names in lower case.
    """

    status: int
    message: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return self.status in _SUCCESS

    @property
    def content_type(self) -> str | None:
        """The content type, or None when the handler names none."""
        return self.headers.get("content-type")

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body, read as JSON; ValueError when it is none."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Sample:
    """The sample request of a package folder or an archive, and the answer that it should get.

    Attributes
    ----------
    body, content_type
        sample_request.*: its bytes, and the content type that its suffix stands for.
    answer
        sample_response.json, or what the archive's model answered when it was packed; None when
        there is none.
    """

    body: bytes
    content_type: str
    answer: Any = None


class LocalModel:
    """A loaded handler; make one with `load_handler`.

    It is a context manager; `close` forgets the model and removes the folder it ran in.
    """

    def __init__(
        self, staged: StagedModel, scratch: tempfile.TemporaryDirectory[str], where: str
    ) -> None:
        folder = staged.folder
        self.folder = folder
        self._scratch = scratch
        self._libraries = [] if staged.libraries is None else [str(staged.libraries)]
        self._path = [str(one) for one in (folder, folder / _CODE_FOLDER) if one.is_dir()]
        self._owned = frozenset(name for one in self._path for name in _module_names(Path(one)))
        self._modules: dict[str, ModuleType] = {}
        properties = _properties(folder)
        self._environment = {**properties.env, **staged.variables}
        self._where = where
        self._function = properties.handler or "handle"
        entry_point = properties.entry_point or "model.py"
        with self._as_in_a_worker():
            # Python asks for it where modules have been written while it runs.
            importlib.invalidate_caches()
            self._module = importlib.import_module(entry_point.removesuffix(".py"))
        initialised = self._call(properties.init_parameters, None)
        if not initialised.ok:
            raise ModelLoadError(
                f"The model did not load ({initialised.status}): {_reason(initialised)}",
                where=where,
                remedy="correct what the reason names; the log has the traceback",
            )

    def invoke(
        self,
        body: bytes | str,
        *,
        content_type: str = "application/json",
        accept: str | None = None,
        attributes: str | None = None,
    ) -> Answer:
        """Send one request.

        Parameters
        ----------
        body
            The request's body; a str is sent as UTF-8.
        content_type, accept
            The headers Content-Type and Accept.
        attributes
            The header X-Amzn-SageMaker-Custom-Attributes, such as ``probabilities=true``.
        """
        headers = {"Content-Type": content_type}
        if accept is not None:
            headers["Accept"] = accept
        if attributes is not None:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        return self._call(headers, body.encode() if isinstance(body, str) else body)

    def prove_batches(self, sample: Sample) -> str | None:
        """Compare answers in batches with answers to single requests.

        With worker slots, waiting requests are answered by one call. The sample is asked for in one
        batch with itself, and in others with requests of other rows that are made of it; each must
        get the answer that it gets alone, but for the handler's ``tolerance``.

        Returns
        -------
        str or None
            What keeps it from being proven, such as answers that are not repeatable; None when it
            is, and for a handler that is none of mmekit_runtime's: it never gets batches.

        Raises
        ------
        BatchError
            An answer depends on the requests that are answered with it.
        """
        with self._as_in_a_worker():
            handler = getattr(self._module, self._function)
            runtime = sys.modules.get("mmekit_runtime")
            if runtime is None or not isinstance(handler, runtime.Handler):
                return None
            different = variants(sample.body, sample.content_type, _signature(self.folder))
            proof = prove(handler, runtime.Request, sample.body, sample.content_type, different)
        if proof.difference is not None:
            raise BatchError(
                f"A request is answered differently when others are answered with it: "
                f"{proof.difference}",
                where=f"{proof.handler}, {self._where}",
                remedy=REMEDY,
            )
        return proof.unproven

    def close(self) -> None:
        """Forget the model and remove the folder it ran in."""
        self._modules.clear()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        """Return the model itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the model."""
        self.close()

    def _call(self, properties: dict[str, str], body: bytes | None) -> Answer:
        from djl_python import Input, Output  # the engine's folder is on the path by now

        inputs = Input()
        inputs.function_name = self._function
        inputs.properties.update(properties, handler=self._function, device_id="-1")
        inputs.properties["model_dir"] = str(self.folder)
        if body is not None:
            inputs.content.add(key="data", value=bytearray(body))
        with self._as_in_a_worker():
            try:
                outputs = getattr(self._module, self._function)(inputs)
            except Exception as error:
                _logger.exception("the handler raised")
                outputs = _engines_answer(error)
        if outputs is None:
            return Answer(204, "No content", b"")
        if not isinstance(outputs, Output):
            outputs = Output().error(f"Invalid output type: {type(outputs)}")
        content = outputs.content
        return Answer(
            status=outputs.code,
            message=outputs.message,
            body=b"" if content.is_empty() else bytes(content.value_at(0)),
            headers={str(k).lower(): str(v) for k, v in outputs.properties.items()},
        )

    @contextlib.contextmanager
    def _as_in_a_worker(self) -> Iterator[None]:
        """Give the handler the working directory, path, modules and environment of a worker.

        Modules that lie in the model's folder belong to this model alone: two models may both
        have a model.py, and a pickle may name a class in a module beside it.
        """
        before = os.getcwd()  # noqa: PTH109 (a Path would be made for nothing)
        path = list(sys.path)
        hidden = self._take_owned()
        environment = {name: os.environ.get(name) for name in self._environment}
        sys.modules.update(self._modules)
        sys.path[:0] = self._path
        # What is installed here goes first: a process cannot have a library twice.
        sys.path += self._libraries
        os.environ.update(self._environment)
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(before)
            _restore(environment)
            sys.path[:] = path
            self._modules = self._take_owned()
            sys.modules.update(hidden)

    def _take_owned(self) -> dict[str, ModuleType]:
        # What stands between the engine and a model of another convention knows that one model,
        # and stands in for modules of the engine.
        shared = (CONVENTIONS, *_STAND_INS)
        names = [
            name
            for name in sys.modules
            if name.partition(".")[0] in self._owned or name.startswith(shared)
        ]
        return {name: sys.modules.pop(name) for name in names}


def load_handler(model: Path | str, artifacts: Path | str | None = None) -> LocalModel:
    """Load a model's handler in this process, as DJL's Python engine would.

    Parameters
    ----------
    model
        A package folder, an unpacked model folder, or an archive (``.tar.gz``).
    artifacts
        The folder with the package's artefacts; None when ``model`` holds them itself.

    Raises
    ------
    PackageError
        ``model`` or ``artifacts`` is not there, or the folder has no model.py.
    ArchiveError
        The archive is damaged, or names a layer that does not lie beside it.
    ModelLoadError
        The handler did not answer the initialisation request with a success; the error says why.
    """
    engine = str(engine_folder())
    if engine not in sys.path:
        sys.path.append(engine)
    # resolve: DJL gives a handler the real path, and macOS' temporary folder is a link.
    scratch = tempfile.TemporaryDirectory(prefix="mme-handler-", ignore_cleanup_errors=True)
    try:
        sources = [Path(one).resolve() for one in (model, artifacts) if one is not None]
        staged = staged_model(sources, Path(scratch.name).resolve())
        return LocalModel(staged, scratch, str(model))
    except BaseException:
        scratch.cleanup()
        raise


def read_sample(path: Path | str) -> Sample:
    """Read the sample request of a package folder or of an archive, and its answer.

    An archive of `mme pack` has those of its own model, if they are texts of at most 64 KiB; a
    package folder has sample_request and sample_response.

    Raises
    ------
    PackageError
        There is no such package, or it has no sample_request with a suffix that is known.
    ArchiveError
        The archive is missing or damaged, or has no sample.
    """
    path = Path(path)
    if not path.is_dir():
        return _sample_of_archive(path)
    found = read_package(path)
    if found.sample_request is None:
        raise PackageError(
            "There is no sample request",
            where=str(path),
            remedy=f"add sample_request with one of the suffixes {', '.join(CONTENT_TYPES)}",
        )
    response = found.folder / "sample_response.json"
    answer = json.loads(response.read_text(encoding="utf-8")) if response.is_file() else None
    return Sample(found.sample_request.body, found.sample_request.content_type, answer)


def _sample_of_archive(path: Path) -> Sample:
    example = describe(path).example
    if example is None:
        raise ArchiveError(
            "There is no sample request in the archive",
            where=str(path),
            remedy="add a sample_request to its package, as a text of at most 64 KiB, and pack it "
            "again; or read that of the package folder",
        )
    answer = None if example.answer is None else json.loads(example.answer)
    return Sample(example.request.encode(), example.content_type, answer)


def _properties(folder: Path) -> Properties:
    """Return the settings of a model folder, as packing would write them."""
    read_properties(folder)  # refuses what DJL Serving would
    served = as_served(read_contents(folder))
    return parse_properties(served.text(PROPERTIES_FILE, "latin-1") or "", where=str(folder))


def _signature(folder: Path) -> Signature | None:
    try:
        return Signature.read(folder)
    except ValueError:
        return None  # loading has said so, if the handler reads it


def _module_names(folder: Path) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.suffix == ".py":
            yield entry.stem
        elif (entry / "__init__.py").is_file():
            yield entry.name


def _engines_answer(error: Exception) -> Any:
    """Answer as djl_python/python_sync_engine.py does when a handler raises."""
    from djl_python import Output

    out_of_memory = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    if out_of_memory or "CUDA error: out of memory" in str(error):
        return Output(code=507, message=str(error))
    return Output().error(str(error))


def _reason(answer: Answer) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, LookupError, TypeError):
        return answer.message


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
