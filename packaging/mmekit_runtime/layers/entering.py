"""A worker's process, while Python starts: it gets its model's layers, or says what is missing."""

from __future__ import annotations

import os
import sys
import time

from .missing import FAILED_VARIABLE
from .providing import provide

ENTRY_POINT, MODEL_DIR = "--entry-point", "--model-dir"
_LONG_S = 1.0
_THIN_ROOM, _ROOM = ("mmekit_layers",), ("mmekit_runtime", "layers")


def get_ready(model_dir: str) -> None:
    """Have the layers on this process's path, and in the environment of what it becomes.

    Where one is missing, this process becomes an engine that answers the load with the reason.
    """
    began = time.monotonic()
    try:
        provided = provide(model_dir, os.environ)
    except Exception as error:  # noqa: BLE001  the load says it, whatever it is
        # The class itself is in a module that a stub does without.
        named = type(error).__name__
        reason = str(error) if named == "LayerError" else f"no layers: {named}: {error}"
        _answer(" ".join(reason.split()), model_dir)
    else:
        took_s = time.monotonic() - began
        if took_s > _LONG_S:
            os.write(1, b"INFO::mmekit: the model's layers are here after %.1f s\n" % took_s)
        if provided is not None:
            os.environ.update(provided.variables(os.environ, model_dir))
            sys.path[:] = provided.paths(sys.path, model_dir)


def _answer(reason: str, model_dir: str) -> None:
    os.write(1, f"ERROR::mmekit: {reason}\n".encode("utf-8", "replace"))
    arguments = list(sys.orig_argv)
    # This room as the archive has it, under either name.
    rooms = [os.path.join(model_dir, *names) for names in (_THIN_ROOM, _ROOM)]
    room = next((one for one in rooms if os.path.isdir(one)), os.path.dirname(__file__))
    # In the model's folder the engine would import model.py, which needs what is missing.
    missing = os.path.join(room, "missing.py")
    for option, value in ((ENTRY_POINT, missing), (MODEL_DIR, room)):
        if option in arguments:
            arguments[arguments.index(option) + 1] = value
        else:
            arguments += [option, value]
    environ = {**os.environ, FAILED_VARIABLE: reason}
    os.execve(sys.executable, arguments, environ)  # noqa: S606
