"""Memory decides: who is idle parks for those that are asked."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmekit_runtime.slots import admission

MIB = 1 << 20

HEAVY = """
import os
from djl_python import Output

content = None

def handle(inputs):
    global content
    if inputs.is_empty():
        content = os.urandom(1 << 20) * 20
        return None
    return Output().add(str(len(content)) if inputs.get_as_string() != "pid" else str(os.getpid()))
"""


def test_in_a_small_container_many_models_take_turns_and_none_is_killed(group, bare, model):
    small = group(160 * MIB)
    folder = model(HEAVY, required_memory_mb=24)
    server = bare(folder, before=small.enter, MMEKIT_SLOTS_RESERVE_MB="40")
    models = 12
    claims = [server.start(f"m{number}") for number in range(models)]
    generator = random.Random(3)  # noqa: S311  no secret

    def ask(numbers):
        return [claims[number].ask("size").body for number in numbers]

    # Each model has one connection: each thread has models of its own, some asked more often.
    weights = [1 / (rank + 1) for rank in range(models // 2)]
    with ThreadPoolExecutor(2) as threads:
        parts = [range(part, models, 2) for part in range(2)]
        asked = [generator.choices(part, weights, k=25) for part in parts]
        answers = [body for part in threads.map(ask, asked) for body in part]

    assert set(answers) == {str(20 * MIB).encode()}
    assert small.kills() == 0
    assert server.output.count(b"mmekit: parked after") > models / 2


EATS = """
import os, sys
content = [os.urandom(1 << 20) for _ in range(90)]
print("eaten", flush=True)
sys.stdin.read()
"""


def test_where_memory_runs_out_all_the_same_a_model_ends_and_never_the_server(group, bare, model):
    small = group(160 * MIB)
    server = bare(model(HEAVY, option__park_after=0), before=small.enter)
    pids = [server.start(f"m{number}").value("pid") for number in range(3)]

    command = [sys.executable, "-c", EATS]
    with subprocess.Popen(
        command,
        preexec_fn=small.enter,  # noqa: PLW1509  no thread of this process holds a lock here
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"eaten\n"
        assert small.kills() > 0
        assert not all(Path(f"/proc/{pid}").exists() for pid in pids)
        other.communicate()

    assert server.start("another").value("size") == str(20 * MIB)


@pytest.fixture
def meminfo(model, tmp_path):
    """Let a fork server believe what a file says."""
    file = tmp_path / "meminfo"

    class Meminfo:
        folder = model(HEAVY, required_memory_mb=24)

        def set(self, available_mb: int) -> None:
            text = f"MemTotal: {1000 << 10} kB\nMemAvailable: {available_mb << 10} kB\n"
            other = file.with_suffix(".new")
            other.write_text(text)
            other.rename(file)

    model.change_runtime(
        Meminfo.folder, "memory", '_MEMINFO = "/proc/meminfo"', f"_MEMINFO = {str(file)!r}"
    )
    made = Meminfo()
    made.set(1000)
    return made


def lacks(line, size):
    """Let so much be missing of a reserve of 100 MiB, until as much is given back."""
    left = 100 * MIB - size
    line.send(limit=1000 * MIB, left=left, at=time.monotonic(), sharers=1)


def test_under_pressure_the_least_recently_used_parks_first(bare, meminfo, until):
    server = bare(meminfo.folder, MMEKIT_SLOTS_RESERVE_MB="100")
    first, second = server.start("first"), server.start("second")
    assert first.value("size") == str(20 * MIB)
    pid = first.value("pid")
    second_pid = second.value("pid")
    first.value("size")

    lacks(server.memory_line(), MIB)

    until(lambda: not Path(f"/proc/{second_pid}").exists())
    assert first.value("pid") == pid


def test_under_pressure_a_model_s_further_processes_end_before_another_parks(bare, meminfo, until):
    folder = meminfo.folder
    (folder / "serving.properties").write_text("engine=Python\noption.processes=auto\n")
    code = "import time\n" + HEAVY.replace(
        "    return Output", "    time.sleep(0.05)\n    return Output"
    )
    (folder / "model.py").write_text(code)
    server = bare(folder, MMEKIT_SLOTS_RESERVE_MB="100")
    idle = server.start("idle")
    idle_pid = idle.value("pid")
    first = server.start("busy")
    claims = [first, *(server.ask("busy") for _ in range(2))]
    assert all("slot" in claim.hear() for claim in claims[1:])

    def asked():
        with ThreadPoolExecutor(3) as threads:
            last = threads.map(lambda claim: [claim.value("pid") for _ in range(6)][-1], claims)
            return set(last)

    several = until(lambda: pids if len(pids := asked()) == len(claims) else None)
    lacks(server.memory_line(), 40 * MIB)

    until(lambda: sum(Path(f"/proc/{pid}").exists() for pid in several) == 1)
    assert idle.value("pid") == idle_pid
    assert [claim.value("size") for claim in claims] == [str(20 * MIB)] * 3


def test_a_model_that_does_not_fit_waits_until_it_does(bare, meminfo, until):
    server = bare(meminfo.folder, MMEKIT_SLOTS_RESERVE_MB="100")
    claim = server.start()
    pid = claim.value("pid")
    meminfo.set(20)
    until(lambda: not Path(f"/proc/{pid}").exists())

    claim.send("size")
    until(lambda: claim.unread() > 0)
    meminfo.set(1000)

    assert claim.receive().body == str(20 * MIB).encode()


def test_a_model_that_does_not_fit_in_time_says_so_and_is_asked_again(bare, meminfo, until):
    server = bare(meminfo.folder, MMEKIT_SLOTS_RESERVE_MB="100", MMEKIT_WAKE_TIMEOUT_S="0.2")
    claim = server.start()
    pid = claim.value("pid")
    meminfo.set(20)
    until(lambda: not Path(f"/proc/{pid}").exists())

    # More than a socket holds: it has to be read away, and nothing of it left.
    answers = [claim.ask("x" * size) for size in (10, 1_000_000)]

    for answer in answers:
        assert answer.status == 503
        message = json.loads(answer.body)["message"]
        assert message.startswith("no memory for this model: it needs 2")
        assert "20 MiB are left, of which 25 MiB stay free" in message
    meminfo.set(1000)
    assert claim.value("size") == str(20 * MIB)


def test_a_model_that_is_loaded_waits_for_those_that_park_for_it(bare, meminfo, until):
    server = bare(meminfo.folder, MMEKIT_SLOTS_RESERVE_MB="100")
    first = server.start("first")
    pid = first.value("pid")
    meminfo.set(40)
    until(lambda: not Path(f"/proc/{pid}").exists())

    claims = [server.ask("second") for _ in range(3)]
    assert all("slot" in claim.hear() for claim in claims)
    claims[0].send_load()
    until(lambda: claims[0].unread() > 0)
    meminfo.set(1000)

    assert claims[0].receive().status < 300
    assert [claim.value("size") for claim in claims] == [str(20 * MIB)] * 3
    assert server.output.count(b"woken in") == 0


def test_a_model_that_does_not_fit_is_not_loaded(bare, meminfo, until):
    server = bare(meminfo.folder, MMEKIT_SLOTS_RESERVE_MB="100", MMEKIT_WAKE_TIMEOUT_S="0.2")
    first = server.start("first")
    first.value("size")
    meminfo.set(20)
    second = server.ask("second")
    assert "slot" in second.hear()

    answer = second.initialise()

    assert answer.status == 507
    message = json.loads(answer.body)["message"]
    assert message.startswith("no memory for this model: it needs 24 MiB, 20 MiB are left")
    second.close()
    meminfo.set(1000)
    assert first.value("size") == str(20 * MIB)
    assert server.start("second").value("size") == str(20 * MIB)


KEPT = """
import mmap, sys
from mmekit_runtime.slots import memory

