"""Loading, listing, describing and unloading models."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest

GATED = """
import time
from pathlib import Path
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        while not Path({gate!r}).exists():
            time.sleep(0.005)
        return None
    return Output().add("ok")
"""


def test_a_model_is_loaded_listed_described_invoked_and_unloaded(server, model_folder):
    folder = model_folder(maxWorkers=2, max_idle_time=30)

    loaded = server.load("echo", folder)
    assert (loaded.status_code, loaded.json()) == (200, {"status": 'Model "echo" registered.'})
    assert loaded.text == '{\n  "status": "Model \\"echo\\" registered."\n}\n'

    url = folder.as_uri()
    listed = server.client.get("/models").json()
    assert listed == {"models": [{"modelName": "echo", "modelUrl": url, "status": "READY"}]}

    answer = server.invoke("echo", b"\x00\xff bytes", content_type="application/octet-stream")
    assert (answer.status_code, answer.content) == (200, b"\x00\xff bytes")

    assert server.client.get("/ping").json() == {"echo": {"status": "Healthy"}}

    unloaded = server.unload("echo")
    assert unloaded.json() == {"status": 'Model or workflow "echo" unregistered'}
    assert server.client.get("/models").json() == {"models": []}
    assert server.client.get("/ping").json() == {}


def test_a_description_has_the_sizes_and_the_workers(server, model_folder):
    folder = model_folder(
        maxWorkers=2, batch_size=3, max_batch_delay=7, max_idle_time=30, job_queue_size=9
    )
    assert server.load("echo", folder).status_code == 200

    (described,) = server.client.get("/models/echo").json()
    (model,) = described["models"]
    (group,) = model.pop("workerGroups")
    model.pop("processes", None)
    model.pop("memory", None)
    model.pop("parking", None)

    assert described["workflowName"] == "echo"
    assert model == {
        "modelName": "echo",
        "modelUrl": folder.as_uri(),
        "batchSize": 3,
        "maxBatchDelayMillis": 7,
        "maxIdleSeconds": 30,
        "queueSize": 9,
        "requestInQueue": 0,
        "status": "Healthy",
        "loadedAtStartup": False,
    }
    (worker,) = group.pop("workers")
    assert group == {
        "device": {"deviceType": "cpu", "deviceId": -1},
        "minWorkers": 1,
        "maxWorkers": 2,
    }
    assert isinstance(worker["id"], int)
    assert worker["status"] == "READY"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker["startTime"])


def test_every_answer_has_the_same_headers(server):
    answer = server.client.get("/models")

    assert dict(answer.headers) == {
        "content-type": "application/json",
        "x-request-id": answer.headers["x-request-id"],
        "pragma": "no-cache",
        "cache-control": "no-cache; no-store, must-revalidate, private",
        "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
        "content-length": str(len(answer.content)),
        "connection": "keep-alive",
    }
    assert re.fullmatch(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.headers["x-request-id"]
    )


@pytest.mark.parametrize(
    ("method", "path", "kind", "message"),
    [
        ("GET", "/models/no", "ModelNotFoundException", "Workflow not found: no"),
        ("DELETE", "/models/no", "ModelNotFoundException", "Model or workflow not found: no"),
        ("POST", "/models/no/invoke", "ModelNotFoundException", "Model or workflow not found: no"),
        ("GET", "/models/no/invoke", "ModelNotFoundException", "Model or workflow not found: no"),
        ("OPTIONS", "/models/no/invoke", "ModelNotFoundException", None),
        ("POST", "/predictions/no", "ModelNotFoundException", "Model or workflow not found: no"),
        ("GET", "/models/a%20b", "ModelNotFoundException", "Workflow not found: a b"),
        ("GET", "/models/%FC", "ModelNotFoundException", "Workflow not found: \ufffd"),
        ("GET", "/elsewhere", "ResourceNotFoundException", None),
        ("GET", "/pingx", "ResourceNotFoundException", None),
        ("GET", "//ping", "ResourceNotFoundException", None),
        ("POST", "/predictions", "ResourceNotFoundException", None),
    ],
)
def test_what_does_not_exist_is_404(server, says, method, path, kind, message):
    answer = server.client.send(server.client.build_request(method, server.base + path))

    says(answer, 404, kind, message)
    if kind == "ResourceNotFoundException":
        assert answer.json()["message"] == (
            "Requested resource is not found, please refer to API document."
        )


def test_the_root_is_404_or_the_way_to_a_console(server, says):
    answer = server.client.get("/")

    if server.has_plugin("console"):
        assert answer.status_code == 200
        assert "/console/index.html" in answer.text
    else:
        says(answer, 404, "ResourceNotFoundException", None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/models"),
        ("DELETE", "/models"),
        ("OPTIONS", "/models"),
        ("POST", "/models/no"),
        ("PATCH", "/models/no"),
        ("POST", "/models/no/invoke/"),
        ("POST", "/models/no/invoke?x=1"),
        ("POST", "/models//invoke"),
    ],
)
def test_a_method_that_is_not_for_a_path_is_405(server, says, method, path):
    answer = server.client.request(method, server.base + path)

    message = "Requested method is not allowed, please refer to API document."
    says(answer, 405, "MethodNotAllowedException", message)


def test_a_model_is_loaded_only_once(server, model_folder, says):
    server.load("echo", model_folder())

    again = server.load("echo", model_folder(name="again"))

    says(again, 409, "BadRequestException", "Workflow echo is already registered.")
    assert again.reason_phrase == "Workflow echo is already registered."
    assert server.invoke("echo", "x").text == "x"


def test_a_model_that_is_being_loaded_is_not_loaded_again_and_does_no_harm(
    server, model_folder, says, until, threads, tmp_path
):
    gate = tmp_path / "gate"
    folder = model_folder(GATED.format(gate=str(gate)))
    server.load("other", model_folder(name="other"))
    loading = threads.submit(server.load, "gated", folder)
    until(lambda: "gated" in server.client.get("/ping").json())

    message = "Workflow gated is already registered."
    says(server.load("gated", folder), 409, "BadRequestException", message)
    assert server.client.get("/ping").status_code == 200
    assert server.invoke("other", "x").text == "x"
    gate.touch()

    assert loading.result().status_code == 200
    assert server.invoke("gated", "x").text == "ok"


def test_models_are_listed_in_pages(server, model_folder):
    folder = model_folder(minWorkers=0)
    names = [f"page-{number}" for number in range(5)]
    for name in reversed(names):
        assert server.load(name, folder).status_code == 200

    found, token, pages = [], "0", 0
    while token is not None:
        page = server.client.get("/models", params={"limit": 2, "next_page_token": token}).json()
        found += [model["modelName"] for model in page["models"]]
        token = page.get("nextPageToken")
        pages += 1

    assert (found, pages) == (names, 3)
    for params, count, following in (
        ("", 5, None),
        ("limit=0", 0, "0"),
        ("limit=-1", 5, None),
        ("limit=101", 5, None),
        ("limit=", 5, None),
        ("next_page_token=3", 2, None),
        ("next_page_token=-3", 5, None),
        ("next_page_token=9", 0, None),
    ):
        page = server.client.get(f"/models?{params}").json()
        assert (len(page["models"]), page.get("nextPageToken")) == (count, following), params


@pytest.mark.parametrize("value", ["abc", "+1", "1.5", "99999999999"])
def test_a_page_that_is_no_number_is_409(server, says, value):
    answer = server.client.get(f"/models?limit={value}")

    text = value.replace("+", " ")
    says(answer, 409, "NumberFormatException", re.compile(re.escape(f'For input string: "{text}"')))


@pytest.mark.parametrize(
    ("body", "content_type", "status", "kind"),
    [
        ("garbage", "application/json", 500, "JsonSyntaxException"),
        ("[]", "application/json", 500, "JsonSyntaxException"),
        ('{"url": "/x"} more', "application/json", 500, "JsonSyntaxException"),
        ('{"url": "/x"}', "text/plain", 400, "BadRequestException"),
        ('{"url": "/x"}', "", 400, "BadRequestException"),
    ],
)
def test_a_load_that_cannot_be_read_is_refused(server, says, body, content_type, status, kind):
    headers = {"content-type": content_type} if content_type else {}

    answer = server.client.post("/models", content=body, headers=headers)

    says(answer, status, kind, "Parameter url is required." if status == 400 else None)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json"]
)
def test_a_load_may_be_json_in_any_spelling(server, says, content_type):
    answer = server.client.post(
        "/models",
        content='{"model_name": "x", "url": "/does/not/exist"}',
        headers={"content-type": content_type},
    )

    says(answer, 404, "ModelNotFoundException", "Invalid model url: /does/not/exist")


@pytest.mark.parametrize(
    "url", ["file:///does/not/exist", "does/not/exist", "http://127.0.0.1:1/x.tar.gz"]
)
def test_a_folder_that_does_not_exist_is_404(server, says, until, url):
    answer = server.client.post("/models", json={"model_name": "x", "url": url})

    says(answer, 404, "ModelNotFoundException", f"Invalid model url: {url}")
    # DJL Serving may still be busy with the model that was unloaded before.
    until(lambda: server.client.get("/models").json() == {"models": []})


def test_a_load_by_query_is_understood_and_may_leave_out_the_name(server, model_folder):
    folder = model_folder(name="the-model")

    named = server.client.post("/models", params={"model_name": "query", "url": str(folder)})
    nameless = server.client.post("/models", params={"url": folder.as_uri() + "/"})

    assert named.json() == {"status": 'Model "query" registered.'}
    assert nameless.json() == {"status": 'Model "the_model" registered.'}
    assert server.invoke("the_model", "x").text == "x"


@pytest.mark.parametrize(
    "name",
    [
        "two words",
        "100 %",
        "a%2Fb",
        "a+b&c=d?e#f;g",
        "grün-模型-😀",
        "archive.tar.gz",
        "x" * 1024,
    ],
    ids=lambda name: name[:12],
)
def test_names_may_hold_nearly_anything(server, model_folder, name):
    assert server.load(name, model_folder()).status_code == 200

    assert server.invoke(name, "x").content == b"x"
    path = f"/models/{quote(name, safe='')}"
    assert server.client.get(path).json()[0]["workflowName"] == name
    assert server.client.get("/ping").json() == {name: {"status": "Healthy"}}
    assert server.client.get("/models").json()["models"][0]["modelName"] == name
    assert server.client.delete(path).json() == {
        "status": f'Model or workflow "{name}" unregistered'
    }


def test_a_name_after_a_slash_is_taken_for_a_version(server, model_folder, says):
    server.load("a", model_folder())

    says(
        server.client.post("/models/b%2Fc/invoke", content=b"x"),
        404,
        "ModelNotFoundException",
        "Model or workflow not found: b",
    )
    says(server.client.get("/models/a/1"), 404, "ModelNotFoundException", re.compile("a/1"))
    says(server.client.delete("/models/a/1"), 404, "ModelNotFoundException", re.compile("a"))
    assert server.invoke("a", "x").text == "x"


def test_an_old_load_leaves_nothing_for_a_new_one(server, model_folder):
    said = "from djl_python import Output\ndef handle(i): return Output().add({!r})"
    server.load("again", model_folder(said.format("one"), name="one"))
    server.unload("again")

    assert server.load("again", model_folder(said.format("two"), name="two")).status_code == 200
    assert server.invoke("again", "x").text == "two"


@pytest.mark.parametrize("beside", [None, ".hidden"])
def test_a_single_nested_folder_is_unwrapped(server, model_folder, tmp_path, beside):
    inner = model_folder(name="outer")
    wrapper = tmp_path / "wrapper"
    wrapper.mkdir()
    if beside:
        (wrapper / beside).write_text("x")
    inner.rename(wrapper / "inner")

    assert server.load("nested", wrapper).status_code == 200
    assert server.invoke("nested", "x").content == b"x"


def test_a_folder_nested_twice_is_not(server, model_folder, says, tmp_path):
    inner = model_folder(name="outer")
    wrapper = tmp_path / "wrapper" / "second"
    wrapper.mkdir(parents=True)
    inner.rename(wrapper / "inner")

    answer = server.load("nested", wrapper.parent)

    message = f"Failed to detect engine of the model: {wrapper}"
    says(answer, 404, "ModelNotFoundException", message)


def test_requirements_that_are_there_do_no_harm(server, model_folder):
    folder = model_folder()
    (folder / "requirements.txt").write_text("numpy>=1\n")

    assert server.load("wants", folder).status_code == 200
    assert server.invoke("wants", "x").text == "x"


def test_the_memory_of_a_model_is_free_when_its_unloading_answers(server, model_folder, until):
    import psutil

    def processes() -> set[int]:
        return {one.pid for one in psutil.Process(server.pid).children(recursive=True)}

    before = processes()
    server.load("echo", model_folder(minWorkers=2, maxWorkers=2))
    answered = server.invoke("echo", "x")
    started = processes() - before

    server.unload("echo")

    assert answered.text == "x"
    # What stays is shared by all models that have worker slots.
    until(lambda: server.slots or not processes() & started)


def test_a_load_is_not_undone_by_a_client_that_goes_away(
    server, model_folder, until, post, tmp_path
):
    gate = tmp_path / "gate"
    folder = model_folder(GATED.format(gate=str(gate)))
    content = json.dumps({"model_name": "left", "url": folder.as_uri()}).encode()
    wire = server.connect()
    wire.send(post("/models", content, ["Content-Type: application/json"]))
    until(lambda: "left" in server.client.get("/ping").json())
    wire.close()
    gate.touch()

    def is_ready():
        models = server.client.get("/models").json()["models"]
        return [model["status"] for model in models] == ["READY"]

    until(is_ready)
    # DJL Serving calls it so a moment before its first worker is there.
    until(lambda: server.invoke("left", "x").text == "ok")
