"""Limits of what may be open, and storms of forks and deaths."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest

from mmekit_runtime.slots.descriptors import raise_descriptor_limit
from mmekit_runtime.wire import encode_request

FORKS = 2000


@pytest.mark.parametrize(("limit", "slots_of_a_model"), [(256, 1), (1024, 4), (4096, 60)])
def test_where_the_limit_of_open_files_comes_near_workers_get_the_plain_engine(
    bare, limit, slots_of_a_model, until
):
    raise_descriptor_limit()
    server = bare(descriptors=limit)

    given = []
    while "slot" in ((claim := server.ask(f"m{len(given) // slots_of_a_model}")).hear() or {}):
        given.append(claim)

    assert claim.reply["plain"] == f"the limit of open files ({limit}, ulimit -Hn) is near"
    # Two for a slot, its connection and its control channel; two for a process, its channel and
    # its page.
    assert len(given) > (limit - 128) / (2 + 2 / slots_of_a_model)
    assert "plain" in server.ask("another").hear()
    assert server.log.count("is near") == 1
    for one in (given[0], given[-1]):
        assert one.initialise().status == 204
        assert one.value("1 + 1") == "2"
    # A process that dies is replaced all the same.
    before = given[-1].value("os.getpid()")
    os.kill(int(before), signal.SIGKILL)
    assert given[-1].value("os.getpid()") != before
    # What has ended makes room, as soon as the fork server has seen it.
    for one in given[:40]:
        one.close()
        assert one.control.fileno() < 0
    last = f"m{len(given) // slots_of_a_model - 1}"
    until(lambda: "slot" in (server.ask(last).hear() or {}))


def test_a_storm_of_forks_and_one_of_deaths_block_nobody(bare, model, until):
    raise_descriptor_limit()
    folder = model()
    model.change_runtime(
        folder,
        "template_process",
        "                importlib.import_module(_MODEL_PROCESS).run(fds[0], is_spare=is_spare)\n",
        "                signal.pause()\n",
    )
    server = bare(folder)
    assert "slot" in server.ask("first").hear()
    (template,) = server.templates()

    template.suspend()
    claims = [server.ask(f"m{number}") for number in range(FORKS)]
    template.resume()
    pids = {claim.hear()["pid"] for claim in claims}

    assert len(pids) == FORKS
    both = (template, psutil.Process(server.process.pid))
    for one in both:
        one.suspend()
    for claim in claims[: FORKS // 2]:
        os.kill(claim.reply["pid"], signal.SIGKILL)
    for one in both:
        one.resume()
    for claim in claims[: FORKS // 2]:
        assert claim.hear() == {"ended": 1, "given_up": "", "fds": 0}
    assert "slot" in server.ask("last").hear()
    until(lambda: len(template.children()) == 2 + FORKS // 2)


def test_a_template_process_that_was_stopped_is_replaced(bare, model):
    folder = model()
    model.change_runtime(folder, "templates", "_FORK_S = 20.0", "_FORK_S = 0.5")
    server = bare(folder, MMEKIT_SLOTS_IDLE_S="1")
    first = server.start("first")
    (template,) = server.templates()

    template.suspend()
    second = server.start("second")

    assert second.value("1 + 1") == "2"
    assert first.value("1 + 1") == "2"
    assert "does not fork: ends" in server.log


def test_a_model_whose_state_is_in_doubt_is_ended_and_says_why(slots, model, until):
    folder = model(name="first")
    old = "        process.initialised = True\n"
    new = old + "        assert 'DOUBT' not in self._first_worker['environ'], 'a bug'\n"
    model.change_runtime(folder, "hosted_model", old, new)
    sound = slots.start(folder)

    doubtful = slots.launch(folder, DOUBT="yes")
    doubtful.connect()
    doubtful.sock.sendall(encode_request({"handler": "handle"}))

    assert doubtful.process.wait(60) == 1
    assert "the fork server failed: AssertionError: a bug" in doubtful.wait_for("ERROR::mmekit")
    until(lambda: len(slots.model_processes()) == 1)
    until(
        lambda: re.search("the fork server failed:\n.*AssertionError: a bug", slots.log, re.DOTALL)
    )
    assert sound.value("1 + 1") == "2"


def test_many_slots_are_handed_to_a_process_that_is_busy(bare, model, tmp_path):
    raise_descriptor_limit()
    server = bare()
    busy = server.start()
    gate = tmp_path / "gate"

    # More than its socket holds.
    busy.send(f"hold({str(gate)!r})")
    others = [server.ask() for _ in range(500)]
    assert all("slot" in other.hear() for other in others)
    elsewhere = server.start("elsewhere")
    assert elsewhere.value("1 + 1") == "2"
    gate.touch()

    assert busy.receive().body == b"held"
    assert all(other.initialise().status == 204 for other in others)
    assert len({other.value("os.getpid()") for other in others}) == 1
