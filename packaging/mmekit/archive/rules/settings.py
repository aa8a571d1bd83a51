"""Rules about serving.properties: syntax, engine, memory, names.

Sources: ModelInfo.java and PyModel.java of deepjavalibrary/djl-serving at v0.36.0;
BaseModelLoader.java of deepjavalibrary/djl.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmekit.archive.package import MODEL_FILE
from mmekit.archive.properties import FILE_NAME, find_problems, parse_entries
from mmekit.archive.rules.spelling import without_quotes
from mmekit.errors import PropertiesError
from mmekit.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.properties import PropertyLine
    from mmekit.archive.rules.subject import Subject

# ModelInfo.inferEngine: a model file of these types decides, model.py comes after them.
_STRONGER_THAN_MODEL_PY = {
    ".pt": "PyTorch",
    ".onnx": "OnnxRuntime",
    ".json": "XGBoost",
    ".xgb": "XGBoost",
    ".bst": "XGBoost",
}
_STRONGER_FILES = {"config.pbtxt": "TritonServer", "saved_model.pb": "TensorFlow"}
_OTHER_ENGINES = ("MPI", "OnnxRuntime", "PyTorch", "Rust", "TensorFlow", "TritonServer", "XGBoost")

_NAME_KEY = "option.modelName"
_ASCII = re.compile(r"[\x00-\x7f]*")


def bad_values(subject: Subject) -> Iterator[Finding]:
    """Expect values that DJL can read; for most others it answers 409."""
    text = subject.contents.text(FILE_NAME, "latin-1")
    if text is None:
        return
    try:
        problems = find_problems(parse_entries(text))
    except PropertiesError as error:
        yield Finding(
            "error",
            "properties-unreadable",
            f"{error.what}; the load fails with 409, which SageMaker takes for 'already loaded'.",
            error.remedy or "Correct the line.",
            subject.place(FILE_NAME),
        )
        return
    for problem in problems:
        consequence = (
            "the load fails with 409, which SageMaker takes for 'already loaded'"
            if problem.fatal
            else "DJL Serving logs a warning and uses its default"
        )
        yield Finding(
            "error" if problem.fatal else "warning",
            "bad-integer",
            f"{problem}; {consequence}.",
            f"Write {problem.entry.key}={_suggested(problem.entry)}, with digits only.",
            subject.place(FILE_NAME, problem.entry.line),
        )


def suspicious_lines(subject: Subject) -> Iterator[Finding]:
    """Expect lines that mean what their author meant."""
    seen: dict[str, int] = {}
    for entry in subject.entries:
        where = subject.place(FILE_NAME, entry.line)
        # Of many models of one package, packing writes the name of each behind the package's.
        is_own = subject.is_archive and (entry.key, entry.value) == (_NAME_KEY, subject.name)
        if entry.key in seen and not is_own:
            yield Finding(
                "warning",
                "duplicate-key",
                f"{entry.key} is already on line {seen[entry.key]} already; only this one counts.",
                "Remove one of them.",
                where,
            )
        seen[entry.key] = entry.line
        if entry.value != entry.value.strip() and entry.key != "engine":
            yield Finding(
                "warning",
                "trailing-blank",
                f"The value of {entry.key} ends with a blank, which Java keeps.",
                "Remove it.",
                where,
            )
    text = subject.contents.text(FILE_NAME, "latin-1") or ""
    if not _ASCII.fullmatch(text):
        yield Finding(
            "warning",
            "not-ascii",
            "DJL Serving reads the file once as ISO 8859-1 and once as UTF-8: other characters "
            "than ASCII come out wrong, or stop the load.",
            r"Write them as \uXXXX, or leave them out.",
            subject.place(FILE_NAME),
        )


def engine(subject: Subject) -> Iterator[Finding]:
    """Expect the engine, written out letter by letter."""
    name = subject.properties.engine
    where = subject.place_of("engine")
    if name is None:
        stronger = _stronger_file(subject)
        if stronger is not None:
            file, other = stronger
            yield Finding(
                "error",
                "engine-missing",
                f"Without engine=Python, DJL Serving sees {file} and takes this for a model of "
                f"{other}; {MODEL_FILE} is not used.",
                "Add the line engine=Python.",
                where,
            )
        else:
            yield Finding(
                "warning",
                "engine-missing",
                "Without engine=Python, DJL Serving guesses from the names of files.",
                "Add the line engine=Python (packing adds it).",
                where,
            )
    elif name in _OTHER_ENGINES:
        yield Finding(
            "warning",
            "engine-other",
            f"The engine {name} is not Python: DJL Serving may serve this, the embedded server "
            "cannot.",
            "Use engine=Python, or rehearse with the real DJL Serving.",
            where,
        )
    elif name != "Python":
        yield Finding(
            "error",
            "engine-unknown",
            f"There is no engine {name!r}: the load fails with 409, which SageMaker takes for "
            "'already loaded'.",
            "Write engine=Python, with a capital P and no blank after it.",
            where,
        )


def memory(subject: Subject) -> Iterator[Finding]:
    """Expect the memory that a load needs."""
    declared = subject.properties.required_memory_mb
    where = subject.place_of("required_memory_mb")
    if declared is None:
        # Packing adds it to a package.
        if subject.is_archive:
            yield Finding(
                "warning",
                "memory-undeclared",
                "Without required_memory_mb, DJL Serving takes 1.2 times the files' size for what "
                "a Python model needs, which is far too little; memory may run out.",
                "Pack with `mme pack`, which measures it, or add required_memory_mb.",
                where,
            )
    elif subject.required_memory_mb is not None and declared < subject.required_memory_mb:
        process = "forked process" if subject.uses_slots else "worker"
        yield Finding(
            "warning",
            "memory-too-low",
            f"required_memory_mb is {declared}; going by what a {process} took when it was "
            f"measured, it should be {subject.required_memory_mb}.",
            "Remove the line, and packing writes what was measured.",
            where,
        )


def name(subject: Subject) -> Iterator[Finding]:
    """Expect a name for the log, and one that fits S3."""
    given = subject.properties.model_name
    if given is None:
        if subject.is_archive:
            yield Finding(
                "note",
                "model-name-missing",
                "Without option.modelName, every model is called 'model' in the endpoint's log.",
                "Add option.modelName=<name>.",
                subject.place_of("option.modelName"),
            )
    elif given in subject.contents:
        yield Finding(
            "error",
            "model-name-is-a-file",
            f"There is a file called {given}: DJL Serving runs it instead of {MODEL_FILE}.",
            "Give option.modelName a name that no file has.",
            subject.place_of("option.modelName"),
        )
    if subject.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", subject.name):
        yield Finding(
            "warning",
            "package-name",
            f"The name {subject.name!r} becomes part of an S3 key, a URL and TargetModel.",
            "Use letters, digits, '.', '_' and '-'.",
            subject.contents.where,
        )


def interpreter(subject: Subject) -> Iterator[Finding]:
    """Expect the image's own Python."""
    if subject.properties.python_executable is not None:
        yield Finding(
            "warning",
            "python-executable",
            f"{subject.properties.python_executable} has to exist in the container.",
            "Remove option.pythonExecutable unless the image is your own.",
            subject.place_of("option.pythonExecutable"),
        )
    if subject.properties.enable_venv:
        yield Finding(
            "note",
            "virtual-environment",
            "option.enable_venv makes a virtual environment at the first load, which takes "
            "seconds, and no libraries are shared with other models' processes.",
            "Install what the model needs in an image of your own.",
            subject.place_of("option.enable_venv"),
        )


def _suggested(entry: PropertyLine) -> str:
    value = without_quotes(entry).strip()
    return value if value.isdecimal() else "<number>"


def _stronger_file(subject: Subject) -> tuple[str, str] | None:
    for file, other in _STRONGER_FILES.items():
        if file in subject.contents:
            return file, other
    stems = ["model"]
    model_name = subject.properties.model_name
    if model_name:
        stems.append(model_name)
    for suffix, other in _STRONGER_THAN_MODEL_PY.items():
        for stem in stems:
            if stem + suffix in subject.contents:
                return stem + suffix, other
    return None
