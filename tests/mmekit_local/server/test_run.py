"""A server's beginning and end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import mmekit_local.server
from mmekit_local.server.run import warn_of
from tests.server_process import ServerProcess, has_ended, wait_until

SLOW = """
import time
from pathlib import Path
from djl_python import Output
def handle(inputs):
    if inputs.is_empty():
        return None
    gate = Path(inputs.get_as_string())
    gate.with_suffix(".held").touch()
    while not gate.exists():
        time.sleep(0.005)
    return Output().add("done")
"""


def children(server):
    return psutil.Process(server.process.pid).children(recursive=True)


def test_the_face_is_what_it_says():
    assert mmekit_local.server.__all__ == ["ServerOptions", "require_djl", "run", "run_djl"]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def temporary():
    """Return a folder with a short name, as the sockets of workers lie below it."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield Path(folder)


def test_sigterm_answers_what_is_under_way_and_leaves_nothing(model_folder, tmp_path, temporary):
    server = ServerProcess("--exit-with-stdin", environment={"TMPDIR": str(temporary)})
    server.load("slow", model_folder(SLOW, minWorkers=1, maxWorkers=1))
    left = children(server)
    assert list(temporary.iterdir())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.invoke, "slow", str(tmp_path / "gate"))
        wait_until((tmp_path / "gate.held").exists)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not listens(server.port))
        assert not answer.done()
        (tmp_path / "gate").touch()
        assert answer.result().text == "done"

    assert server.process.wait(timeout=60) in (0, -signal.SIGTERM)
    wait_until(lambda: all(map(has_ended, left)))
    assert list(temporary.iterdir()) == []
    server.close()


def test_the_server_ends_with_its_standard_input(own_server, model_folder):
    own_server.load("echo", model_folder())
    left = children(own_server)

    own_server.process.stdin.close()

    own_server.process.wait(timeout=60)
    wait_until(lambda: all(map(has_ended, left)))


def test_workers_end_when_their_server_is_killed(own_server, model_folder):
    own_server.load("echo", model_folder())
    left = children(own_server)

    os.kill(own_server.process.pid, signal.SIGKILL)
    own_server.process.wait(timeout=60)

    wait_until(lambda: all(map(has_ended, left)))


def test_a_port_in_use_is_one_clear_message():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [sys.executable, "-m", "mmekit_local.server", "--port", port],
            capture_output=True,
            text=True,
            check=False,
        )

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"127.0.0.1:{port}" in result.stderr
    assert "--port" in result.stderr


@pytest.mark.parametrize("name", ["\ud800", "m" * 4001])
def test_a_model_that_nobody_could_name_again_is_refused(server, model_folder, name):
    body = json.dumps({"model_name": name, "url": str(model_folder())})
    headers = {"content-type": "application/json"}
    answer = server.client.post("/models", content=body, headers=headers)
    assert answer.status_code == 400
    assert "model_name" in answer.json()["message"]
    assert server.client.get("/metrics").status_code == 200


def test_no_name_of_a_model_makes_a_line_of_its_own_in_the_log(server, model_folder):
    name = "two\n12:00:00 ERROR forged\x1b[31m"
    assert server.load(name, model_folder()).status_code == 200
    assert server.unload("two%0A12:00:00%20ERROR%20forged%1B%5B31m").status_code == 200
    server.wait_for("Model two\\n12:00:00 ERROR forged\\x1b[31m unregistered.")
    assert "\x1b" not in server.log
    assert not [line for line in server.log.splitlines() if line.startswith("12:00:00 ERROR")]


@pytest.mark.parametrize("module", ["mmekit_local.server.run", "mmekit_local.aws.service"])
def test_what_serves_starts_without_numpy(module):
    # Each container has a server of its own: 13 MiB, and a tenth of a second.
    code = f"import sys, {module}; print('numpy' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_a_server_that_others_reach_says_what_that_means(caplog):
    assert mmekit_local.server.ServerOptions().host == "127.0.0.1"
    warn_of("127.0.0.1")
    assert caplog.text == ""

    warn_of("0.0.0.0")  # noqa: S104  nothing listens there

    assert "whoever reaches this address can load and run models" in caplog.text
