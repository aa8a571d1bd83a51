"""Runs when Python starts in a model's folder; packing stores it there as sitecustomize.py.

DJL Serving puts the model's folder on PYTHONPATH, so every worker imports this before the engine.
Here the model's layers are got ready, and a worker becomes a worker slot. Another sitecustomize, of
the image or the environment, runs as it would without this one.
"""

import os
import sys

OWN = os.path.dirname(os.path.abspath(__file__))


def _hand_on() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    others = [path for path in sys.path if os.path.abspath(path) != OWN]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _get_layers_ready() -> None:
    if not os.path.exists(os.path.join(OWN, "layers.json")):
        return
    try:
        # A thin archive has this room alone; the runtime is one of its layers.
        from mmekit_layers.holding import kept_runtime
    except ImportError:
        from mmekit_runtime.layers.entering import get_ready
    else:
        # Where that is kept its modules are compiled, and those of this archive need not be.
        if kept := kept_runtime(OWN, os.environ):
            sys.path.insert(0, kept)
            from mmekit_runtime.layers.entering import get_ready
        else:
            from mmekit_layers.entering import get_ready  # type: ignore[no-redef]
    get_ready(OWN)


def _become_slot() -> None:
    try:
        from mmekit_runtime.slots.stub import enter
    except ImportError as error:
        # An archive that has layers only.
        if error.name != "mmekit_runtime.slots":
            print(f"INFO::mmekit: plain engine, no worker slot: {error}", flush=True)  # noqa: T201
    else:
        enter()


_IS_ENGINE = any(argument.endswith("djl_python_engine.py") for argument in sys.orig_argv)
# The engine that says what is missing is neither given it again nor a slot.
if _IS_ENGINE and "MMEKIT_LAYERS_FAILED" not in os.environ:
    try:
        _get_layers_ready()
    except ImportError as error:
        print(f"ERROR::mmekit: no layers: {error}", flush=True)  # noqa: T201
    _become_slot()
_hand_on()
