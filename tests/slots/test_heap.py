"""The memory of a process that is forked from."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library is not glibc"
)

HOLES = """
import os, sys
from array import array
from mmekit_runtime.slots import copy_on_write

size = int(sys.argv[1])

def allocate(number):
    if size == 24:
        return array("d", bytes(8 * number)).tolist()  # a number would take a place of this size
    return list(map(bytes, [size - sys.getsizeof(b"")] * number))

kept = allocate(int(sys.argv[2]))
del kept[::2]
if sys.argv[3] == "settled":
    plugs = copy_on_write.prepare_to_fork()
page = os.sysconf("SC_PAGESIZE")
pages = {id(one) // page for one in kept}
last = max(map(id, kept))
if os.fork():
    os.wait()
elif size <= 512:  # these are kept in pools, which may lie anywhere
    print(sum(id(one) // page in pages for one in allocate(500)))
else:
    print(sum(id(one) < last for one in allocate(500)))
"""
"""A parent with holes between its objects; how many of a child's objects lie between them."""

GROWTH = """
import psutil
from mmekit_runtime.slots import copy_on_write

process, before = psutil.Process(), psutil.Process().memory_info().rss
plugs = copy_on_write.prepare_to_fork()
print(process.memory_info().rss - before)
"""


def run(program, *arguments, **variables):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("size", [24, 64, 200, 512, 600, 1000, 1500, 5000, 40_000])
def test_a_child_allocates_apart_from_its_parent_s_objects_and_not_between_them(size):
    assert run(HOLES, size, 4000, "as it is") > 400
    assert run(HOLES, size, 4000, "settled") < 50


@pytest.mark.parametrize("allocator", ["pymalloc", "malloc", "debug", "malloc_debug"])
def test_what_fills_the_holes_takes_little_whatever_allocates(allocator):
    assert run(GROWTH, PYTHONMALLOC=allocator) < 8 << 20
