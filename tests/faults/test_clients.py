"""Clients that behave badly, and workers that do."""

from __future__ import annotations

import random
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from mmekit_local.server.memory import MIB
from tests.faults.conftest import gone, own_memory

SLOW = b"POST /models/model/invoke HTTP/1.1\r\nContent-Length: 100\r\n"
LARGE = "'x' * 4_000_000"
SPARE = 500


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


@pytest.fixture
def connections():
    """Gather connections; they are closed at the end."""
    opened = []
    yield opened
    for one in opened:
        one.close()


@pytest.mark.parametrize("part", [SLOW, SLOW + b"\r\nabc"], ids=["head", "body"])
def test_clients_that_send_slowly_keep_nobody_waiting(
    start, model, traffic, connections, until, part
):
    server = start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)))
    name = server.loaded(model())
    running = traffic(server, name, clients=2)

    # Half of the descriptors are for connections. More than that many slow ones, a byte at a time.
    for _ in range(300):
        connections.append(connect(server))
        connections[-1].sendall(part)
    alive = list(connections)
    for _ in range(3):
        alive = [one for one in alive if trickle(one)]
        running.more(20)
    assert httpx.get(f"{server.base}/ping").status_code == 200

    assert running.failures == 0
    assert psutil.Process(server.pid).num_fds() < 300
    until(
        lambda: "there are more than 200 connections: the 3 without a whole request" in server.log
    )


def trickle(connection):
    try:
        connection.sendall(b"a")
    except OSError:
        return False
    return True


def test_a_client_that_reads_nothing_makes_nobody_keep_its_answers(
    start, model, traffic, connections
):
    server = start(forked=False)
    name = server.loaded(model(minWorkers=2, maxWorkers=2))
    running = traffic(server, name, clients=1)
    server.value(name, LARGE)
    before = own_memory(server)

    request = f"POST /models/{name}/invoke HTTP/1.1\r\nContent-Length: {len(LARGE)}\r\n\r\n{LARGE}"
    for _ in range(4):
        connections.append(connect(server))
        connections[-1].sendall(request.encode() * 50)
    running.more(200)

    assert running.failures == 0
    # Of each client one answer, of the fifty that it asked for, and what was read of the others.
    assert own_memory(server) - before < 4 * 3 * 4_000_000 + 8 * MIB


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_a_client_that_goes_away_has_its_request_left_out(
    server, model, connections, until, tmp_path, slots
):
    name = server.loaded(model(slots=slots, minWorkers=1, maxWorkers=1))
    gate = tmp_path / "gate"

    for number in range(6):
        body = f"hold({str(gate)!r})" if number == 0 else "1 + 1"
        head = f"POST /models/{name}/invoke HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        connections.append(connect(server))
        connections[-1].sendall((head + body).encode())
        until(lambda number=number: server.described(name)["requestInQueue"] == number)
    # The first in the middle of its request, and three that wait.
    for one in connections[:4]:
        one.close()
    until(lambda: server_connections(server) == 3)
    gate.touch()

    answers = [one.recv(1000) for one in connections[4:]]
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 2
    assert server.value(name, "len(calls)") == "4"


def server_connections(server):
    found = psutil.Process(server.pid).net_connections(kind="tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED for one in found)


def test_when_all_connections_are_being_answered_one_more_is_told_to_come_again(
    start, model, connections, tmp_path, until
):
    server = start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120)))
    name = server.loaded(model(minWorkers=1, maxWorkers=1))
    gate = tmp_path / "gate"
    server.client.close()
    body = f"hold({str(gate)!r})"
    head = f"POST /models/{name}/invoke HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(60):
        connections.append(connect(server))
        connections[-1].sendall((head + body).encode())

    def refused():
        with httpx.Client() as client:
            answer = client.get(f"{server.base}/ping")
            return answer if answer.status_code == 503 else None

    answer = until(refused)
    gate.touch()

    assert answer.headers["retry-after"] == "1"
    assert answer.json()["message"] == "No more than 60 connections are served at once."
    assert [one.recv(12) for one in connections] == [b"HTTP/1.1 200"] * 60


def test_ten_thousand_idle_connections_cost_little_and_keep_nobody_waiting(
    start, model, traffic, connections
):
    server = start(forked=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - SPARE)
    if count < 1000:
        pytest.skip(f"this user may have {hard} files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        name = server.loaded(model())
        running = traffic(server, name, clients=2)
        before = own_memory(server)

        for _ in range(count):
            connections.append(connect(server))
        running.more()
        grown = own_memory(server) - before
        # And more than there may be: the oldest make room.
        for _ in range(200):
            connections.append(connect(server))
        running.more()
        began = time.monotonic()
        assert httpx.get(f"{server.base}/ping").status_code == 200
        elapsed = time.monotonic() - began

        assert running.failures == 0
        assert grown / count < 16 << 10
        assert elapsed < 5
    finally:
        for one in connections:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"\0" * 5000,
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"\r\n" * 10_000,
]


def test_garbage_on_the_port_is_refused_and_forgotten(server, model, traffic):
    running = traffic(server, server.loaded(model()), clients=2)
    chance = random.Random(5)  # noqa: S311  to be the same each time
    pieces = [*GARBAGE, *(chance.randbytes(chance.randrange(1, 20_000)) for _ in range(200))]

    for piece in pieces:
        with connect(server) as connection:
            try:
                connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(1000)
            except ConnectionError:
                continue
            assert answer[:10] in (b"", b"HTTP/1.1 4"), answer
    running.more()

    assert running.failures == 0
    assert "Traceback" not in server.log


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_a_worker_that_answers_garbage_is_replaced(server, model, until, slots):
    name = server.loaded(model(slots=slots, minWorkers=1, maxWorkers=1))
    pid = server.value(name, "os.getpid()")

    answer = server.invoke(name, "write_to_sockets(b'\\xff' * 1000)")

    assert answer.status_code == 503
    until(lambda: gone(pid))
    until(lambda: server.invoke(name, "1 + 1").status_code == 200)
    assert server.value(name, "os.getpid()") != pid
    assert server.client.get("/ping").status_code == 200


def test_garbage_for_the_fork_server_ends_only_the_process_that_sent_it(
    server, model, traffic, until
):
    hit = server.loaded(model("hit"))
    running = traffic(server, server.loaded(model("other")), clients=2)
    (fork_server,) = server.fork_servers()
    pid = server.value(hit, "os.getpid()")
    channel = "next(o for o in gc.get_objects() if type(o).__name__ == 'RequestLoop')._channel"

    server.invoke(hit, f"{channel}.sock.sendall(b'\\xff' * 100)")

    until(lambda: gone(pid))
    until(lambda: server.invoke(hit, "1 + 1").status_code == 200)
    assert server.fork_servers() == [fork_server]
    running.more()
    assert running.failures == 0


def test_requests_beyond_the_queue_are_told_to_come_again(server, model, tmp_path, until):
    name = server.loaded(model(minWorkers=1, maxWorkers=1, job_queue_size=3))
    gate = tmp_path / "gate"

    with ThreadPoolExecutor(20) as threads:
        held = threads.submit(server.invoke, name, f"hold({str(gate)!r})")
        until(lambda: server.described(name)["requestInQueue"] == 0)
        asked = [threads.submit(server.invoke, name, "1 + 1") for _ in range(10)]
        until(lambda: sum(one.done() for one in asked) >= 7)
        gate.touch()
        answers = [one.result() for one in (held, *asked)]

    refused = [one for one in answers if one.status_code == 503]
    assert {one.status_code for one in answers} == {200, 503}
    assert {one.headers["retry-after"] for one in refused} == {"1"}
