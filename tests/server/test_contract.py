"""The container contract over real sockets; what is compared was seen on DJL Serving 0.36.0."""

from __future__ import annotations

import json

import httpx
import pytest

BEHAVIOUR = """
import os
import time
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    wish = inputs.get_as_string()
    if wish == "none":
        return None
    if wish == "str":
        return "x"
    if wish == "raise":
        raise RuntimeError("boom\\nline2")
    if wish == "memory":
        raise MemoryError("big")
    if wish == "teapot":
        return Output(code=418, message="teapot").add("t").add_property("X-My", "1")
    if wish == "nan":
        return Output().add_as_json(float("nan"))
    if wish == "two":
        return Output().add("a", key="k1").add("b", key="k2")
    if wish == "empty":
        return Output()
    if wish == "stream":
        return Output().add_stream_content(iter(["a", "b"]), None)
    if wish == "large":
        return Output().add(b"x" * (20 << 20))
    if wish == "properties":
        return Output().add_as_json(inputs.get_properties())
    if wish == "print":
        print("printed by the model", flush=True)
    return Output().add("ok")
"""


@pytest.fixture
def behaviour(server, model_folder):
    assert server.load("behaviour", model_folder(BEHAVIOUR)).status_code == 200
    yield
    server.client.delete("/models/behaviour")


def test_a_model_is_loaded_listed_described_invoked_and_unloaded(server, model_folder):
    folder = model_folder(minWorkers=1, maxWorkers=2, batch_size=1, max_idle_time=30)

    loaded = server.load("echo", folder)
    assert (loaded.status_code, loaded.json()) == (200, {"status": 'Model "echo" registered.'})

    listed = server.client.get("/models").json()
    url = folder.as_uri()
    assert listed == {"models": [{"modelName": "echo", "modelUrl": url, "status": "READY"}]}

    (described,) = server.client.get("/models/echo").json()
    assert described["workflowName"] == "echo"
    (model,) = described["models"]
    assert model["status"] == "Healthy"
    assert (model["batchSize"], model["maxIdleSeconds"], model["queueSize"]) == (1, 30, 1000)
    (group,) = model["workerGroups"]
    assert (group["minWorkers"], group["maxWorkers"]) == (1, 2)
    assert [worker["status"] for worker in group["workers"]] == ["READY"]

    answer = server.invoke("echo", b"\x00\xff bytes", content_type="application/octet-stream")
    assert (answer.status_code, answer.content) == (200, b"\x00\xff bytes")
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert answer.headers["x-request-id"]

    assert server.client.get("/ping").json() == {"echo": {"status": "Healthy"}}

    unloaded = server.client.delete("/models/echo")
    assert unloaded.json() == {"status": 'Model or workflow "echo" unregistered'}
    assert server.client.get("/models").json() == {"models": []}
    assert server.client.get("/ping").json() == {}


@pytest.mark.parametrize(
    ("method", "path", "kind", "message"),
    [
        ("GET", "/models/no", "ModelNotFoundException", "Workflow not found: no"),
        ("DELETE", "/models/no", "ModelNotFoundException", "Model or workflow not found: no"),
        ("POST", "/models/no/invoke", "ModelNotFoundException", "Model or workflow not found: no"),
        ("GET", "/elsewhere", "ResourceNotFoundException", "Requested resource is not found"),
    ],
)
def test_what_does_not_exist_is_404(server, method, path, kind, message):
    answer = server.client.request(method, path)

    assert answer.status_code == 404
    content = answer.json()
    assert (content["code"], content["type"]) == (404, kind)
    assert content["message"].startswith(message)
    assert answer.headers["connection"] == "close"


def test_a_model_is_loaded_only_once(server, behaviour, model_folder):
    again = server.load("behaviour", model_folder(name="again"))

    assert again.status_code == 409
    assert again.json()["message"] == "Workflow behaviour is already registered."


@pytest.mark.parametrize(
    ("wish", "status", "body"),
    [
        ("anything", 200, b"ok"),
        ("none", 204, b""),
        ("empty", 200, b""),
        ("two", 200, b"a"),
        ("stream", 200, b"ab"),
        ("memory", 507, b""),
        ("teapot", 418, b"t"),
    ],
)
def test_the_handlers_output_becomes_the_answer(server, behaviour, wish, status, body):
    answer = server.invoke("behaviour", wish)

    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers.get("x-my") == ("1" if wish == "teapot" else None)


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ("raise", "boom\nline2"),
        ("str", "Invalid output type: <class 'str'>"),
        ("nan", "Out of range float values are not JSON compliant: nan"),
    ],
)
def test_an_exception_is_424_and_the_worker_lives_on(server, behaviour, wish, error):
    answer = server.invoke("behaviour", wish)

    assert answer.status_code == 424
    assert answer.json() == {"code": 424, "message": "invoke handler failure", "error": error}
    assert server.invoke("behaviour", "x").content == b"ok"


def test_an_answer_may_be_large(server, behaviour):
    assert len(server.invoke("behaviour", "large").content) == 20 << 20


def test_the_handler_sees_headers_as_djl_serving_hands_them_over(server, behaviour):
    properties = server.invoke(
        "behaviour",
        "properties",
        Content_Type="text/csv",
        X_Amzn_SageMaker_Target_Model="a/b.tar.gz",
        X_Amzn_SageMaker_Custom_Attributes="probabilities=true; x = 1;odd",
    ).json()

    assert properties["Content-Type"] == "text/csv"
    assert properties["X-Amzn-SageMaker-Target-Model"] == "a/b.tar.gz"
    assert properties["probabilities"] == "true"
    assert properties["x"] == "1"
    assert "odd" not in properties
    assert properties["handler"] == "handle"
    assert properties["requestId"]


