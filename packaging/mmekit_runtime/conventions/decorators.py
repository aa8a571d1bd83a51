"""DJL 0.36's decorators, for engines that came before them."""

from __future__ import annotations

import importlib.util
import sys
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Function = TypeVar("Function", bound=Callable[..., object])

# Where 0.36 has them; 0.34 has the two formatters alone.
_DECORATORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "djl_python.input_parser": ("input_formatter", "prediction_handler", "init_handler"),
        "djl_python.output_formatter": ("output_formatter",),
    }
)
_FIRST_WITH_ALL = "djl_python.sklearn_handler"


def provide_decorators() -> None:
    """Make the decorators importable where the engine is older than they are.

    What stands in has nothing else. The engine's own module imports pydantic and requests, and
    would cost every load 0.2 s and every model some MiB for four functions that mark a fifth.
    """
    has_engine = importlib.util.find_spec("djl_python") is not None
    if not has_engine or importlib.util.find_spec(_FIRST_WITH_ALL) is not None:
        return
    for name, decorators in _DECORATORS.items():
        module = sys.modules.setdefault(name, ModuleType(name))
        for decorator in decorators:
            if not hasattr(module, decorator):
                setattr(module, decorator, _decorator(decorator))


def _decorator(name: str) -> Callable[[Function], Function]:
    """Return what djl_python/input_parser.py calls ``name``: it marks a function."""

    def decorate(function: Function) -> Function:
        setattr(function, f"is_{name}", True)
        return function

    decorate.__name__ = decorate.__qualname__ = name
    return decorate
