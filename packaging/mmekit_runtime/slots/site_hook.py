"""Runs when Python starts in a model's folder; packing stores it there as sitecustomize.py.

DJL Serving puts the model's folder on PYTHONPATH, so every worker imports this before the engine.
A worker becomes a worker slot here. Another sitecustomize, of the image or the environment, runs
as it would without this one.
"""

import os
import sys


def _hand_on() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    own = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    others = [path for path in sys.path if os.path.abspath(path) != own]  # noqa: PTH100
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if any(argument.endswith("djl_python_engine.py") for argument in sys.orig_argv):
    try:
        from mmekit_runtime.slots.stub import enter
    except ImportError as error:
        print(f"INFO::mmekit: plain engine, no worker slot: {error}", flush=True)  # noqa: T201
    else:
        enter()
_hand_on()
