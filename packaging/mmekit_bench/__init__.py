"""Load on an endpoint or a container, and what it found: percentiles, plots, comparisons.

`plan` says what a load is to be, `load` has it put on by `generator`, a process of its own, whose
`loops` ask through `connections`. `recording` makes figures of the answers, the percentiles by
`histogram`; `result` keeps them in a file, `comparison` holds two side by side, `report` and `plot`
show them. `clients` is something else: many clients with one call each. `phases` is where a call's
time goes inside a container.

What this exports is imported with its first use: the commands of this wing are hung on `mme`
whether they are asked for or not, and what they need may not be installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmekit_bench.load import Target, Tool, measure, put_load
    from mmekit_bench.plan import Destination, LoadPlan, Payload, listed_targets
    from mmekit_bench.result import Load, LoadResult, read_result

__all__ = [
    "Destination",
    "Load",
    "LoadPlan",
    "LoadResult",
    "Payload",
    "Target",
    "Tool",
    "listed_targets",
    "measure",
    "put_load",
    "read_result",
]

_MODULES = {
    "load": ("Target", "Tool", "measure", "put_load"),
    "plan": ("Destination", "LoadPlan", "Payload", "listed_targets"),
    "result": ("Load", "LoadResult", "read_result"),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"mmekit_bench.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
