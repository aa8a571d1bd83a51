"""What a server lets in is above what SageMaker allows, and can be set."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from mmekit.errors import SettingsError
from mmekit_local.server.limits import ServerLimits
from tests.server_process import ServerProcess, give_slots, wait_until

CONCURRENT = 200
"""MaxConcurrency of a serverless endpoint: the most that SageMaker takes."""


@pytest.fixture
def limited():
    running = []

    def start(**environment):
        running.append(ServerProcess(environment=environment))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="slots need Linux")
def test_a_model_may_have_as_many_workers_as_sagemaker_lets_requests_in(server, model_folder):
    folder = give_slots(model_folder(minWorkers=CONCURRENT, maxWorkers=CONCURRENT))
    name = server.loaded(folder)
    try:
        workers = server.described(name)["workerGroups"]
        assert sum(len(group["workers"]) for group in workers) == CONCURRENT
        with ThreadPoolExecutor(CONCURRENT) as threads:
            answers = list(threads.map(lambda n: server.invoke(name, str(n)), range(CONCURRENT)))
    finally:
        server.unload(name)

    assert [(one.status_code, one.text) for one in answers] == [
        (200, str(n)) for n in range(CONCURRENT)
    ]


def test_a_maximum_of_200_workers_is_let_in_on_the_plain_engine(server, model_folder):
    name = server.loaded(model_folder(maxWorkers=CONCURRENT, minWorkers=0))
    server.unload(name)


@pytest.mark.skipif(sys.platform != "linux", reason="slots need Linux")
def test_a_server_that_plays_several_containers_gives_a_model_as_many_slots(limited, model_folder):
    server = limited(MMEKIT_CONCURRENCY="150")

    def most(folder):
        [group] = server.described(server.loaded(folder))["workerGroups"]
        return group["maxWorkers"]

    assert most(give_slots(model_folder(name="slots", minWorkers=1, maxWorkers=1))) == 150
    # A process of the plain engine has to fit beside the others.
    assert 2 < most(model_folder(name="plain", minWorkers=1, maxWorkers=2)) <= 150


def test_workers_and_models_are_as_many_as_is_set(limited, model_folder):
    server = limited(MMEKIT_MAX_WORKERS="3", MMEKIT_MAX_MODELS="1")

    refused = server.load("many", model_folder(name="many", minWorkers=0, maxWorkers=4))
    server.loaded(model_folder(name="three", minWorkers=0, maxWorkers=3))
    second = server.load("second", model_folder(name="second", minWorkers=0))

    assert refused.status_code == 500
    assert "4 workers are more than the 3 of a model (MMEKIT_MAX_WORKERS)" in refused.text
    assert second.status_code == 507
    assert "No more than 1 model" in second.text


def test_a_body_may_be_as_large_as_is_set(limited, model_folder):
    server = limited(SERVING_MAX_REQUEST_SIZE=str(1 << 20))
    name = server.loaded(model_folder())

    assert len(server.invoke(name, b"x" * (1 << 20)).content) == 1 << 20
    assert server.invoke(name, b"x" * ((1 << 20) + 1)).status_code == 413
    larger = ServerLimits.of({"SERVING_MAX_REQUEST_SIZE": str(1 << 30)})
    assert larger.http().body_bytes == 1 << 30


def test_a_request_may_take_as_long_as_is_set(limited):
    server = limited(MMEKIT_REQUEST_TIMEOUT_S="1")

    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(b"POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


def test_connections_are_as_many_as_is_set(limited):
    server = limited(MMEKIT_MAX_CONNECTIONS="3")
    clients = [socket.create_connection(("127.0.0.1", server.port), 30) for _ in range(9)]
    try:
        wait_until(lambda: "there are more than 3 connections" in server.log)
        assert httpx.get(f"{server.base}/ping").status_code == 200
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "9" * 40, "2147483648"])
def test_a_limit_that_is_no_number_is_an_error_that_names_it(text):
    with pytest.raises(SettingsError, match="MMEKIT_MAX_WORKERS is") as caught:
        ServerLimits.of({"MMEKIT_MAX_WORKERS": text})
    assert caught.value.remedy


def test_a_server_does_not_start_with_a_limit_that_is_none():
    done = subprocess.run(
        [sys.executable, "-m", "mmekit.cli", "serve", "--port", "0"],
        env={"MMEKIT_MAX_MODELS": "lots", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "MMEKIT_MAX_MODELS is 'lots'" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_model_prints_is_limited_as_is_set(limited, tmp_path):
    (tmp_path / "model.py").write_text(
        "from djl_python import Output\n"
        "def handle(inputs):\n"
        "    if not inputs.is_empty():\n"
        "        print(*range(300), sep='\\n', flush=True)\n"
        "    return Output().add('done')\n"
    )
    server = limited(MMEKIT_LOG_LINES_PER_S="20")

    server.invoke(server.loaded(tmp_path), "1")

    wait_until(lambda: "lines left out: more than 20 a second" in server.log)
    assert ServerLimits.of({"MMEKIT_LOG_LINES_PER_S": "0"}).log_lines_per_s == 0


def test_what_is_not_set_is_as_it_was():
    assert ServerLimits.of({"MMEKIT_MAX_MODELS": " ", "OTHER": "1"}) == ServerLimits()
    assert min(ServerLimits().workers, ServerLimits().models) > CONCURRENT
