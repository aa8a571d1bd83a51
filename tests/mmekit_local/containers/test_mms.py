"""Multi Model Server 1.1.11 as a container; runs where it is there or asked for.

MMEKIT_MMS_PYTHON names a Python that has it, or MMEKIT_TEST_MMS=1 lets it be made in the user's
cache.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from botocore.exceptions import ClientError

from mmekit.errors import ServerError
from mmekit_local.containers import mms
from mmekit_local.server import ServerOptions

ENTRYPOINT = Path(__file__).resolve().parents[3] / "infrastructure/containers/mms/entrypoint.py"
OWN = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mms:1"
HANDLER = """
import json
import os
from pathlib import Path

def handle(data, context):
    if not data:
        if Path(context.system_properties["model_dir"], "huge").exists():
            raise MemoryError
        return None
    body = bytes(data[0]["body"])
    if body == b"raise":
        raise ValueError("boom")
    context.set_response_content_type(0, "application/json")
    folder = Path(context.system_properties["model_dir"])
    seen = {"files": sorted(path.name for path in folder.iterdir()), "pid": os.getpid()}
    return [json.dumps({**seen, "temporary": os.environ["TMPDIR"], "body": len(body)})]
"""
BINARY = {"content-type": "application/octet-stream"}

asked = pytest.mark.skipif(
    "MMEKIT_MMS_PYTHON" not in os.environ and os.environ.get("MMEKIT_TEST_MMS") != "1",
    reason="neither MMEKIT_MMS_PYTHON nor MMEKIT_TEST_MMS=1 asks for Multi Model Server",
)


@pytest.fixture
def handler(tmp_path):
    file = tmp_path / "handler" / "model_handler.py"
    file.parent.mkdir()
    file.write_text(HANDLER)
    return file


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").touch()
    return folder


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def commands_of(folder):
    """The processes that name a folder on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or ()
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in w for w in words):
            found.append(process)
    return found


@asked
def test_a_model_is_loaded_invoked_and_unloaded(handler, model):
    with (
        mms.serving(handler) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client,
    ):
        load = {"model_name": "a", "url": str(model)}
        assert client.post("/models", json=load).status_code == 200
        seen = client.post("/models/a/invoke", content=b"abc", headers=BINARY).json()
        assert (seen["files"], seen["body"]) == (["weights"], 3)
        assert client.post("/models/a/invoke", content=b"raise", headers=BINARY).status_code == 503
        assert client.delete("/models/a").status_code == 200
        assert client.post("/models/a/invoke", content=b"abc").status_code == 404
        family = psutil.Process(server.pid).children(recursive=True)
        assert "java" in {process.name() for process in family}
        folder = server.folder

    assert all(gone(process.pid) for process in family)
    assert not folder.exists()


@asked
def test_a_model_without_room_is_507(handler, model):
    (model / "huge").touch()

    with mms.serving(handler) as server:
        load = {"model_name": "a", "url": str(model)}
        answer = httpx.post(f"http://127.0.0.1:{server.port}/models", json=load, timeout=60)

    assert answer.status_code == 507


@asked
def test_two_instances_serve_one_endpoint_as_the_image_would(up, images, handler):
    command = ["mms", handler, "--entrypoint", ENTRYPOINT]
    images(mms=(command, {"SAGEMAKER_MODEL_SERVER_WORKERS": "1"}))
    service = up()
    names = [f"{letter}.tar.gz" for letter in "abcd"]
    for name in names:
        service.put(name, weights=b"w")

    described = service.create_endpoint("e", OWN, instances=2)

    assert described["EndpointStatus"] == "InService", described
    seen = [
        service.seen("e", name, body=b"abc", ContentType="application/octet-stream")
        for name in names
    ]
    assert {len(one["files"]) for one in seen} == {1}
    assert len({one["pid"] for one in seen}) == len(names)
    assert len({one["temporary"] for one in seen}) == 2
    with pytest.raises(ClientError) as failed:
        service.invoke("e", names[0], body=b"raise", ContentType="application/octet-stream")
    assert failed.value.response["Error"]["Code"] == "ModelError"
    again = service.seen("e", names[0], body=b"abc", ContentType="application/octet-stream")
    assert again["pid"] == seen[0]["pid"]
    addresses = [line for line in service.log.splitlines() if "Inference address" in line]
    assert len(addresses) == 2
    assert all("http://127.0.0.1:" in line for line in addresses)


@asked
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_that_ends_takes_java_and_workers_with_it(up, images, handler, number):
    images(mms=["mms", handler])
    service = up()
    service.put("a.tar.gz", weights=b"w")
    service.create_endpoint("e", OWN)
    seen = service.seen("e", "a.tar.gz", body=b"abc", ContentType="application/octet-stream")
    here = service.folder / "tmp"
    assert {process.name() for process in commands_of(here)} >= {"java"}

    service.stop(number)

    service.wait_until(lambda: not commands_of(here))
    assert gone(seen["pid"])


@asked
def test_a_single_model_is_served_from_the_command_line(handler, model, tmp_path):
    temporary = tmp_path / "t"
    temporary.mkdir()
    command = [sys.executable, "-m", "mmekit.cli", "serve", "--server", "mms", "--port", "0"]
    with subprocess.Popen(
        [*command, "--handler", str(handler), "--model", str(model)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        address = next(line for line in process.stdout if "serving on" in line).split()[-1]
        answer = httpx.post(f"{address}/invocations", content=b"ab", headers=BINARY, timeout=60)
        process.terminate()
        rest = process.stdout.read()

    assert answer.json()["body"] == 2
    assert process.returncode == 0, rest
    assert list(temporary.iterdir()) == []


@asked
def test_the_entrypoint_tries_again_what_may_pass_and_runs_other_commands(tmp_path, handler):
    python = mms.prepare(handler)
    script = (
        "import sys, runpy\n"
        "from sagemaker_inference import model_server\n"
        "tries = []\n"
        "def start(handler_service):\n"
        "    tries.append(handler_service)\n"
        "    if len(tries) < 3:\n"
        "        raise OSError('not yet')\n"
        "model_server.start_model_server = start\n"
        "sys.argv = ['entrypoint.py', 'serve']\n"
        f"runpy.run_path({str(ENTRYPOINT)!r}, run_name='__main__')\n"
        "print(tries)\n"
    )

    def printed(*arguments):
        command = [python, "-W", "ignore", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        return ended.stdout

    tries = printed("-c", script)
    other = printed(ENTRYPOINT, "echo", "hello")

    assert json.loads(tries.replace("'", '"')) == ["/opt/program/model_handler.py:handle"] * 3
    assert other == "hello\n"


def test_a_handler_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ServerError, match="no such handler"):
        mms.prepare(tmp_path / "none.py")


def test_a_port_that_the_server_does_not_take_is_refused(handler):
    with pytest.raises(ServerError, match="no port above 32767"), mms.serving(handler, 40_000):
        pass


def test_a_limit_that_the_server_does_not_keep_is_refused(handler):
    with pytest.raises(ServerError, match="how much memory"):
        mms.run_mms(ServerOptions(port=0, memory=1 << 30), handler)


@pytest.mark.parametrize("arguments", [["--server", "mms"], ["--handler", __file__]])
def test_the_server_and_its_handler_go_together(arguments):
    command = [sys.executable, "-m", "mmekit.cli", "serve", *arguments]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)

    assert refused.returncode == 2
    assert "only valid together" in refused.stderr
