"""DJL 0.36's decorators, for engines that came before them."""

from __future__ import annotations

import importlib.util
import sys
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = TypeVar("Function", bound=Callable[..., object])

# Where 0.36 has them; 0.34 has the two formatters alone.
_DECORATORS = MappingProxyType(
    {
        "djl_python.input_parser": ("input_formatter", "prediction_handler", "init_handler"),
        "djl_python.output_formatter": ("output_formatter",),
    }
)
_FIRST_WITH_ALL = "djl_python.sklearn_handler"


def provide_decorators() -> None:
    """Make the decorators importable where the engine is older than they are.

    What is not a decorator still comes from the engine's module. That one imports pydantic and
    requests, which 0.2 s of every load and some MiB of every model would go to.
    """
    has_engine = importlib.util.find_spec("djl_python") is not None
    if not has_engine or importlib.util.find_spec(_FIRST_WITH_ALL) is not None:
        return
    for name, decorators in _DECORATORS.items():
        loaded = sys.modules.get(name)
        module = loaded if loaded is not None else _Stand(name)
        for decorator in decorators:
            if loaded is None or not hasattr(loaded, decorator):
                setattr(module, decorator, _decorator(decorator))
        sys.modules[name] = module


class _Stand(ModuleType):
    """A module of the engine's that is imported when something else is asked of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.util.find_spec(name)

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        if spec is None or spec.loader is None or name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        decorators = {one: getattr(self, one) for one in _DECORATORS[self.__name__]}
        real = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(real)
        self.__dict__.update(vars(real) | decorators)
        return self.__dict__[name]


def _decorator(name: str) -> Callable[[Function], Function]:
    """Return what djl_python/input_parser.py calls ``name``: it marks a function."""

    def decorate(function: Function) -> Function:
        setattr(function, f"is_{name}", True)
        return function

    decorate.__name__ = decorate.__qualname__ = name
    return decorate
