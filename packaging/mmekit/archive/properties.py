"""serving.properties, read the way DJL Serving 0.36.0 reads it.

Two things decide what a line means: Java's ``Properties.load`` (the syntax) and who asks for the
key afterwards. The sources imitated here, all at tag v0.36.0 of deepjavalibrary/djl-serving:

- ``wlm/.../ModelInfo.java``: ``loadServingProperties`` (ISO 8859-1, the environment fills in what
  is absent), ``configPerModelSettings`` and ``checkAvailableMemory`` (integers; a bad one is a
  NumberFormatException, which the management API answers with 409), ``getMinWorkers`` and
  ``getMaxWorkers``;
- ``wlm/.../util/WlmConfigManager.java``: the defaults;
- ``engines/python/.../PyModel.java``: the ``option.`` keys (a bad time-out is only logged);
- ``engines/python/.../PyEnv.java``: the time-outs' defaults.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmekit.archive.files import read_text
from mmekit.errors import PropertiesError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE_NAME = "serving.properties"
OPTION_PREFIX = "option."

_BLANK = " \t\f"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_LINE_END = re.compile(r"\r\n|\r|\n")
# Integer.parseInt: a sign at most, digits, no blanks around them, 32 bits. Python refuses to read
# thousands of digits, most of which may be zeros.
_JAVA_INTEGER = re.compile(r"([+-]?)0*(\d{1,10})")
_SHOWN = 200  # of a line that cannot be read
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1

# ModelInfo reads these with Integer.parseInt: any other text fails the load with 409.
STRICT_INTEGERS = (
    "job_queue_size",
    "batch_size",
    "max_dynamic_batch_size",
    "max_batch_delay",
    "max_idle_time",
    "required_memory_mb",
    "reserved_memory_mb",
    "minWorkers",
    "maxWorkers",
    "cpu.minWorkers",
    "cpu.maxWorkers",
    "gpu.minWorkers",
    "gpu.maxWorkers",
    "retry_threshold",
)
# PyModel.load logs a warning about these and goes on with the default.
LENIENT_INTEGERS = ("option.predict_timeout", "option.model_loading_timeout")


@dataclass(frozen=True)
class PropertyLine:
    """One key and its value, with the line (from 1) that the key stands on."""

    line: int
    key: str
    value: str


@dataclass(frozen=True)
class Problem:
    """A value that DJL Serving cannot use.

    Attributes
    ----------
    entry
        The key, the value and its line.
    expected
        What the value may be.
    fatal
        Whether the load fails (True), or DJL logs a warning and uses the default (False).
    """

    entry: PropertyLine
    expected: str
    fatal: bool

    def __str__(self) -> str:
        """Return one sentence without the place."""
        return f"{self.entry.key} is {self.entry.value!r}, but may only be {self.expected}"


@dataclass(frozen=True)
class Properties:
    """The settings of one model, with DJL Serving's defaults filled in.

    Attributes
    ----------
    engine
        ``engine``; None when the server is left to infer it from the files.
    min_workers, max_workers
        ``minWorkers`` and ``maxWorkers``; None when absent, and for a maximum below 1, which DJL
        ignores: the server then uses 1, and cores divided by OMP_NUM_THREADS.
    job_queue_size
        Requests that may wait.
    batch_size
        Requests of one batch; ``batch_size``, else ``max_dynamic_batch_size``.
    max_batch_delay_ms
        Milliseconds to wait for a batch to fill.
    max_idle_time_s
        Seconds after which a worker above the minimum is stopped.
    required_memory_mb
        MiB that must be available on top of the reserve; None when absent.
    reserved_memory_mb
        MiB that must remain available after the load; None for the server's own (500).
    retry_threshold
        Failures of a worker before the model is marked FAILED; None for the server's own (0).
    load_on_devices
        ``*``, a list such as ``0;1``, or None.
    predict_timeout_s, model_loading_timeout_s
        Seconds for one prediction and for one load.
    entry_point
        ``option.entryPoint``: a file of the model, a module, or a URL; None for model.py.
    handler
        ``option.handler``: the function to call; None for ``handle``.
    python_executable
        ``option.pythonExecutable``.
    env
        ``option.env``, taken apart.
    enable_venv, parallel_loading
        True only for the text ``true`` in any case, as Boolean.parseBoolean has it.
    model_name
        ``option.modelName``: what the log calls the model.
    options
        Every ``option.`` key, without the prefix.
    raw
        Every key as written.
    """

    engine: str | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    job_queue_size: int = 1000
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    max_idle_time_s: int = 60
    required_memory_mb: int | None = None
    reserved_memory_mb: int | None = None
    retry_threshold: int | None = None
    load_on_devices: str | None = None
    predict_timeout_s: int = 120
    model_loading_timeout_s: int = 240
    entry_point: str | None = None
    handler: str | None = None
    python_executable: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    enable_venv: bool = False
    parallel_loading: bool = False
    model_name: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, str] = field(default_factory=dict)

    @property
    def init_parameters(self) -> dict[str, str]:
        """Return what the handler finds in ``inputs.properties`` at initialisation.

        All keys, ``option.`` taken off, an option before a plain key of the same name, and without
        ``option.env`` (``PyModel.load``: ``pyEnv.addParameter``).
        """
        plain = {k: v for k, v in self.raw.items() if not k.startswith(OPTION_PREFIX)}
        return plain | {k: v for k, v in self.options.items() if k != "env"}


def read_properties(path: Path) -> Properties:
    """Read a serving.properties file.

    Parameters
    ----------
    path
        The file, or the folder that holds it. A model without one has all the defaults.

    Raises
    ------
    PropertiesError
        The file cannot be read, or DJL Serving would refuse the model because of a value.
    TextError
        It is longer than anybody writes one.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        # Properties.load(InputStream) reads ISO 8859-1, whatever the editor wrote.
        text = read_text(file).decode("latin-1")
    except FileNotFoundError:
        if file != path:
            return Properties()
        raise PropertiesError("The file does not exist", where=str(file)) from None
    except OSError as error:
        what = f"The file cannot be read: {error.strerror}"
        raise PropertiesError(what, where=str(file)) from error
    return parse_properties(text, where=str(file))


