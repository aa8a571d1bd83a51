"""What a model shares with others, loaded in the process that the measured one is forked from.

A part of `_observer`, which imports it by its place: standard library and the runtime only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def load(job: dict[str, Any]) -> tuple[tuple[Any] | None, str | None]:
    """Return what load_shared returns, in a tuple, or why this process cannot have it.

    The code is a copy without anything else of the model's, and forgotten afterwards: that is how
    a template process does it, which many models are forked from.
    """
    from djl_python.service_loader import load_model_service

    from mmekit_runtime.slots import template_process

    threads = template_process.thread_count()
    with _in(job["code"]):
        try:
            service = load_model_service(job["code"], job["entry_point"], "-1")
            handler = getattr(service.module, job["handler"], None)
            shares = getattr(handler, "shares", None)
            if shares is None or not shares():
                return None, "its handler has no load_shared of its own"
            made = handler.load_shared(Path(job["shared"]))  # type: ignore[union-attr]
        except BaseException as error:  # noqa: BLE001  it fails again where the model is loaded
            said = "".join(traceback.format_exception_only(type(error), error)).strip()
            return None, f"load_shared failed before the fork: {said}"
    if template_process.thread_count() > threads:
        return None, "load_shared starts threads, and a process with threads cannot be forked"
    return (made,), None


def hand_over(body: tuple[Any] | None, handler: Any) -> None:
    """Give a handler in a forked process what was loaded before the fork."""
    if body is not None:
        handler.receive_shared(*body)


@contextlib.contextmanager
def _in(code: str) -> Iterator[None]:
    before = os.getcwd()  # noqa: PTH109
    sys.path.insert(0, code)
    os.chdir(code)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(code)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if str(file).startswith(f"{code}{os.sep}"):
                del sys.modules[name]
        for path in [one for one in sys.path_importer_cache if one.startswith(code)]:
            del sys.path_importer_cache[path]
