"""What a model asks of its processes, in its settings and its manifest."""

from __future__ import annotations

import json
import os
import re

from mmekit_runtime.texts import MANIFEST_BYTES, PROPERTIES_BYTES, read_text

MANIFEST = "manifest.json"
PARK_VARIABLE = "MMEKIT_PARK_AFTER_S"
CONCURRENCY_VARIABLE = "MMEKIT_CONCURRENCY"
PARK_AFTER_S = 300.0
SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]*)?")
"""What option.park_after may be."""

_NAME = re.compile(r"[A-Za-z_][\w.]*")
PROCESSES = re.compile(r"auto|0*[1-9][0-9]{0,3}")
"""What option.processes may be."""


def read_preload(model_dir: str) -> list[str]:
    """Return the modules to preload for a model.

    ``option.preload`` in serving.properties, names separated by commas (``none`` for no module),
    decides; without it what packing found and wrote in the manifest: the modules that the model
    asks for, and the names of all libraries that they bring in, which is what tells related models.
    """
    setting = _setting(model_dir, "option.preload")
    if setting is not None:
        return [] if setting == "none" else _NAME.findall(setting)
    try:
        text = read_text(os.path.join(model_dir, MANIFEST), MANIFEST_BYTES)  # noqa: PTH118
        measured = json.loads(text)["measured"]
        names = [*measured.get("imports", ()), *measured["preload"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str)]


def read_processes(model_dir: str) -> int | None:
    """Return the number of processes over which a model's slots are spread.

    ``option.processes`` in serving.properties: None, as many as its requests need, is ``auto`` and
    the default.
    """
    text = _setting(model_dir, "option.processes") or "auto"
    return int(text) if PROCESSES.fullmatch(text) and text != "auto" else None


def read_concurrency(environ: dict[str, str]) -> int:
    """Return how many containers this one plays, which have a process for each request.

    ``MMEKIT_CONCURRENCY``, which `mme up` sets on a serverless endpoint; 1 on all others.
    """
    text = environ.get(CONCURRENCY_VARIABLE, "").strip()
    return int(text) if PROCESSES.fullmatch(text) and text != "auto" else 1


def read_required_bytes(model_dir: str) -> int:
    """Return what packing has found that one process of a model takes; 0 where nobody measured."""
    text = _setting(model_dir, "required_memory_mb") or ""
    return int(text) << 20 if PROCESSES.fullmatch(text) and text != "auto" else 0


def read_park_after(model_dir: str, environ: dict[str, str]) -> float:
    """Return the seconds without a request after which a model gives back its process; 0: never.

    ``option.park_after`` in serving.properties, or else `PARK_VARIABLE` in the environment.
    """
    for text in (_setting(model_dir, "option.park_after"), environ.get(PARK_VARIABLE)):
        if text is not None and SECONDS.fullmatch(text.strip()):
            return float(text)
    return PARK_AFTER_S


def _setting(model_dir: str, name: str) -> str | None:
    """Return the last value of a key in serving.properties, without the blanks around it."""
    try:
        file = os.path.join(model_dir, "serving.properties")  # noqa: PTH118
        text = read_text(file, PROPERTIES_BYTES).decode("latin-1")
    except (OSError, ValueError):
        return None
    # As Java reads it, but for lines that go on in the next one and for escapes.
    line = rf"^[ \t\f]*{re.escape(name)}(?:[ \t\f]*[=:]|[ \t\f]|$)(.*)$"
    found = re.findall(line, text.replace("\r", "\n"), re.MULTILINE)
    return found[-1].strip() if found else None
