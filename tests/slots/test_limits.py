"""A server with a memory limit of its own: who is idle parks before a load is refused."""

from __future__ import annotations

import os
import random
import signal
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from mmekit_local.server.memory import proportional_bytes
from tests.server_process import ServerProcess, give_slots

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
SIZE = 20
ROOMY = 120
"""MiB, more than a server, its fork server and a template process have besides."""
VARIABLES = {"MMEKIT_SLOTS_SPARES": "0", "MMEKIT_SLOTS_RESERVE_MB": "24"}

HEAVY = """
import os, time
from djl_python import Output

content = None

def handle(inputs):
    global content
    if inputs.is_empty():
        content = os.urandom(1 << 20) * 20
        return None
    text = inputs.get_as_string()
    if text.startswith("grow"):
        content += os.urandom(1 << 20) * int(text[4:])
    elif text != "size":
        open(text + ".held", "w").close()
        while not os.path.exists(text):
            time.sleep(0.002)
    return Output().add(str(len(content)))
"""
"""Its answer is its size; it grows, or waits for a file, when it is told to."""

SETTINGS = {"required_memory_mb": SIZE + 4, "reserved_memory_mb": 0, "maxWorkers": 1}


@pytest.fixture
def start(group):
    """Start a server; it ends before the control group that it may be in."""
    servers = []

    def start(*arguments: str, **options: Callable[[], object]) -> ServerProcess:
        servers.append(ServerProcess(*arguments, environment=VARIABLES, forked=False, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def own(shared_model):
    """Return the MiB that a server, its fork server and a template process have besides.

    What counts of pages that are shared depends on who else runs on the machine.
    """
    server = ServerProcess(environment=VARIABLES, forked=False)
    try:
        server.value(server.loaded(shared_model(HEAVY, **SETTINGS)), "size")
        return taken(server) // MIB - SIZE
    finally:
        server.close()


@pytest.fixture
def limited(start, own):
    """Start a server with room for so many MiB of models."""
    return lambda mib: start("--memory", str((mib + own) * MIB))


def taken(server):
    """Return what all processes of a server take."""
    processes = (psutil.Process(server.pid), *server.children())
    return sum(proportional_bytes(one.pid) for one in processes)


def states(server, names):
    return [server.described(name)["parking"]["state"] for name in names]


def last(server):
    """Return the last model that a server lists."""
    return server.client.get("/models").json()["models"][-1]


def test_many_more_models_than_fit_are_loaded_and_answer(limited, own, model):
    server = limited(8 * SIZE)
    names = [server.loaded(model(HEAVY, name=f"m{n}", **SETTINGS)) for n in range(24)]
    assert states(server, names).count("AWAKE") < 12
    generator = random.Random(5)  # noqa: S311  no secret
    most = 0

    with ThreadPoolExecutor(4) as threads:
        for _ in range(8):
            asked = generator.choices(names, k=12)
            answers = list(threads.map(lambda name: server.invoke(name, "size"), asked))
            assert {one.text for one in answers} == {str(SIZE * MIB)}
            most = max(most, taken(server))

    # All of them take three times as much. It is measured once a second: on a busy machine, each of
    # the four that ask may have woken one before what it took was seen.
    assert most < ((8 + 4) * SIZE + own) * MIB
    assert sum(server.described(name)["parking"]["parks"] for name in names) > len(names)


def test_a_load_that_does_not_fit_with_all_others_parked_is_507_and_they_answer(
    limited, own, model
):
    server = limited(6 * SIZE)
    names = [server.loaded(model(HEAVY, name=f"m{n}", **SETTINGS)) for n in range(3)]
    # Within the limit, but not beside the server itself.
    large = model(HEAVY, name="large", **{**SETTINGS, "required_memory_mb": 6 * SIZE + own // 2})

    refused = server.load("large", large)

    assert refused.status_code == 507
    assert refused.json()["type"] == "WlmOutOfMemoryException"
    assert states(server, names) == ["PARKED"] * 3
    assert [server.value(name, "size") for name in names] == [str(SIZE * MIB)] * 3


def test_nobody_parks_for_a_load_beyond_the_limit(limited, model):
    server = limited(6 * SIZE)
    name = server.loaded(model(HEAVY, **SETTINGS))
    huge = model(HEAVY, name="huge", **{**SETTINGS, "required_memory_mb": 10_000})

    assert server.load("huge", huge).status_code == 507
    assert states(server, [name]) == ["AWAKE"]


def test_a_load_waits_for_a_model_that_is_busy(limited, model, tmp_path, until):
    server = limited(2 * SIZE)
    busy = server.loaded(model(HEAVY, **SETTINGS))
    wide = model(HEAVY, name="wide", **{**SETTINGS, "required_memory_mb": SIZE + 10})
    gate = tmp_path / "gate"

    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(server.invoke, busy, str(gate))
        until(gate.with_suffix(".held").exists)
        loading = threads.submit(server.load, "wide", wide)
        until(lambda: last(server)["status"] == "PENDING")
        gate.touch()

        assert asked.result().text == str(SIZE * MIB)
        assert loading.result().status_code == 200
    assert states(server, [busy]) == ["PARKED"]


def test_a_load_waits_for_a_model_that_takes_long_to_park(limited, model, until):
    server = limited(2 * SIZE)
    slow = server.loaded(model(HEAVY, **SETTINGS))
    pid = server.described(slow)["processes"][0]["pid"]
    wide = model(HEAVY, name="wide", **{**SETTINGS, "required_memory_mb": SIZE + 10})

    with ThreadPoolExecutor(1) as threads:
        os.kill(pid, signal.SIGSTOP)
        loading = threads.submit(server.load, "wide", wide)
        until(lambda: last(server)["status"] == "PENDING")
        # Longer than a load waits for models that are busy.
        with pytest.raises(futures.TimeoutError):  # the built-in one since Python 3.11
            loading.result(timeout=3)
        os.kill(pid, signal.SIGCONT)

        assert loading.result().status_code == 200
    assert states(server, [slow]) == ["PARKED"]


def test_models_that_grow_to_the_limit_have_others_park(limited, model, until):
    server = limited(8 * SIZE)
    names = [server.loaded(model(HEAVY, name=f"m{n}", **SETTINGS)) for n in range(2)]
    assert states(server, names) == ["AWAKE", "AWAKE"]

    server.value(names[1], f"grow{9 * SIZE}")

    until(lambda: states(server, names)[0] == "PARKED")


def test_models_of_another_fork_server_park_for_a_load_and_for_a_wake(limited, model):
    server = limited(4 * SIZE)
    first = server.loaded(model(HEAVY, name="first", **SETTINGS))
    others = []
    # Which of them parks for a load depends on what is measured first: its own fork server makes
    # room for the reserve, too.
    while len(others) < 4 or states(server, [first]) == ["AWAKE"]:
        assert len(others) < 12
        folder = model(HEAVY, name=f"m{len(others)}", option__env="OMP_NUM_THREADS=2", **SETTINGS)
        others.append(server.loaded(folder))
    assert len(server.fork_servers()) == 2

    assert server.value(first, "size") == str(SIZE * MIB)
    assert {server.value(name, "size") for name in others} == {str(SIZE * MIB)}


def test_in_a_small_container_idle_models_park_for_a_load_and_none_is_killed(start, group, model):
    small = group((8 * SIZE + ROOMY) * MIB)
    server = start(before=small.enter)

    names = [server.loaded(model(HEAVY, name=f"m{n}", **SETTINGS)) for n in range(16)]

    assert [server.value(name, "size") for name in names] == [str(SIZE * MIB)] * len(names)
    assert small.kills() == 0


def test_a_fork_server_of_an_earlier_runtime_hears_nothing_of_memory(limited, model):
    server = limited(3 * SIZE)
    folders = [model(HEAVY, name=f"m{n}", runtime=False, **SETTINGS) for n in range(6)]
    for folder in folders:
        give_slots(folder)
        model.change_runtime(folder, "forkserver", 'get("ask") == "memory"', 'get("ask") == "-"')

    statuses = [server.load(folder.name, folder).status_code for folder in folders]

    assert statuses[0] == 200
    assert set(statuses) == {200, 507}
    assert server.value("m0", "size") == str(SIZE * MIB)
