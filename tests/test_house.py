"""The house as docs/architecture.md draws it: which wing may know which; a name, a thing."""

import ast
import collections
import graphlib
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[1] / "packaging"

UNDER_TWO_NAMES = PACKAGING / "mmekit_runtime" / "layers"
"""A thin archive has it alone, and calls it mmekit_layers: its imports are relative."""

MAY_KNOW = {
    "mmekit_runtime": (),
    "mmekit": ("mmekit_runtime",),
    "mmekit_local": ("mmekit", "mmekit_runtime"),
    "mmekit_bench": ("mmekit", "mmekit_runtime"),
}
ROOMS_MAY_KNOW = {
    "mmekit_local.http": (),
    "mmekit_local.server": ("http",),
    "mmekit_local.sagemaker": ("http",),
    "mmekit_local.containers": ("http", "server", "sagemaker"),
    "mmekit_local.aws": ("http", "sagemaker"),
}
"""Of the rooms beside it; single modules of its wing every room may use."""


def _modules():
    for path in sorted(PACKAGING.rglob("*.py")):
        parts = path.relative_to(PACKAGING).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def _imported(path):
    """Yield the modules of ours that a module imports: at its top, in functions, for its types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module
            if node.level:
                assert (path.parent, node.level) == (UNDER_TWO_NAMES, 1), path
                room = ".".join(path.parent.relative_to(PACKAGING).parts)
                module = f"{room}.{module}" if module else room
            elif path.parent == UNDER_TWO_NAMES:
                assert module.partition(".")[0] not in MAY_KNOW, path
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                if (found := inner if inner in MODULES else module) in MODULES:
                    yield found


GRAPH = {name: sorted(set(_imported(path)) - {name}) for name, path in MODULES.items()}


def _classes():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, path.relative_to(PACKAGING)


@pytest.mark.parametrize("wing", MAY_KNOW)
def test_arrows_between_wings_point_one_way(wing):
    for name, found in GRAPH.items():
        if name.partition(".")[0] == wing:
            known = {other.partition(".")[0] for other in found} - {wing}
            assert known <= set(MAY_KNOW[wing]), name


@pytest.mark.parametrize("room", ROOMS_MAY_KNOW)
def test_arrows_between_rooms_of_the_rehearsal_point_one_way(room):
    rooms = {name.rpartition(".")[2] for name in ROOMS_MAY_KNOW}
    for name, found in GRAPH.items():
        if name == room or name.startswith(f"{room}."):
            known = {other.split(".")[1] for other in found if other.startswith("mmekit_local.")}
            assert known & rooms <= {room.rpartition(".")[2], *ROOMS_MAY_KNOW[room]}, name


def test_no_imports_go_in_a_circle():
    try:
        graphlib.TopologicalSorter(GRAPH).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_a_name_stands_for_one_class():
    places = collections.defaultdict(list)
    for name, path in _classes():
        places[name].append(str(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
