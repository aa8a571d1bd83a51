"""Rules about how serving.properties is written: names that nobody reads, and quotes.

Sources of the names, all of deepjavalibrary/djl-serving at v0.36.0. For what the server reads:
ModelInfo.java (loadServingProperties, configPerModelSettings, checkAvailableMemory), PyModel.java
(load), PyProcess.java, RollingBatch.java and LmiConfigRecommender.java; for what djl_python's own
handlers read: sklearn_handler.py, xgboost_handler.py and properties.py; for SageMaker's variables:
SageMakerCompatibility.java. The last three options are read by mmekit_runtime's slots, and the
three before them when a package is checked or packed. Every other ``option.`` name is for whoever
wrote the handler.
"""

from __future__ import annotations

import difflib
import re
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from mmekit.archive.properties import FILE_NAME, LENIENT_INTEGERS, OPTION_PREFIX, STRICT_INTEGERS
from mmekit.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.properties import PropertyLine
    from mmekit.archive.rules.subject import Subject


_WORKERS = ("minWorkers", "maxWorkers")
# ModelInfo reads these from the file, under this very name.
_OF_SERVER = (
    "engine",
    "job_queue_size",
    "batch_size",
    "max_dynamic_batch_size",
    "max_batch_delay",
    "max_idle_time",
    "load_on_devices",
    "required_memory_mb",
    "reserved_memory_mb",
    "gpu.required_memory_mb",
    "gpu.reserved_memory_mb",
    "application",
    "translator",
    "translatorFactory",
    "batchifier",
)
# These are asked of the loaded model, which has the options among its properties.
_OF_MODEL = (
    *_WORKERS,
    *(f"{device}.{key}" for device in ("cpu", "gpu", "nc") for key in _WORKERS),
    "retry_threshold",
    "log_request_metric",
    "metrics_aggregation",
    "use_passive_workers",
    "rolling_batch",
    "max_rolling_batch_size",
)
_OPTIONS = (
    # PyModel.load
    "entryPoint",
    "handler",
    "pythonExecutable",
    "env",
    "predict_timeout",
    "model_loading_timeout",
    "parallel_loading",
    "enable_venv",
    "mpi_mode",
    "async_mode",
    "tensor_parallel_degree",
    "pipeline_parallel_degree",
    "modelName",
    # the server's and the handlers of large language models
    "model_id",
    "rolling_batch",
    "max_rolling_batch_size",
    "trust_remote_code",
    "output_formatter",
    "enable_streaming",
    "enable_lora",
    "enable_stateful_sessions",
    "lmcache_auto_config",
    # sklearn_handler and xgboost_handler
    "model_format",
    "skops_trusted_types",
    "trust_insecure_model_files",
    "default_accept",
    # mme check and mme pack
    "accepted_secrets",
    "layers",
    "shared",
    # worker slots
    "park_after",
    "preload",
    "processes",
)
_KNOWN = frozenset(
    {*_OF_SERVER, *_OF_MODEL, *(OPTION_PREFIX + name for name in (*_OF_MODEL, *_OPTIONS))}
)
# What SageMaker's users set in the container's environment, where the server translates it.
_OF_SAGEMAKER = MappingProxyType(
    {
        "SAGEMAKER_NUM_MODEL_WORKERS": "maxWorkers",
        "SAGEMAKER_MODEL_SERVER_WORKERS": "maxWorkers",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "option.predict_timeout",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "option.predict_timeout",
        "SAGEMAKER_STARTUP_TIMEOUT": "option.model_loading_timeout",
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "option.default_accept",
    }
)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_OF_VARIABLES = ("OPTION_", "SERVING_", "ARGS_")
_NEAR_PLAIN, _NEAR_OPTION = 0.75, 0.85
_QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)
_ENV = "option.env"
_MOST_UNKNOWN = 100  # a file with more of them is none that somebody misspelt


def _letters(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.removeprefix(OPTION_PREFIX).lower())


_BY_LETTERS = MappingProxyType(
    {
        **{_letters(name): OPTION_PREFIX + name for name in _OPTIONS},
        **{_letters(name): name for name in (*_OF_SERVER, *_OF_MODEL)},
    }
)


def is_known(key: str) -> bool:
    """Return whether DJL Serving or mmekit_runtime reads a key."""
    return key in _KNOWN


def is_variable(name: str) -> bool:
    """Return whether a name looks like that of an environment variable."""
    return _VARIABLE.fullmatch(name) is not None


def is_of_server(name: str) -> bool:
    """Return whether the server takes a setting from an environment variable of this name."""
    return name.startswith(_OF_VARIABLES) or name in _OF_SAGEMAKER


