"""Where the embedded server differs from DJL Serving on purpose: both sides of the table in docs.

Each test is a row of docs/server.md.
"""

from __future__ import annotations

import contextlib
import json

import psutil
import pytest

INVOKE = "/models/behaviour/invoke"

COUNTER = """
import itertools
import os
import time
from pathlib import Path
from djl_python import Output

count = itertools.count()

def handle(inputs):
    if inputs.is_empty():
        return None
    wish = inputs.get_as_string()
    if wish == "exit":
        os._exit(3)
    if wish.startswith("hold "):
        Path(wish[5:] + ".held").touch()
        while not Path(wish[5:]).exists():
            time.sleep(0.005)
    return Output().add(str(os.getpid())).add_property("X-Count", next(count))
"""

GATED = """
import time
from pathlib import Path
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        Path({gate!r} + ".begun").touch()
        while not Path({gate!r}).exists():
            time.sleep(0.005)
        return None
    return Output().add("ok")
"""


@pytest.fixture
def is_djl(server):
    return server.is_djl


@pytest.fixture
def load(server, model_folder):
    def load(**properties):
        answer = server.load("counter", model_folder(COUNTER, **properties))
        assert answer.status_code == 200, answer.text

    return load


def test_waiting_requests_are_answered_in_the_order_of_their_arrival(
    server, is_djl, load, threads, until, tmp_path
):
    load()
    gate = tmp_path / "gate"
    asked = [threads.submit(server.invoke, "counter", f"hold {gate}")]
    until((tmp_path / "gate.held").exists)
    for number in range(18):
        asked.append(threads.submit(server.invoke, "counter", str(number)))
        until(lambda number=number: server.describe("counter")["requestInQueue"] == number + 1)
    gate.touch()

    turns = [int(one.result().headers["x-count"]) for one in asked]

    assert (turns == sorted(turns)) is not is_djl


def test_a_worker_that_dies_in_a_request_fails_only_that_and_is_replaced(server, is_djl, load):
    load()

    assert server.invoke("counter", "exit").status_code == 503

    ping = server.client.get("/ping")
    if is_djl and not server.slots:  # which replace their process behind either server
        assert (ping.status_code, ping.json()["counter"]["status"]) == (500, "FAILED")
        assert server.invoke("counter", "x").status_code == 503
    else:
        assert ping.status_code == 200
        assert server.invoke("counter", "x").status_code == 200


def test_an_idle_worker_that_is_killed_is_replaced(server, is_djl, load, until):
    load()
    pid = int(server.invoke("counter", "x").text)

    psutil.Process(pid).kill()
    until(lambda: not psutil.pid_exists(pid) or _is_zombie(pid))

    if is_djl and not server.slots:
        until(lambda: server.invoke("counter", "x").status_code == 400)
        stopped = server.invoke("counter", "x").json()
        assert stopped["message"] == "Backend Python process is stopped."
        assert stopped["type"] == "TranslateException"
        assert server.client.get("/ping").status_code == 200
    else:
        until(lambda: server.invoke("counter", "x").status_code == 200)


def _is_zombie(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_a_worker_that_was_late_is_replaced(server, is_djl, load, until, tmp_path):
    load(option__predict_timeout=2, retry_threshold=1)

    assert server.invoke("counter", f"hold {tmp_path / 'never'}").status_code == 503

    assert server.client.get("/ping").status_code == 200
    if is_djl:
        # Its place is free after a minute.
        refused = server.invoke("counter", "x").json()
        assert (refused["code"], refused["type"]) == (503, "WlmCapacityException")
    else:
        until(lambda: server.invoke("counter", "x").status_code == 200)


def test_requirements_that_are_not_installed_are_named(server, is_djl, model_folder):
    folder = model_folder()
    (folder / "requirements.txt").write_text(
        "numpy>=1\nno-such-library @ file:///no/such/folder  # a comment\n"
        "-r other.txt\nnumpy<1; python_version<'3'\n"
    )

    answer = server.load("wants", folder)

    if is_djl:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["type"]) == (500, "ModelException")
        assert "no-such-library @ file:///no/such/folder" in answer.json()["message"]


