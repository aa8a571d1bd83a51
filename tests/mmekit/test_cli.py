"""`mme` as a process, the way it is used."""

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from typer.main import get_command

import mmekit
from mmekit.archive import STOCK_IMAGE, unpack, verify
from mmekit.cli import app
from mmekit_local import ports
from tests.mme_command import run_mme
from tests.mmekit.archive.wheelhouse import add_wheel

ON_AN_ENDPOINT = """
import os, sys
import boto3

url = os.environ["MME_LOCAL_URL"]
keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
client = lambda name: boto3.client(name, endpoint_url=url, **keys)
client("s3").create_bucket(Bucket="models")
client("s3").upload_file(sys.argv[1], "models", "ridge.tar.gz")
sagemaker = client("sagemaker")
role = "arn:aws:iam::123456789012:role/mme"
image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
container = {"Image": image, "Mode": "MultiModel", "ModelDataUrl": "s3://models/"}
sagemaker.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer=container)
variant = {
    "VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1
}
sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="e", WaiterConfig={"Delay": 1})
answer = client("sagemaker-runtime").invoke_endpoint(
    EndpointName="e", TargetModel="ridge.tar.gz", ContentType="application/json",
    Body='{"instances": [[7.0]]}',
)
print("answered", answer["Body"].read().decode())
"""


@pytest.fixture
def mme(tmp_path):
    def run(*arguments, forked=True, **variables):
        environment = {**os.environ, "COLUMNS": "120", **variables}
        return run_mme(*arguments, folder=tmp_path, environment=environment, forked=forked)

    return run


@pytest.fixture
def package(tmp_path):
    """Return a package folder that nothing is wrong with."""
    folder = tmp_path / "ridge"
    folder.mkdir()
    (folder / "model.py").write_text(
        "from mmekit_runtime import Handler\n\n\n"
        "class Ridge(Handler):\n"
        "    features = 1\n\n"
        "    def load(self, folder):\n"
        "        return 2.0\n\n"
        "    def predict(self, model, rows, parameters):\n"
        "        return model * rows[:, 0]\n\n\n"
        "handle = Ridge()\n"
    )
    (folder / "serving.properties").write_text(
        "engine=Python\nminWorkers=1\nmaxWorkers=1\nmax_idle_time=60\n"
    )
    (folder / "sample_request.json").write_text('{"instances": [[1.0]]}')
    (folder / "sample_response.json").write_text('{"predictions": [2.0]}')
    return folder


@pytest.fixture
def artifacts(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "weights.json").write_text("[2.0]")
    return folder


def test_version_and_help_answer_without_loading_any_room(mme):
    assert mme("--version", forked=False).stdout == f"mmekit {mmekit.__version__}\n"
    helped = mme("--help", forked=False, PYTHONPROFILEIMPORTTIME="1")
    for command in (
        *("check", "measure", "pack", "environment", "serve", "up", "invoke", "demo", "bench"),
    ):
        assert f" {command} " in helped.stdout
    for heavy in (
        "mmekit.archive",
        "mmekit_local.server",
        "mmekit_local.sagemaker",
        "boto3",
        "pydantic",
    ):
        assert f" {heavy}\n" not in helped.stderr


@pytest.mark.parametrize(
    "command", ["check", "measure", "pack", "environment", "serve", "up", "invoke", "bench"]
)
def test_the_help_of_a_command_has_an_example(mme, command):
    assert f"mme {command}" in mme(command, "--help").stdout.split("Example")[1]


def test_check_finds_nothing_wrong_with_a_good_package(mme, package):
    finished = mme("check", package)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr


def test_check_looks_at_package_and_artefacts_together(mme, package, artifacts):
    (artifacts / "model.pkl").write_bytes(b"\x80\x03c__main__\nDoubler\n)\x81.")

    assert mme("check", package).returncode == 0
    finished = mme("check", package, "--artifacts", artifacts, "--json")

    assert finished.returncode == 1
    assert "class-of-main" in [finding["rule"] for finding in json.loads(finished.stdout)]


def test_check_takes_no_artefacts_beside_an_archive(mme, artifacts, tmp_path):
    (tmp_path / "a.tar.gz").touch()

    assert mme("check", tmp_path / "a.tar.gz", "--artifacts", artifacts).returncode == 2