def parse_properties(text: str, *, where: str = FILE_NAME) -> Properties:
    r"""Read the text of a serving.properties file.

    Parameters
    ----------
    text
        The whole file, decoded as ISO 8859-1.
    where
        What errors call the file.

    Raises
    ------
    PropertiesError
        A malformed ``\u`` escape, or a value that makes DJL Serving refuse the model. The message
        has the line, the key, the value and what it may be.

    Examples
    --------
    >>> properties = parse_properties("engine=Python\nbatch_size: 8\noption.env=A=1,B=2")
    >>> properties.batch_size, properties.max_idle_time_s, dict(properties.env)
    (8, 60, {'A': '1', 'B': '2'})
    """
    entries = parse_entries(text, where=where)
    for problem in find_problems(entries):
        if problem.fatal:
            raise PropertiesError(
                str(problem),
                where=f"{where}, line {problem.entry.line}",
                remedy=f"write {problem.entry.key}=... with {problem.expected}",
            )
    return properties_of(entries)


def parse_entries(
    text: str, *, where: str = FILE_NAME, skip_malformed: bool = False
) -> tuple[PropertyLine, ...]:
    """Split the text into keys and values by the syntax of java.util.Properties.

    Duplicates are kept, in order; the last one of a key is the one that counts. A malformed line
    is an error, or left out.
    """
    entries = []
    for number, line in _logical_lines(text):
        key, value = _split(line)
        try:
            entries.append(PropertyLine(number, _unescape(key), _unescape(value)))
        except ValueError:
            if skip_malformed:
                continue
            raise PropertiesError(
                "A \\u escape needs four hexadecimal digits",
                where=f"{where}, line {number}: {line[:_SHOWN]}",
                remedy="write \\uXXXX with four hexadecimal digits, or \\\\ for one backslash",
            ) from None
    return tuple(entries)


def find_problems(entries: tuple[PropertyLine, ...]) -> list[Problem]:
    """Return every value that DJL Serving cannot use, in the order of the file."""
    # Only the last entry of a key is ever read.
    last = {entry.key: entry for entry in entries}
    strict = set(STRICT_INTEGERS) | {f"{OPTION_PREFIX}{key}" for key in _MODEL_PROPERTIES}
    problems = [
        Problem(entry, "a whole number without blanks around it", entry.key in strict)
        for key, entry in last.items()
        if (key in strict or key in LENIENT_INTEGERS) and _integer(entry.value) is None
    ]
    return sorted(problems, key=lambda problem: problem.entry.line)