def meant_by(key: str) -> str | None:
    """Return the key that was meant by one that nobody knows; None when none is near.

    Examples
    --------
    >>> meant_by("maxWorker"), meant_by("option.entry_point"), meant_by("SERVING_BATCH_SIZE")
    ('maxWorkers', 'option.entryPoint', 'batch_size')
    >>> meant_by("option.depth") is None
    True
    """
    if key in _OF_SAGEMAKER:
        return _OF_SAGEMAKER[key]
    name, is_option = key, key.startswith(OPTION_PREFIX)
    for prefix in _OF_VARIABLES:
        name = name.removeprefix(prefix)
    letters = _letters(name)
    if letters in _BY_LETTERS:
        return _BY_LETTERS[letters]
    if name != key:
        return OPTION_PREFIX + name.lower()
    if is_variable(key):
        return None
    # A handler may have options of its own that only resemble these.
    cutoff = _NEAR_OPTION if is_option else _NEAR_PLAIN
    near = difflib.get_close_matches(letters, _BY_LETTERS, n=1, cutoff=cutoff)
    return _BY_LETTERS[near[0]] if near else None


def names(subject: Subject) -> Iterator[Finding]:
    """Expect names that somebody reads, letter by letter."""
    is_python = subject.properties.engine in (None, "Python")
    unknown = (entry for entry in subject.entries if not is_known(entry.key))
    for entry in islice(unknown, _MOST_UNKNOWN):
        finding = _misspelt(subject, entry)
        if finding is None and is_python and not entry.key.startswith(OPTION_PREFIX):
            finding = _unknown(subject, entry)
        if finding is not None:
            yield finding


def variables(subject: Subject) -> Iterator[Finding]:
    """Expect what the server reads from its own environment not to be in the worker's."""
    for name in subject.properties.env:
        if is_of_server(name):
            meant = meant_by(name) or "option.entryPoint"
            yield Finding(
                "warning",
                "server-variable",
                f"{name} in option.env reaches the worker; only the server would understand it, "
                "from the container's environment (and OPTION_ENTRY_POINT not even there).",
                f"Write {meant}={subject.properties.env[name]} in serving.properties instead.",
                subject.place_of(_ENV),
            )


def quotes(subject: Subject) -> Iterator[Finding]:
    """Expect values without quotes, which Java keeps."""
    for entry in subject.entries:
        value = without_quotes(entry)
        # Of numbers, bad_values says it.
        if value != entry.value and entry.key not in (*STRICT_INTEGERS, *LENIENT_INTEGERS):
            yield Finding(
                "warning",
                "quoted-value",
                f"The quotes in {entry.key}={entry.value} are part of the value: Java's "
                "properties have none.",
                f"Write {entry.key}={value}",
                subject.place(FILE_NAME, entry.line),
            )


def without_quotes(entry: PropertyLine) -> str:
    """Return a value without the quotes around it, or around what is in option.env."""
    value = _unquoted(entry.value)
    if entry.key != _ENV:
        return value
    pairs = (_unquoted(item.strip()).partition("=") for item in value.split(","))
    return ",".join(f"{name.strip()}{sign}{_unquoted(one.strip())}" for name, sign, one in pairs)


def _unquoted(text: str) -> str:
    match = _QUOTED.fullmatch(text.strip())
    return text if match is None else match[2]


def _misspelt(subject: Subject, entry: PropertyLine) -> Finding | None:
    meant = meant_by(entry.key)
    if meant is None:
        return None
    return Finding(
        "warning",
        "misspelt-key",
        f"DJL Serving does not know {entry.key}"
        + (" in a file; it is an environment variable" if is_variable(entry.key) else "")
        + f"; the key is {meant}.",
        f"Write {meant}={entry.value}",
        subject.place(FILE_NAME, entry.line),
    )


def _unknown(subject: Subject, entry: PropertyLine) -> Finding:
    where = subject.place(FILE_NAME, entry.line)
    if is_variable(entry.key):
        return Finding(
            "warning",
            "variable-as-key",
            f"{entry.key} looks like an environment variable, and a line of this file sets none.",
            f"Write option.env={entry.key}={entry.value}; several are separated by commas.",
            where,
        )
    return Finding(
        "warning",
        "unknown-key",
        f"DJL Serving does not know {entry.key}, nor a similar key: only a handler "
        "may read it, when it is initialised.",
        f"Write option.{entry.key}={entry.value} if your handler reads {entry.key}, or remove the "
        "line.",
        where,
    )