def test_check_compares_with_the_image_that_is_named(mme, package):
    (package / "requirements.txt").write_text("catboost==1.2.8\n")

    def found(*arguments):
        return mme("check", package, "--json", *arguments)

    assert "installs-at-load" in found().stdout
    assert "installs-at-load" not in found("--image", "mine:1=python3.11,catboost==1.2.8").stdout
    refused = found("--image", "mine:1")
    assert refused.returncode == 1
    assert "It is not known which Python and libraries this image has." in refused.stderr


def test_check_exits_1_and_shows_a_remedy_when_an_error_is_among_the_findings(mme, package):
    (package / "model.py").unlink()
    finished = mme("check", package)
    assert finished.returncode == 1
    assert "error" in finished.stdout
    assert "Remedy: " in finished.stdout
    assert "Remedy" not in finished.stderr


def test_check_prints_findings_as_json_for_programs(mme, package):
    (package / "model.py").unlink()
    finished = mme("check", "--json", package)
    assert finished.returncode == 1
    findings = json.loads(finished.stdout)
    assert set(findings[0]) >= {"severity", "rule", "message", "remedy", "where"}
    assert "error" in {finding["severity"] for finding in findings}


def test_what_is_not_there_is_named(mme):
    finished = mme("check", "no-such-folder")
    assert finished.returncode == 2
    assert "no-such-folder" in finished.stderr


def test_an_error_says_what_where_and_remedy_and_no_traceback(mme, tmp_path):
    data = tmp_path / "request.json"
    data.write_text("{}")
    asked = ("invoke", "mmekit", "--target-model", "ridge.tar.gz", "--data", data)
    finished = mme(*asked, MME_TARGET="azure")
    assert finished.returncode == 1
    assert finished.stderr.startswith("mme: MME_TARGET is 'azure'; it may be local or aws.\n")
    assert "\n  where: MME_TARGET\n  remedy: " in finished.stderr
    assert "Traceback" not in finished.stderr


def test_debug_shows_the_traceback(mme, tmp_path):
    data = tmp_path / "request.json"
    data.write_text("{}")
    asked = ("invoke", "mmekit", "--target-model", "ridge.tar.gz", "--data", data)
    finished = mme("--debug", *asked, MME_TARGET="azure")
    assert finished.returncode == 1
    assert "Traceback" in finished.stderr


def test_invoke_without_an_endpoint_says_how_to_start_one(mme, tmp_path, free_port):
    data = tmp_path / "request.csv"
    data.write_text("1\n")
    finished = mme(
        *("invoke", "mmekit", "--target-model", "ridge.tar.gz", "--data", data),
        MME_LOCAL_URL=f"http://127.0.0.1:{free_port}",
        AWS_MAX_ATTEMPTS="1",
    )
    assert finished.returncode == 1
    assert "remedy: Start the local endpoint: mme up." in finished.stderr


def test_invoke_sends_what_it_is_told_and_prints_the_answer(mme, tmp_path):
    data = tmp_path / "request.csv"
    data.write_text("1\n2\n")
    with Recorder() as recorder:
        finished = mme(
            *("invoke", "mmekit", "--target-model", "ridge.tar.gz", "--data", data),
            *("--accept", "text/csv", "--custom-attributes", "probabilities=true"),
            MME_LOCAL_URL=recorder.url,
        )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "2.0\n4.0\n"
    assert recorder.path == "/endpoints/mmekit/invocations"
    assert recorder.body == b"1\n2\n"
    assert recorder.headers["Content-Type"] == "text/csv"
    assert recorder.headers["Accept"] == "text/csv"
    assert recorder.headers["X-Amzn-SageMaker-Target-Model"] == "ridge.tar.gz"
    assert recorder.headers["X-Amzn-SageMaker-Custom-Attributes"] == "probabilities=true"


@pytest.mark.parametrize(("endpoint", "model"), [("mmekit", ""), ("", "ridge.tar.gz")])
def test_invoke_refuses_an_empty_name(mme, tmp_path, endpoint, model):
    data = tmp_path / "request.csv"
    data.write_text("1\n")
    finished = mme("invoke", endpoint, "--target-model", model, "--data", data)
    assert finished.returncode == 2
    assert "the value is empty" in finished.stderr


