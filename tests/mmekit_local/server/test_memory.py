"""Whether there is memory for one more model."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from mmekit_local.server.memory import MIB, Cgroup, ServerMemory, own_cgroup, process_memory

HOLDER = "data = bytearray({size}); print('ready', flush=True); input()"


@pytest.fixture
def hold():
    """Start processes that hold memory; they end with the test."""
    started = []

    def start(mib: int) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(size=mib * MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        process.communicate()


def test_the_memory_of_a_process_is_known(hold):
    pid = hold(50)

    memory = process_memory(pid)
    assert 50 * MIB < memory.private_bytes <= memory.proportional_bytes + MIB
    assert process_memory(2**22 + 1).proportional_bytes == 0


def test_without_a_limit_the_machines_free_memory_counts():
    available = ServerMemory().available([])

    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_with_a_limit_what_the_processes_use_counts(hold):
    memory = ServerMemory(400 * MIB)
    before = memory.available([])
    pid = hold(100)

    assert memory.available([pid]) < before - 90 * MIB
    assert memory.available([]) == pytest.approx(before, rel=0.1)


def test_a_process_that_grows_is_measured_again(hold):
    memory = ServerMemory(10_000 * MIB)
    pids = [hold(1) for _ in range(3)]
    first = memory.available(pids)
    memory._measured[pids[0]] = 0

    assert memory.available(pids) == pytest.approx(first, rel=0.01)


def test_what_processes_share_is_measured_each_time(hold):
    memory = ServerMemory(10_000 * MIB)
    pids = [hold(1) for _ in range(12)]
    first = memory.available(pids[1:], pids[:1])
    for _ in range(2):
        memory._measured[pids[0]] = 1000 * MIB

        assert memory.available(pids[1:], pids[:1]) == pytest.approx(first, rel=0.01)


def test_loads_under_way_count_as_memory():
    memory = ServerMemory(1000 * MIB + process_memory(os.getpid()).proportional_bytes)

    assert memory.missing(600 * MIB, 0, []) <= 0
    with memory.claimed(600 * MIB):
        assert memory.missing(600 * MIB, 0, []) == pytest.approx(200 * MIB, rel=0.1)
        assert memory.missing(200 * MIB, 0, []) <= 0
    assert memory.missing(600 * MIB, 0, []) <= 0


def test_a_reserve_stays_free():
    memory = ServerMemory(1000 * MIB + process_memory(os.getpid()).proportional_bytes)

    assert memory.missing(600 * MIB, 500 * MIB, []) > 0


V2 = {
    "memory.max": "{limit}\n",
    "memory.current": "{used}\n",
    "memory.stat": "inactive_file {idle}\nslab_reclaimable {kernel}\n",
}
V1 = {
    "memory.limit_in_bytes": "{limit}\n",
    "memory.usage_in_bytes": "{used}\n",
    "memory.stat": "inactive_file 1\ntotal_inactive_file {idle}\n",
    "memory.kmem.usage_in_bytes": "{kernel}\n",
}


def write_cgroup(folder, files, limit, used=0, idle=0, kernel=0):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        content = text.format(limit=limit, used=used, idle=idle, kernel=kernel)
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("files", "line", "top"),
    [(V2, "0::/a/b\n", "."), (V1, "4:memory,hugetlb:/a/b\n0::/\n", "memory")],
    ids=["v2", "v1"],
)
def test_the_limit_of_a_control_group_counts_less_what_it_uses(tmp_path, files, line, top):
    (tmp_path / "own").write_text(line)
    write_cgroup(tmp_path / top / "a" / "b", files, "max", used=300 * MIB)
    write_cgroup(tmp_path / top / "a", files, 1000 * MIB, used=400 * MIB, idle=100 * MIB)

    memory = ServerMemory(cgroup=lambda: own_cgroup(tmp_path, tmp_path / "own"))

    assert memory.limit == 1000 * MIB
    assert memory.available([]) == 700 * MIB
    with memory.claimed(600 * MIB):
        assert memory.missing(200 * MIB, 0, []) == 100 * MIB


@pytest.mark.parametrize(
    ("files", "line", "top", "most"),
    [
        (V2, "0::/a\n", ".", 100 * MIB),
        # Version 1 does not say how much of it can be taken back: the machine's share is.
        (V1, "4:memory:/a\n", "memory", 400 * MIB),
    ],
    ids=["v2", "v1"],
)
def test_what_the_kernel_keeps_and_can_take_back_is_not_in_use(tmp_path, files, line, top, most):
    (tmp_path / "own").write_text(line)
    write_cgroup(tmp_path / top / "a", files, 1000 * MIB, used=500 * MIB, kernel=400 * MIB)

    group = own_cgroup(tmp_path, tmp_path / "own")

    assert group is not None
    assert 100 * MIB <= group.used <= most


def test_in_a_container_the_own_group_may_be_at_the_top(tmp_path):
    (tmp_path / "own").write_text("0::/what/the/host/calls/it\n")
    write_cgroup(tmp_path, V2, 500 * MIB, used=MIB)

    assert own_cgroup(tmp_path, tmp_path / "own") == Cgroup(500 * MIB, MIB)


def test_a_control_group_without_a_limit_is_none(tmp_path):
    (tmp_path / "own").write_text("0::/a\n4:memory:/a\n")
    write_cgroup(tmp_path / "a", V2, "max")
    write_cgroup(tmp_path / "memory" / "a", V1, 2**63 - 4096)

    assert own_cgroup(tmp_path, tmp_path / "own") is None
    assert own_cgroup(tmp_path, tmp_path / "nothing") is None


def test_the_least_of_all_limits_counts():
    around = Cgroup(800 * MIB, 100 * MIB)

    assert ServerMemory(500 * MIB, lambda: around).limit == 500 * MIB
    assert ServerMemory(900 * MIB, lambda: around).limit == 800 * MIB

    # Beside it this process itself counts, which may have loaded many a library by now.
    narrow = Cgroup(3000 * MIB, 2900 * MIB)
    assert ServerMemory(3500 * MIB, lambda: narrow).available([]) == 100 * MIB