memory.kept_at_first()
no_reserve = 0x4000
space = mmap.mmap(-1, 20_000 << 21, flags=mmap.MAP_PRIVATE | no_reserve)
space.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(20_000):
    space[page << 21] = 1
print(memory.taken_back(sys.argv[1]))
"""


def test_what_the_kernel_keeps_for_processes_is_not_taken_back(group, until):
    """One page of each 2 MiB takes 80 MiB, and the tables for it as much of the kernel's."""
    around = group(400 * MIB)
    command = [sys.executable, "-c", KEPT, str(around.folder)]

    def taken_back():
        found = subprocess.run(
            command, preexec_fn=around.enter, stdout=subprocess.PIPE, check=True, timeout=60
        )
        return int(found.stdout)

    # Where many processes of others end just then, the machine cannot tell.
    until(lambda: taken_back() < 40 * MIB)


def test_a_server_has_models_park_for_what_it_wants_to_be_free(bare, meminfo, until):
    server = bare(meminfo.folder)
    claims = [server.start(name) for name in ("first", "second", "third")]
    pids = [claim.value("pid") for claim in claims]
    line = server.memory_line()
    assert claims[0].value("size") == str(20 * MIB)

    asked_at = time.monotonic()

    def order(number):
        line.send(wanted=30 * MIB, number=number)
        return line.hear()

    def there():
        return [Path(f"/proc/{pid}").exists() for pid in pids]

    # Nobody parks who was asked just now.
    until(lambda: time.monotonic() - asked_at > 2 * admission.IDLE_S)
    assert order(1) == {"made": 1, "more": True, "fds": 0}
    until(lambda: there() == [True, False, False])
    assert order(2) == {"made": 2, "more": False, "fds": 0}
    until(lambda: there() == [False] * 3)


def test_a_server_s_own_limit_counts_and_what_has_changed_since(bare, meminfo, until):
    server = bare(meminfo.folder, MMEKIT_SLOTS_RESERVE_MB="16")
    line = server.memory_line()
    line.send(limit=1000 * MIB, left=60 * MIB, at=time.monotonic(), sharers=1)
    claims = [server.start(f"m{number}") for number in range(4)]

    # Two fit at once, and nothing more is told.
    for _ in range(2):
        assert [claim.value("size") for claim in claims] == [str(20 * MIB)] * 4
    assert server.output.count(b"mmekit: parked after") >= 4

    pid = claims[0].value("pid")
    line.send(limit=1000 * MIB, left=-100 * MIB, at=time.monotonic(), sharers=1)
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_server_is_told_what_a_model_lacks_that_waits(bare, meminfo, until):
    server = bare(meminfo.folder, MMEKIT_SLOTS_RESERVE_MB="100")
    claim = server.start()
    pid = claim.value("pid")
    line = server.memory_line()
    meminfo.set(20)
    until(lambda: not Path(f"/proc/{pid}").exists())

    claim.send("size")

    # What it gave back, and the 25 MiB that stay free.
    assert 20 * MIB < line.hear()["wants"] < 40 * MIB
    meminfo.set(1000)
    assert claim.receive().body == str(20 * MIB).encode()


def test_a_parked_model_that_cannot_be_loaded_again_says_so_and_recovers(bare, model, until):
    folder = model(HEAVY, option__park_after=0.1)
    server = bare(folder)
    claim = server.start()
    until(lambda: b"parked after" in server.output)
    code = (folder / "model.py").read_text()

    (folder / "model.py").write_text("raise ValueError")
    assert claim.ask("size").status == 503
    (folder / "model.py").write_text(code)

    assert claim.value("size") == str(20 * MIB)