@pytest.mark.parametrize(
    ("content_type", "end"), [("application/json", "\n"), ("application/x-npy", "")]
)
def test_invoke_ends_the_line_of_an_answer_that_is_text(mme, tmp_path, content_type, end):
    data = tmp_path / "request.csv"
    data.write_text("1\n")
    with Recorder(b"[2.0]", content_type) as recorder:
        finished = mme(
            *("invoke", "mmekit", "--target-model", "ridge.tar.gz", "--data", data),
            MME_LOCAL_URL=recorder.url,
        )
    assert finished.stdout == f"[2.0]{end}"


class Recorder:
    """A server that keeps the one invocation it gets."""

    def __init__(self, answer=b"2.0\n4.0\n", content_type="text/csv"):
        self.answer, self.content_type = answer, content_type

    def __enter__(self):
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                if not self.path.endswith("/invocations"):
                    self.send_error(404)  # it has no control plane
                    return
                recorder.path, recorder.headers = self.path, self.headers
                recorder.body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", recorder.content_type)
                self.end_headers()
                self.wfile.write(recorder.answer)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_pack_has_worker_slots_in_the_archive_unless_told_not_to(mme, package, artifacts, tmp_path):
    arguments = ("pack", package, "--artifacts", artifacts, "-o")
    finished = mme(*arguments, tmp_path / "with.tar.gz")
    assert finished.returncode == 0, finished.stderr
    assert "anew" not in finished.stderr
    (artifacts / "weights.json").write_text("[2.5]")
    finished = mme(*arguments, tmp_path / "without.tar.gz", "--no-worker-slots", "--image=none")
    assert finished.returncode == 0, finished.stderr
    assert "measured.json does not match the files; measuring again" in finished.stderr
    image = verify(tmp_path / "with.tar.gz").image
    assert (image, verify(tmp_path / "without.tar.gz").image) == (STOCK_IMAGE.name, None)

    names = {}
    for name in ("with", "without"):
        with tarfile.open(tmp_path / f"{name}.tar.gz") as tar:
            names[name] = set(tar.getnames())
    assert {"sitecustomize.py", "mmekit_runtime/slots/stub.py"} <= names["with"] - names["without"]


