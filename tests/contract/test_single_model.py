"""A container with one model: loaded at start, invoked by POST /invocations."""

from __future__ import annotations

import pytest

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
    return Output().add(inputs.get_as_bytes())
"""


@pytest.fixture
def side(server):
    return server.side


@pytest.fixture
def start_with(start, side):
    """Start a server with a model; the options are those of its kind."""

    def start_one(folder):
        if side == "embedded":
            return start[side]("--model", str(folder))
        return start[side](model=folder)

    return start_one


def test_a_model_is_loaded_at_start_and_invoked_without_a_name(model_folder, start_with):
    folder = model_folder(name="my-model")

    with start_with(folder) as server:
        lies = server.only_model or folder.resolve()
        name = lies.name.replace("-", "_")
        ping = server.client.get("/ping")
        assert (ping.status_code, ping.json()) == (200, {name: {"status": "Healthy"}})

        answer = server.client.post("/invocations", content=b"\x00\xff")
        assert (answer.status_code, answer.content) == (200, b"\x00\xff")
        assert answer.headers["x-request-id"]

        url = f"file:{lies}/"
        assert server.client.get("/models").json() == {
            "models": [{"modelName": name, "modelUrl": url, "status": "READY"}]
        }
        assert server.describe(name)["loadedAtStartup"] is True
        assert server.invoke(name, "x").text == "x"
        assert server.client.post(f"/predictions/{name}", content=b"y").text == "y"
        assert server.client.post("/invocations?model_name=no", content=b"y").status_code == 404
        body = b"x" * ((64 << 20) + 1)
        assert server.client.post("/invocations", content=body).status_code == 413


def test_a_model_that_is_nested_in_a_folder_is_found(model_folder, start_with, tmp_path):
    inner = model_folder(name="inner")
    outer = tmp_path / "outer"
    outer.mkdir()
    inner.rename(outer / "inner")

    with start_with(outer) as server:
        assert server.client.post("/invocations", content=b"x").text == "x"


def test_a_server_is_not_healthy_before_its_model_is_loaded(
    model_folder, start_with, until, threads, tmp_path
):
    gate = tmp_path / "gate"
    folder = model_folder(GATED.format(gate=str(gate)))
    seen = []

    def start_and_ping():
        with start_with(folder) as server:
            seen.append(server.client.get("/ping").status_code)

    started = threads.submit(start_and_ping)
    until((tmp_path / "gate.begun").exists)

    assert not started.done()
    assert seen == []
    gate.touch()
    started.result()
    assert seen == [200]


def test_a_model_that_cannot_be_loaded_ends_the_server(model_folder, start_with, start_errors):
    folder = model_folder("def handle(inputs): raise ValueError('no weights')")

    with pytest.raises(start_errors), start_with(folder):
        pass
