"""The entry point of a worker whose model's layers are not to be had: its answer says so."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FAILED_VARIABLE = "MMEKIT_LAYERS_FAILED"
"""Why, in one line."""


def handle(inputs: Any) -> Any:  # noqa: ARG001
    """Answer what the engine is asked first, which is to load the model."""
    from djl_python import Output

    reason = os.environ.get(FAILED_VARIABLE, "a layer is missing")
    return Output().error(reason, message=reason)


def __getattr__(name: str) -> Any:
    """Have that answer under the name of any function that a model may be asked for."""
    if name.startswith("__"):
        raise AttributeError(name)
    return handle
