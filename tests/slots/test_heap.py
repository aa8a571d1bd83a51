"""The memory of a process that is forked from."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library is not glibc"
)

HOLES = """
import json, os, sys
from mmekit_runtime.slots import heap

size = int(sys.argv[1])

def allocate(number):
    return [bytes(size) for _ in range(number)]

allocate(1)
kept = allocate(2000)
del kept[::2]
if sys.argv[2] == "settled":
    plugs = heap.settle()
last = max(map(id, kept))
if os.fork():
    os.wait()
else:
    later = allocate(500)
    print(json.dumps([id(one) - last for one in later]))
"""
"""A parent with a thousand holes; its child says how far behind the last object its own lie."""


def distances(size, state):
    run = subprocess.run(
        [sys.executable, "-c", HOLES, str(size), state], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("size", [600, 1000, 1500, 5000, 40_000])
def test_a_child_allocates_behind_its_parent_s_objects_and_not_between_them(size):
    assert min(distances(size, "as it is")) < 0
    assert min(distances(size, "settled")) > 0
