"""What a model wants its parents to have imported."""

from __future__ import annotations

import json
import os
import re

MANIFEST = "manifest.json"
_SETTING = re.compile(rb"^\s*option\.preload\s*[=:]\s*(.*?)\s*$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_PROCESSES = re.compile(rb"^\s*option\.processes\s*[=:]\s*(\w+)\s*$", re.MULTILINE)


def read_preload(model_dir: str) -> list[str]:
    """Return the modules to preload for a model.

    ``option.preload`` in serving.properties, names separated by commas (``none`` for no module),
    decides; without it what packing found and wrote in the manifest: the modules that the model
    asks for, and the names of all libraries that they bring in, which is what tells related models.
    """
    setting = _last(_SETTING, _properties(model_dir))
    if setting is not None:
        text = setting.decode("latin-1")
        return [] if text == "none" else _NAME.findall(text)
    try:
        with open(os.path.join(model_dir, MANIFEST), "rb") as file:  # noqa: PTH118, PTH123
            measured = json.load(file)["measured"]
        names = [*measured.get("imports", ()), *measured["preload"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [name for name in names if isinstance(name, str)]


def read_processes(model_dir: str) -> int:
    """Return the number of processes over which a model's slots are spread.

    ``option.processes`` in serving.properties: 1 by default, ``auto`` for the number of cores.
    """
    text = _last(_PROCESSES, _properties(model_dir))
    if text == b"auto":
        return len(os.sched_getaffinity(0))
    return max(1, int(text)) if text and text.isdigit() else 1


def _properties(model_dir: str) -> bytes:
    try:
        with open(os.path.join(model_dir, "serving.properties"), "rb") as file:  # noqa: PTH118, PTH123
            return file.read()
    except OSError:
        return b""


def _last(pattern: re.Pattern[bytes], text: bytes) -> bytes | None:
    found = pattern.findall(text)
    return found[-1] if found else None