def test_environment_prints_what_the_container_should_have(mme):
    lines = mme("environment").stdout.splitlines()
    variables = json.loads(mme("environment", "--json").stdout)
    assert dict(line.split("=", 1) for line in lines) == variables
    assert "ForkJoinPool.common.parallelism=16" in variables["JAVA_OPTS"]
    assert variables["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("size", ["4 apples", "GiB", "-1GiB"])
def test_a_size_that_is_none_is_refused(mme, size):
    finished = mme("serve", f"--memory={size}")
    assert finished.returncode == 2
    assert "4GiB" in finished.stderr


def test_a_command_has_an_endpoint_at_its_side_that_ends_with_it(mme, free_port):
    program = (
        "import os, urllib.request, urllib.error, sys\n"
        "url = os.environ['MME_LOCAL_URL']\n"
        "try: urllib.request.urlopen(url)\n"
        "except urllib.error.HTTPError: pass\n"
        "print('reached', url)\n"
        "sys.exit(7)\n"
    )
    finished = mme("up", "--port", free_port, "--", sys.executable, "-c", program)
    assert finished.returncode == 7, finished.stderr
    assert finished.stdout == f"reached http://127.0.0.1:{free_port}\n"  # and nothing else
    assert "nothing is left behind" in finished.stderr
    again = mme("up", "--port", free_port, "--", sys.executable, "-c", "")
    assert again.returncode == 0  # the port is free: the first endpoint is gone


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 looks there in any case")
def test_files_in_the_working_directory_are_no_part_of_the_endpoint(tmp_path, free_port):
    for name in ("cmd", "random", "queue", "mmekit"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not meant to be imported')")
    # As the script mme is started: its own folder, and not the working one, is on the path.
    command = [sys.executable, "-P", "-m", "mmekit.cli", "up", "--port", str(free_port), "--"]
    finished = subprocess.run(
        [*command, "echo", "ran"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stdout) == (0, "ran\n"), finished.stderr


def test_a_command_has_its_output_to_itself_where_nobody_hears_the_endpoint(tmp_path, free_port):
    command = [
        sys.executable,
        "-m",
        "mmekit.cli",
        "up",
        "--port",
        str(free_port),
        "--",
        "echo",
        "a",
    ]
    for closing in ("2>&-", "2>/dev/full"):
        finished = subprocess.run(
            ["sh", "-c", f"{shlex.join(command)} {closing}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (finished.returncode, finished.stdout) == (0, "a\n")


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", r"http://127\.0\.0\.1:[1-9]\d*"),  # noqa: S104 - what a user may ask for
        ("::1", r"http://\[::1\]:[1-9]\d*"),
    ],
)
def test_a_command_is_told_an_address_that_it_can_reach_and_a_port_that_was_free(
    mme, host, reached
):
    if host == "::1":
        try:
            ports.free_port(host)
        except OSError:
            pytest.skip("no IPv6 here")
    program = (
        "import os, signal; print(os.environ['MME_LOCAL_URL'], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    finished = mme("up", "--host", host, "--port", "0", "--", sys.executable, "-c", program)
    assert re.fullmatch(f"{reached}\n", finished.stdout), finished.stderr
    assert finished.returncode == 128 + signal.SIGKILL


def test_a_command_is_not_run_beside_an_endpoint_of_somebody_else(mme):
    with Recorder() as other:
        port = other.server.server_port
        finished = mme("up", "--port", port, "--", sys.executable, "-c", "print('ran')")
    assert finished.returncode == 1
    assert "Something listens there already." in finished.stderr
    assert "ran" not in finished.stdout


def test_a_command_that_is_not_installed_is_said_before_an_endpoint_is_started(mme):
    finished = mme("up", "--port", "0", "--", "jupyter-of-mars", "lab")
    assert finished.returncode == 1
    assert finished.stderr.startswith("mme: There is no program jupyter-of-mars on the PATH.")
    assert "Install it in this environment" in finished.stderr
    assert len(finished.stderr.splitlines()) == 3


def test_ending_the_one_ends_the_command_and_the_endpoint(tmp_path, free_port):
    program = "import time; print('running', flush=True); time.sleep(600)"
    arguments = ["up", "--port", str(free_port), "--", sys.executable, "-c", program]
    with subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while "running" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.stdout.read()  # ends when the last of the three has closed it
        assert process.wait() == 128 + signal.SIGTERM


@pytest.fixture
def notebooks(tmp_path):
    """Put notebooks into the working folder that do nothing, for a long time."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "build").mkdir()
    import nbformat  # takes long in each process that collects the tests

    cells = [nbformat.v4.new_markdown_cell("# Wait"), nbformat.v4.new_code_cell("input()")]
    for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb"):
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / path.name)
    return folder


def test_two_demos_do_not_share_a_folder(mme, notebooks):
    fcntl = pytest.importorskip("fcntl")
    with (notebooks.parent / "build" / "demo.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = mme("demo")
    assert finished.returncode == 1
    assert finished.stderr.startswith("mme: Another demonstration uses this folder build/.\n")
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    "ending", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)]
)
def test_a_demo_that_is_ended_while_kernels_start_says_nothing_about_them(notebooks, ending):
    with subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", "demo"],
        cwd=notebooks.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        watched = psutil.Process(process.pid)
        while not [child for child in watched.children() if "ipykernel" in str(command(child))]:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        children = watched.children(recursive=True)
        process.send_signal(ending)
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in output
    assert "Error" not in output
    assert "stopped in code cell" not in output
    wait_for_the_end(children)


def wait_for_the_end(processes):
    """Wait until processes run no more, be they zombies still."""

    def runs(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    deadline = time.monotonic() + 120
    while left := list(filter(runs, processes)):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def command(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def test_a_package_is_measured_packed_and_checked(mme, package, artifacts, tmp_path):
    measured = mme("measure", package, "--artifacts", artifacts)
    assert measured.returncode == 0, measured.stderr
    assert re.search(r": \d+ MiB, .*Python 3\.", measured.stdout)
    archive = tmp_path / "ridge.tar.gz"
    packed = mme("pack", package, "--artifacts", artifacts, "--output", archive)
    assert packed.returncode == 0, packed.stderr
    assert f"SHA-256 {hashlib.sha256(archive.read_bytes()).hexdigest()}" in packed.stdout
    assert mme("check", archive).returncode == 0


def test_layers_are_named_where_a_package_is_packed_and_described(
    mme, package, artifacts, tmp_path, monkeypatch
):
    (package / "requirements.txt").write_text("wanted\n")
    (tmp_path / "wheels").mkdir()
    add_wheel(tmp_path / "wheels", "wanted", "2.0")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    archive = tmp_path / "out" / "ridge.tar.gz"
    arguments = ("--artifacts", artifacts, "-o", archive, "--layers", "--thin")

    packed = mme("pack", package, *arguments)

    assert packed.returncode == 0, packed.stderr
    files = sorted((archive.parent / "layers").glob("*.tar.gz"))
    assert len(files) == 2
    assert all(str(file) in packed.stdout for file in files)
    assert "(libraries, 0.0 MB: wanted 2.0)" in packed.stdout
    assert re.search(r"ridge\.tar\.gz: \d+\.\d KiB, SHA-256", packed.stdout)
    described = mme("describe", archive)
    assert "libraries, 0.0 MB: wanted 2.0), only named" in " ".join(described.stdout.split())
    layers = json.loads(mme("describe", archive, "--json").stdout)["layers"]
    assert [one["kind"] for one in layers] == ["libraries", "runtime"]
    assert layers[0]["sources"][0]["version"] == "2.0"


def test_pack_refuses_what_check_calls_an_error_and_shows_it(mme, package, artifacts, tmp_path):
    (package / "model.py").write_text("import json\n")
    archive = tmp_path / "ridge.tar.gz"
    packed = mme("pack", package, "--artifacts", artifacts, "--output", archive)
    assert packed.returncode == 1
    assert "Remedy: " in packed.stderr
    assert "\nmme: " in packed.stderr
    assert "Traceback" not in packed.stderr
    assert not archive.exists()


def test_serve_with_a_model_is_a_container_with_that_model_alone(package, artifacts, mme, tmp_path):
    archive, folder = tmp_path / "ridge.tar.gz", tmp_path / "unpacked"
    assert mme("pack", package, "--artifacts", artifacts, "-o", archive).returncode == 0
    unpack(archive, folder)
    with subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", "serve", "--port", "0", "--model", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            lines = iter(process.stdout.readline, "")
            url = next(line.split()[-1] for line in lines if " serving on http" in line)
            body = b'{"instances": [[3.0]]}'
            headers = {"Content-Type": "application/json"}
            asked = urllib.request.Request(f"{url}/invocations", body, headers)
            with urllib.request.urlopen(asked) as answer:
                assert json.load(answer) == {"predictions": [6.0]}
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["serve", "up"])
def test_djl_serving_that_is_not_there_is_said_at_the_start_with_a_remedy(mme, command):
    finished = mme(command, "--server", "djl", "--port", "0", MMEKIT_DJL_HOME="")
    assert finished.returncode == 1
    assert finished.stderr.startswith("mme: MMEKIT_DJL_HOME is not set")
    assert "bin/serving" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.skipif(
    not os.environ.get("MMEKIT_DJL_HOME"), reason="MMEKIT_DJL_HOME names no DJL Serving"
)
def test_an_archive_is_served_by_the_real_djl_serving_behind_the_endpoint(
    package, artifacts, mme, tmp_path
):
    archive = tmp_path / "ridge.tar.gz"
    assert mme("pack", package, "--artifacts", artifacts, "-o", archive).returncode == 0
    program = tmp_path / "program.py"
    program.write_text(ON_AN_ENDPOINT)
    finished = mme(
        "up", "--server", "djl", "--port", "0", "--", sys.executable, program, str(archive)
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert 'answered {"predictions": [14.0]}' in finished.stdout
    assert "ModelServer" in finished.stderr, "the container's own output"


def test_a_command_that_is_killed_with_its_endpoint_leaves_no_service(tmp_path, free_port):
    program = "import time; print('running', flush=True); time.sleep(600)"
    arguments = ["up", "--port", str(free_port), "--", sys.executable, "-c", program]
    with subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while "running" not in process.stdout.readline():
            assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        [started] = [child for child in children if program in str(command(child))]
        started.kill()  # it was nobody's to end
        wait_for_the_end(children)


def of_every_command(group, name="mme"):
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from of_every_command(command, f"{name} {command.name}")
        yield f"{name} {command.name}", command


def test_every_command_says_in_a_line_what_it_does_and_every_option_what_it_is():
    for name, command in of_every_command(get_command(app)):
        first = (command.help or "").splitlines()[0]
        assert first.endswith("."), (name, first)
        assert len(first) <= 64, (name, first)
        assert first.split()[0].rstrip("s") == first.split()[0], f"{name}: {first} is no imperative"
        for option in command.params:
            assert getattr(option, "help", "") or option.hidden, (name, option.name)
