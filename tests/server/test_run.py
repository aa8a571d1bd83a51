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

import mmekit.server

SLOW = """
import time
from djl_python import Output
def handle(inputs):
    if inputs.is_empty():
        return None
    time.sleep(0.5)
    return Output().add("done")
"""


def children(server):
    return psutil.Process(server.process.pid).children(recursive=True)


def test_the_face_is_what_it_says():
    assert mmekit.server.__all__ == ["ServerOptions", "require_djl", "run", "run_djl"]


def test_sigterm_answers_what_is_under_way_and_leaves_nothing(own_server, model_folder):
    own_server.load("slow", model_folder(SLOW, minWorkers=1, maxWorkers=1))
    left = children(own_server)
    folders = set(Path(tempfile.gettempdir()).glob("mme-*"))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(own_server.invoke, "slow", "x")
        worker = left[0]
        while worker.status() == psutil.STATUS_ZOMBIE or not _asked(own_server):
            pass
        own_server.process.send_signal(signal.SIGTERM)
        assert answer.result().text == "done"

    assert own_server.process.wait(timeout=30) in (0, -signal.SIGTERM)
    assert not any(process.is_running() for process in left)
    assert len(folders - set(Path(tempfile.gettempdir()).glob("mme-*"))) >= 1


def _asked(server):
    connections = psutil.Process(server.process.pid).net_connections(kind="tcp")
    return any(one.status == psutil.CONN_ESTABLISHED for one in connections)


def test_the_server_ends_with_its_standard_input(own_server, model_folder):
    own_server.load("echo", model_folder())
    left = children(own_server)

    own_server.process.stdin.close()

    own_server.process.wait(timeout=30)
    assert not any(process.is_running() for process in left)


def test_workers_end_when_their_server_is_killed(own_server, model_folder):
    own_server.load("echo", model_folder())
    left = children(own_server)

    os.kill(own_server.process.pid, signal.SIGKILL)
    own_server.process.wait(timeout=30)

    _, alive = psutil.wait_procs(left, timeout=20)
    assert alive == []


def test_a_port_in_use_is_one_clear_message():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [sys.executable, "-m", "mmekit.server", "--port", port],
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