def test_an_engine_other_than_python_is_not_there(server, is_djl, model_folder, until):
    answer = server.load("trees", model_folder(engine="XGBoost"))

    refused = answer.json()
    lacked = refused["message"] == "Deep learning engine not found: XGBoost"
    assert lacked or is_djl
    # A distribution that has it finds no trees in the folder, or not the engine's own library.
    status, kind = (409, "IllegalArgumentException") if lacked else (500, refused["type"])
    assert (answer.status_code, refused["type"]) == (status, kind)
    until(lambda: server.client.get("/models").json() == {"models": []})


def test_an_entry_point_is_not_downloaded(server, is_djl, model_folder):
    folder = model_folder(option__entryPoint="http://127.0.0.1:9/model.py")

    answer = server.load("elsewhere", folder)

    assert answer.status_code == 500
    assert ("nothing is downloaded" in answer.json()["message"]) != is_djl


def test_a_model_that_is_being_loaded_is_pending(
    server, is_djl, model_folder, until, threads, tmp_path
):
    folder = model_folder(GATED.format(gate=str(tmp_path / "gate")))
    loading = threads.submit(server.load, "gated", folder)
    until((tmp_path / "gate.begun").exists)

    status = server.client.get("/ping").json()["gated"]["status"]
    listed = server.client.get("/models").json()["models"][0]["status"]

    if is_djl:
        # A request would wait now, and an unloading would leave the worker running for ever.
        assert (status, listed) == ("Unhealthy", "READY")
    else:
        assert (status, listed) == ("PENDING", "PENDING")
        refused = server.invoke("gated", "x")
        assert refused.status_code == 503
        assert refused.json()["message"] == "Model is not ready: gated"
        assert server.unload("gated").status_code == 404
    (tmp_path / "gate").touch()
    assert loading.result().status_code == 200


def test_loads_under_way_count_as_taken_memory(
    server, is_djl, model_folder, until, threads, tmp_path
):
    most = psutil.virtual_memory().available >> 20
    sizes = {"required_memory_mb": int(most * 0.6), "reserved_memory_mb": 1}
    code = GATED.format(gate=str(tmp_path / "gate"))
    first = threads.submit(server.load, "first", model_folder(code, name="first", **sizes))
    until((tmp_path / "gate.begun").exists)

    second = threads.submit(server.load, "second", model_folder(name="second", **sizes))

    if is_djl:
        assert second.result().status_code == 200
    else:
        refused = second.result()
        assert refused.status_code == 507
        assert refused.json()["message"] == "No enough memory to load the model."
    (tmp_path / "gate").touch()
    assert first.result().status_code == 200


def test_a_description_has_processes(server, is_djl, load):
    load()

    assert ("processes" in server.describe("counter")) is not is_djl


def test_metrics_are_at_their_usual_place(server, is_djl):
    assert server.client.get("/metrics").status_code == (404 if is_djl else 200)


def test_a_full_queue_says_when_to_come_again(server, is_djl, model_folder):
    server.load("none", model_folder(minWorkers=0))

    refused = server.invoke("none", "x")

    assert refused.status_code == 503
    assert refused.headers.get("retry-after") == (None if is_djl else "1")


@pytest.mark.parametrize(
    "head",
    [b"GET /ping HTTP/1.0\r\n\r\n", b"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n"],
    ids=["HTTP/1.0", "close"],
)
def test_a_client_that_wants_the_connection_closed_is_obeyed(server, is_djl, head):
    wire = server.connect()
    wire.send(head)

    answer = wire.answer()

    if is_djl:
        assert answer.header("connection") == "keep-alive"
        wire.send(head)
        assert wire.answer().status == 200
    else:
        assert answer.header("connection") == "close"
        assert wire.ended()


def test_requests_that_do_not_wait_are_answered_in_their_order(server, is_djl, behaviour, post):
    sent = [b"%d" % number for number in range(40)]
    answered = []
    # DJL Serving sometimes resets such a connection before all are answered.
    with contextlib.suppress(*([ConnectionError] if is_djl else [])):
        for _ in range(3):
            wire = server.connect()
            wire.send(b"".join(post(INVOKE, body) for body in sent))
            for _ in sent:
                answered.append(wire.answer())
                assert is_djl or answered[-1].status == 200, (answered[-1], server.log())

    assert ([answer.body for answer in answered] == sent * 3) is not is_djl