# ModelInfo asks the loaded model for these, whose properties hold the options as well.
_MODEL_PROPERTIES = ("minWorkers", "maxWorkers", "cpu.minWorkers", "cpu.maxWorkers")


def properties_of(entries: Iterable[PropertyLine]) -> Properties:
    """Return the typed settings; a value that DJL cannot use counts as absent."""
    raw = {entry.key: entry.value for entry in entries}
    options = {
        key[len(OPTION_PREFIX) :]: value
        for key, value in raw.items()
        if key.startswith(OPTION_PREFIX)
    }
    model = raw | options

    def number(source: dict[str, str], *keys: str) -> int | None:
        found = (_integer(source[key]) for key in keys if key in source)
        return next((value for value in found if value is not None), None)

    def number_or(default: int, *keys: str) -> int:
        value = number(raw, *keys)
        return default if value is None else value

    most = number(model, "cpu.maxWorkers", "maxWorkers")
    return Properties(
        engine=raw.get("engine"),
        min_workers=number(model, "cpu.minWorkers", "minWorkers"),
        max_workers=most if most is not None and most > 0 else None,
        job_queue_size=number_or(1000, "job_queue_size"),
        batch_size=number_or(1, "batch_size", "max_dynamic_batch_size"),
        max_batch_delay_ms=number_or(100, "max_batch_delay"),
        max_idle_time_s=number_or(60, "max_idle_time"),
        required_memory_mb=number(raw, "required_memory_mb"),
        reserved_memory_mb=number(raw, "reserved_memory_mb"),
        retry_threshold=number(model, "retry_threshold"),
        load_on_devices=raw.get("load_on_devices"),
        # PyEnv takes 0 for "not set".
        predict_timeout_s=number(options, "predict_timeout") or 120,
        model_loading_timeout_s=number(options, "model_loading_timeout") or 240,
        entry_point=options.get("entryPoint"),
        handler=options.get("handler"),
        python_executable=options.get("pythonExecutable"),
        env=_environment(options.get("env", "")),
        enable_venv=_boolean(options.get("enable_venv")),
        parallel_loading=_boolean(options.get("parallel_loading")),
        model_name=options.get("modelName"),
        options=options,
        raw=dict(raw),
    )


def _environment(text: str) -> dict[str, str]:
    # As PyModel takes it apart: at every comma, so that no value can hold one.
    pairs = (item.split("=", 1) for item in text.split(","))
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) > 1}


def _boolean(text: str | None) -> bool:
    return text is not None and text.lower() == "true"


def _integer(text: str) -> int | None:
    match = _JAVA_INTEGER.fullmatch(text)
    if match is None:
        return None
    value = int(match[1] + match[2])
    return value if _INT_MIN <= value <= _INT_MAX else None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the first natural line and the joined text of each logical line."""
    lines = enumerate(_LINE_END.split(text), start=1)
    for number, natural in lines:
        line = natural.lstrip(_BLANK)
        # To Java, a line that is only continued has not begun: what follows may be a comment.
        if line in ("", "\\") or line[0] in "#!":
            continue
        pieces = [line]
        backslashes = _backslashes(line)
        while backslashes % 2:
            # A backslash on the last line is dropped, as Java does.
            _, following = next(lines, (0, ""))
            following = following.lstrip(_BLANK)
            pieces[-1] = pieces[-1][:-1]
            pieces.append(following)
            own = _backslashes(following)
            backslashes = own if own < len(following) else backslashes - 1 + own
        yield number, "".join(pieces)


def _backslashes(line: str) -> int:
    """Return how many backslashes a line ends with."""
    return len(line) - len(line.rstrip("\\"))


def _split(line: str) -> tuple[str, str]:
    end = 0
    while end < len(line) and line[end] not in "=:" + _BLANK:
        end += 2 if line[end] == "\\" else 1
    value = line[end:].lstrip(_BLANK)
    if value[:1] in ("=", ":"):
        value = value[1:].lstrip(_BLANK)
    return line[:end], value


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    pieces = []
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\" and position < len(text):
            character = text[position]
            position += 1
            if character == "u":
                character = _unicode(text[position : position + 4])
                position += 4
            else:
                character = _ESCAPES.get(character, character)
        pieces.append(character)
    # Java keeps UTF-16 code units: two escapes may be one character.
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unicode(digits: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{4}", digits):
        raise ValueError(digits)
    return chr(int(digits, 16))
