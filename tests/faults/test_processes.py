"""Processes that are killed under load."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.faults.conftest import gone, kill


def test_a_killed_model_process_takes_only_the_requests_that_it_had(server, model, traffic, until):
    hit = server.loaded(model("hit", minWorkers=4, maxWorkers=4))
    other = server.loaded(model("other", minWorkers=2, maxWorkers=2))
    on_hit, on_other = traffic(server, hit), traffic(server, other, clients=2)

    for _ in range(2):
        kill(server.described(hit)["processes"][0]["pid"])
        on_hit.more()
    on_other.more()

    assert set(on_hit.outcomes) <= {200, 503}
    assert on_hit.failures <= 2 * 4
    assert on_other.failures == 0
    assert server.client.get("/ping").status_code == 200


def test_a_killed_worker_takes_only_the_request_that_it_had(server, model, traffic, until):
    hit = server.loaded(model("hit", slots=False, minWorkers=2, maxWorkers=2))
    on_hit = traffic(server, hit)

    for _ in range(2):
        workers = server.described(hit)["workerGroups"][0]["workers"]
        kill(workers[0]["pid"])
        on_hit.more()
        until(lambda: server.described(hit)["status"] == "Healthy")

    assert set(on_hit.outcomes) <= {200, 503}
    assert on_hit.failures <= 2
    assert server.client.get("/ping").status_code == 200


def test_a_killed_fork_server_takes_no_request_at_all(server, model, traffic, until):
    name = server.loaded(model("hit", minWorkers=4, maxWorkers=4))
    running = traffic(server, name)
    (fork_server,) = server.fork_servers()

    kill(fork_server.pid)
    running.more()
    assert running.failures == 0

    # The next model, and the successor of this one's process, come from another fork server.
    server.loaded(model("next"))
    kill(server.described(name)["processes"][0]["pid"])
    running.more()
    assert set(running.outcomes) <= {200, 503}
    until(lambda: server.described(name)["status"] == "Healthy")
    assert server.client.get("/ping").status_code == 200


def test_parents_that_are_killed_take_no_request_and_no_load(server, model, traffic, until):
    name = server.loaded(model("hit", minWorkers=2, maxWorkers=2))
    running = traffic(server, name, clients=2)
    (process,) = server.described(name)["processes"]
    (fork_server,) = server.fork_servers()

    for parent in fork_server.children():
        if parent.pid != process["pid"]:
            kill(parent.pid)
    running.more()
    server.loaded(model("next"))

    assert running.failures == 0
    assert server.fork_servers() == [fork_server]


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_a_killed_server_leaves_nothing_that_the_next_start_does_not_remove(
    start, model, until, monkeypatch, slots
):
    with tempfile.TemporaryDirectory(prefix="k-") as temporary:
        killed = start(environment={"TMPDIR": temporary})
        name = killed.loaded(model(slots=slots))
        assert killed.value(name, "1 + 1") == "2"
        children = killed.children()
        (folder,) = Path(temporary).glob("mme-*")

        kill(killed.pid)
        killed.process.wait(30)
        until(lambda: all(gone(child.pid) for child in children))
        assert folder.exists()
        following = start(environment={"TMPDIR": temporary})

        assert not folder.exists()
        assert len(list(Path(temporary).glob("mme-*"))) == 1
        assert following.value(following.loaded(model("next", slots=slots)), "1 + 1") == "2"


def test_the_folder_of_a_server_that_runs_is_left_to_it(start, model):
    with tempfile.TemporaryDirectory(prefix="k-") as temporary:
        first = start(environment={"TMPDIR": temporary})
        name = first.loaded(model())
        start(environment={"TMPDIR": temporary})

        assert len(list(Path(temporary).glob("mme-*"))) == 2
        first.loaded(model("next"))
        assert first.value(name, "1 + 1") == "2"


def test_a_worker_in_the_middle_of_a_request_ends_with_its_killed_server(
    server, model, tmp_path, until
):
    name = server.loaded(model(slots=False))
    (worker,) = server.described(name)["workerGroups"][0]["workers"]
    slotted = server.loaded(model("slotted"))
    (process,) = server.described(slotted)["processes"]
    gate, marks = tmp_path / "gate", [tmp_path / "one", tmp_path / "two"]
    for one, mark in zip((name, slotted), marks, strict=True):
        expression = f"open({str(mark)!r}, 'w').close() or hold({str(gate)!r})"
        with pytest.raises(Exception, match="timed out"):
            server.client.post(f"/models/{one}/invoke", content=expression, timeout=1)
    assert all(mark.exists() for mark in marks)

    kill(server.pid)
    server.process.wait(30)
    until(lambda: gone(worker["pid"]))
    gate.touch()
    # A model process may have other connections: it notices when it is done with the request.
    until(lambda: gone(process["pid"]))