@pytest.mark.parametrize(
    "data",
    [
        b"GET /ping HTTP/1.1\nHost: localhost\n\n",
        b"GET /ping HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"INVENTED /ping HTTP/1.1\r\n\r\n",
    ],
    ids=["bare line feed", "folded header", "two lengths", "unknown coding", "unknown method"],
)
def test_http_is_read_strictly(server, is_djl, data):
    wire = server.connect()
    wire.send(data)

    assert wire.answer().status == (200 if is_djl else 400)


def test_a_path_with_a_broken_escape_is_404(server, is_djl):
    wire = server.connect()
    wire.send(b"GET /models/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n")

    if is_djl:
        assert wire.ended()
    else:
        assert wire.answer().status == 404


def test_a_connection_is_closed_without_a_reset(server, is_djl):
    wire = server.connect()
    wire.send(b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert wire.answer().status == 404

    if is_djl:
        with pytest.raises(ConnectionResetError):
            wire.socket.recv(1)
    else:
        assert wire.socket.recv(1) == b""


def test_a_status_that_is_none_is_not_sent(server, is_djl, behaviour, post, until):
    wire = server.connect()
    wire.send(post(INVOKE, b"x", ["wish: status"]))

    assert wire.answer().status == (1000 if is_djl else 503)
    until(lambda: behaviour("anything", "x").status_code == 200)


@pytest.mark.parametrize(
    ("method", "path", "headers", "djl", "ours"),
    [
        ("PUT", "/models/behaviour?min_worker=1&max_worker=1", {}, 200, 405),
        ("GET", "/workflows", {}, 200, 404),
        ("GET", "/server/metrics", {}, 400, 404),
        ("POST", INVOKE, {"x-starting-token": "abc"}, 400, 200),
        ("POST", INVOKE, {"x-synchronous": "false"}, 200, 200),
    ],
    ids=["scaling", "workflows", "server", "token", "asynchronous"],
)
def test_what_sagemaker_does_not_use_is_not_there(
    server, is_djl, behaviour, method, path, headers, djl, ours
):
    answer = server.client.request(method, path, headers=headers, content=b"x")

    assert answer.status_code == (djl if is_djl else ours)
    if "x-synchronous" in headers:
        assert ("x-next-token" in answer.headers) is is_djl


def test_settings_in_the_request_of_a_load_are_not_read(server, is_djl, model_folder):
    parameters = {"model_name": "sized", "url": str(model_folder()), "batch_size": 5}
    assert server.client.post("/models", params=parameters).status_code == 200

    assert server.describe("sized")["batchSize"] == (5 if is_djl else 1)


@pytest.mark.parametrize(
    ("content", "djl"),
    [
        ({"model_name": "x"}, 500),
        ({"model_name": "x", "url": ""}, 404),
        ({"url": "/does/not/exist"}, 500),
        ({}, 500),
        (None, 500),
    ],
)
def test_a_load_that_lacks_something_says_what(server, is_djl, content, djl):
    answer = server.client.post(
        "/models", content=json.dumps(content), headers={"content-type": "application/json"}
    )

    ours = 500 if content is None else 400
    assert answer.status_code == (djl if is_djl else ours)
    if ours == 400 and not is_djl:
        assert answer.json()["message"] in (
            "Parameter url is required.",
            "Parameter model_name is required.",
        )


def test_a_model_is_a_folder(server, is_djl, model_folder):
    answer = server.load("file", model_folder() / "model.py")

    assert answer.status_code == (200 if is_djl else 404)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_counts_as_one(server, is_djl, model_folder, until, size):
    server.load("none", model_folder(batch_size=size))

    assert server.describe("none")["batchSize"] == (size if is_djl else 1)
    if size == 0 or not is_djl:
        assert server.invoke("none", "x").text == "x"
    else:
        until(lambda: server.invoke("none", "x").status_code == 503)


def test_a_model_has_at_most_1024_workers(server, is_djl, model_folder):
    answer = server.load("many", model_folder(minWorkers=0, maxWorkers=1025))

    assert answer.status_code == (200 if is_djl else 500)
    expected = "1025 workers are more than the 1024 of a model (MMEKIT_MAX_WORKERS)"
    assert is_djl or answer.json()["message"] == expected