def test_a_request_cannot_choose_the_handler(server, behaviour):
    answer = server.invoke("behaviour", "x", handler="other")

    assert answer.status_code == 400
    assert answer.json()["message"] == "The handler can't be overridden in a request"


def test_what_a_model_prints_is_in_the_servers_log(server, behaviour):
    server.invoke("behaviour", "print")

    assert any("printed by the model" in line for line in list(server.lines))


def test_a_body_over_the_limit_is_413(server, behaviour):
    answer = server.invoke("behaviour", b"x" * ((64 << 20) + 1))

    assert answer.status_code == 413


def test_names_may_hold_anything(server, model_folder):
    name = "a folder/with spaces, 100 % and ü.tar.gz"
    path = "/models/a%20folder%2Fwith%20spaces%2C%20100%20%25%20and%20%C3%BC.tar.gz"
    assert server.load(name, model_folder()).status_code == 200

    assert server.client.post(f"{path}/invoke", content=b"x").content == b"x"
    assert server.client.get(path).status_code == 200
    assert server.client.delete(path).status_code == 200


def test_models_are_listed_in_pages(server, model_folder):
    folder = model_folder(minWorkers=0)
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        assert server.load(name, folder).status_code == 200

    found, token = [], "0"
    while token is not None:
        page = server.client.get("/models", params={"limit": 2, "next_page_token": token}).json()
        found += [model["modelName"] for model in page["models"]]
        token = page.get("nextPageToken")

    assert found == names
    for name in names:
        server.client.delete(f"/models/{name}")


@pytest.mark.parametrize(
    ("code", "properties", "status", "kind", "message"),
    [
        (
            "def handle(inputs): raise ValueError('no weights')",
            {},
            500,
            "EngineException",
            "Failed to initialize model: invoke handler failure",
        ),
        (
            (
                "from djl_python import Output\n"
                "def handle(inputs): return Output().error('e', message='the reason')"
            ),
            {},
            500,
            "EngineException",
            "Failed to initialize model: the reason",
        ),
        ("def handle(inputs): raise MemoryError('x')", {}, 507, "EngineException", "OOM"),
        (
            "def handle(",
            {},
            500,
            "EngineException",
            "Python stream closed unexpectedly, exit code: 1",
        ),
        (
            "x = 1",
            {},
            500,
            "EngineException",
            "Failed to initialize model: invoke handler failure",
        ),
        (
            "def handle(inputs): return None",
            {"engine": "python"},
            409,
            "IllegalArgumentException",
            "Deep learning engine not found: python",
        ),
        (
            "def handle(inputs): return None",
            {"batch_size": "abc"},
            409,
            "NumberFormatException",
            'For input string: "abc"',
        ),
        (
            "def handle(inputs): return None",
            {"required_memory_mb": 999_999_999},
            507,
            "WlmOutOfMemoryException",
            "No enough memory to load the model.",
        ),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_nothing(
    server, model_folder, code, properties, status, kind, message
):
    answer = server.load("broken", model_folder(code, **properties))

    assert answer.status_code == status
    assert answer.json() == {"code": status, "type": kind, "message": message}
    assert server.client.get("/models").json() == {"models": []}


def test_a_folder_that_does_not_exist_is_404(server, tmp_path):
    answer = server.load("nothing", tmp_path / "nothing")

    assert answer.status_code == 404
    assert answer.json()["message"] == f"Invalid model url: {(tmp_path / 'nothing').as_uri()}"


def test_a_model_without_a_python_file_says_so(server, model_folder):
    folder = model_folder()
    (folder / "model.py").unlink()

    answer = server.load("no-file", folder)

    assert answer.json()["message"] == f".py file not found in: {folder}"


def test_a_single_nested_folder_is_unwrapped(server, model_folder, tmp_path):
    inner = model_folder(name="outer")
    wrapper = tmp_path / "wrapper"
    wrapper.mkdir()
    inner.rename(wrapper / "inner")

    assert server.load("nested", wrapper).status_code == 200
    assert server.invoke("nested", "x").content == b"x"
    server.client.delete("/models/nested")


def test_requirements_that_are_not_installed_are_named(server, model_folder):
    folder = model_folder()
    (folder / "requirements.txt").write_text(
        "numpy>=1\nno-such-library==1.0  # a comment\n-r other.txt\nnumpy<1; python_version<'3'\n"
    )

    answer = server.load("wants", folder)

    assert answer.status_code == 500
    assert "no-such-library==1.0;" in answer.json()["message"]


def test_a_load_by_query_is_understood(server, model_folder):
    query = {"model_name": "query", "url": str(model_folder())}

    assert server.client.post("/models", params=query).status_code == 200
    assert server.client.delete("/models/query").status_code == 200


def test_a_body_that_is_not_json_is_refused(server):
    headers = {"content-type": "application/json"}
    answer = server.client.post("/models", content=b"garbage", headers=headers)

    assert answer.status_code == 500
    assert json.loads(answer.content)["type"] == "JsonSyntaxException"


def test_keep_alive_connections_are_reused(server, behaviour):
    with httpx.Client(base_url=server.client.base_url) as client:
        for _ in range(5):
            assert client.post("/models/behaviour/invoke", content=b"x").status_code == 200
        pool = client._transport._pool

        assert len(pool.connections) == 1
