"""What a model shares with others, loaded in the process that the measured one is forked from.

A part of `_observer`, which imports it by its place: standard library and the runtime only.
"""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit_runtime.slots.shared_body import LoadedBody


def load(job: dict[str, Any], model_folder: str) -> tuple[LoadedBody | None, str | None]:
    """Return what load_shared has made, or why this process cannot have it.

    It is loaded as a template process does it, from which many models are forked.
    """
    from mmekit_runtime.slots import shared_body, template_process

    threads = template_process.thread_count()
    engine = os.path.join(job["engine"], "djl_python_engine.py")  # noqa: PTH118  as a worker has it
    arguments = [engine, "--entry-point", job["entry_point"]]
    body = shared_body.SharedBody.of_worker(arguments, os.environ, model_folder)
    if body is None:
        return None, "its code cannot be read"
    try:
        body.load()
    except shared_body.CannotShare as problem:
        return None, f"load_shared {problem}"
    except BaseException as error:  # noqa: BLE001  it fails again where the model is loaded
        if isinstance(error, TypeError) and "no handler with a load_shared" in str(error):
            return None, str(error)
        said = "".join(traceback.format_exception_only(type(error), error)).strip()
        return None, f"load_shared failed before the fork: {said}"
    if template_process.thread_count() > threads:
        return None, "load_shared starts threads, and a process with threads cannot be forked"
    return shared_body.loaded(body.token), None


def hand_over(body: LoadedBody | None, handler: Any) -> None:
    """Give a handler in a forked process what was loaded before the fork."""
    if body is not None:
        body.set_environment()
        handler.receive_shared(body.shared)
