"""A model's own script: where it is, how it is imported, and which functions it has.

DJL 0.36's decorators, which it may import, are made for engines that came before them.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Function = TypeVar("Function", bound=Callable[..., object])

MODEL_FILE = "model.py"
CODE_FOLDER = "code"
PROGRAM_VARIABLE = "SAGEMAKER_PROGRAM"
DEFAULT_PROGRAM = "inference.py"

_DECORATED = ("init_handler", "input_formatter", "prediction_handler", "output_formatter")
_OF_DJL = {
    "model_fn": (("model_dir",),),
    "input_fn": (("request_body", "content_type"), ("request_body", "request_content_type")),
    "predict_fn": (("input_data", "model"),),
    "output_fn": (("prediction", "accept"), ("prediction", "response_content_type")),
}
_SAGEMAKER = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")

# Where 0.36 has them; 0.34 has the two formatters alone.
_DECORATORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "djl_python.input_parser": ("input_formatter", "prediction_handler", "init_handler"),
        "djl_python.output_formatter": ("output_formatter",),
    }
)
_FIRST_WITH_ALL = "djl_python.sklearn_handler"


class Script:
    """A script, imported once.

    Attributes
    ----------
    decorated
        The functions that carry DJL's decorators, by the decorators' names.
    functions
        SageMaker's functions, by name.
    handle
        A function of the script's own that answers DJL's Input; None when it has none.
    """

    def __init__(self, module: ModuleType) -> None:
        self.decorated = _decorated(module)
        self.functions = {
            name: function
            for name in _SAGEMAKER
            if callable(function := getattr(module, name, None))
        }
        self.handle: Callable[[Any], Any] | None = getattr(module, "handle", None)

    @classmethod
    def load(cls, folder: Path, name: str) -> Script:
        """Import a script of a model folder.

        Its module is called as the file is, and is found again under that name, so that a pickle
        may hold its classes. The folder that it lies in comes first on sys.path, as SageMaker's
        containers put ``code`` there (sagemaker_inference/environment.py).
        """
        return cls(_imported(folder / name))

    @classmethod
    def as_of_djl(cls, folder: Path) -> Script:
        """Run model.py as DJL 0.36 does, under a name of its own.

        Of SageMaker's functions those count whose parameters have the names that DJL looks for
        (SAGEMAKER_SIGNATURES in djl_python/utils.py).
        """
        from djl_python.service_loader import load_model_service

        script = cls(load_model_service(str(folder), MODEL_FILE, "-1").module)
        script.functions = {
            name: function
            for name, function in script.functions.items()
            if _parameters(function) in _OF_DJL.get(name, ())
        }
        return script


def find_script(folder: Path) -> str | None:
    """Return the script of a model folder by SageMaker's and DJL's rules; None without one.

    DJL runs model.py; SageMaker the file in ``code`` that SAGEMAKER_PROGRAM names, inference.py
    otherwise (sagemaker_inference/environment.py).
    """
    if (folder / MODEL_FILE).is_file():
        return MODEL_FILE
    program = os.environ.get(PROGRAM_VARIABLE) or DEFAULT_PROGRAM
    name = f"{CODE_FOLDER}/{program}"
    return name if (folder / name).is_file() else None


def _imported(path: Path) -> ModuleType:
    known = sys.modules.get(path.stem)
    # The engine may have run model.py already: one module, and its classes once.
    if known is not None and _same_file(getattr(known, "__file__", None), path):
        return known
    parent = str(path.parent)
    if parent not in sys.path:
        sys.path.insert(0, parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(path.stem, None)
        raise
    return module


def _same_file(file: str | None, path: Path) -> bool:
    return file is not None and Path(file).is_file() and Path(file).samefile(path)


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _decorated(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Find what djl_python/service_loader.py's find_decorated_function finds."""
    found: dict[str, Callable[..., Any]] = {}
    for name in dir(module):
        value = getattr(module, name)
        for decorator in _DECORATED:
            if callable(value) and getattr(value, f"is_{decorator}", False):
                found.setdefault(decorator, value)
    return found


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
