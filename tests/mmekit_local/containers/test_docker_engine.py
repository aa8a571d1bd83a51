"""`mme up --server docker` with a real engine, and an image of DJL Serving (tests/docker_engine).

Runs where there is an engine and MMEKIT_DOCKER_IMAGE names an image that is there.
"""

import contextlib
import json
import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from botocore.exceptions import ClientError

from mmekit.archive import pack
from tests.docker_engine import docker, images
from tests.mmekit_local.containers.conftest import start_service

HERE = Path(__file__).parent
PACKAGES = HERE.parents[2] / "model_packages"

LOOKING = b"""
import json
import os
import socket
from pathlib import Path
from djl_python import Output

def tried(action):
    try:
        action()
    except OSError as error:
        return str(error)
    return "done"

def first(*files):
    return next(Path(file).read_text().strip() for file in files if Path(file).exists())

def handle(inputs):
    if inputs.is_empty():
        return None
    address = json.loads(inputs.get_as_string())
    groups = "/sys/fs/cgroup/"
    return Output().add_as_json({
        "uid": os.getuid(),
        "write": tried(Path(__file__).with_name("new").touch),
        "connect": tried(lambda: socket.create_connection(address, 5).close()),
        "memory": int(first(groups + "memory.max", groups + "memory/memory.limit_in_bytes")),
        "cpus": first(groups + "cpu.max", groups + "cpu/cpu.cfs_quota_us").split()[0],
        "environment": dict(os.environ),
    })
"""
LOOKS = {"model.py": LOOKING, "serving.properties": b"engine=Python\nminWorkers=1\nmaxWorkers=1\n"}
LARGE = {
    "model.py": b"""
from djl_python import Output

held = None

def handle(inputs):
    global held
    if inputs.is_empty():
        held = b"x" * (3300 << 20)
        return None
    return Output().add("here")
""",
    "serving.properties": LOOKS["serving.properties"] + b"required_memory_mb=3300\n",
}
ENDING = """
import signal, sys, threading
from echo_container import main
def end(*_):
    print("told to end", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end if sys.argv[1] == "obey" else signal.SIG_IGN)
print("serving", flush=True)
main()
"""


@pytest.fixture(scope="module")
def made():
    with images() as made:
        yield made


@pytest.fixture(scope="module")
def echo(made):
    """An image that knows SAGEMAKER_BIND_TO_PORT and tells what it sees."""
    files = {"/echo_container.py": HERE / "echo_container.py"}
    return made.derive("echo", 'ENTRYPOINT ["python3", "/echo_container.py"]', files=files)


@pytest.fixture
def service(made, up):
    return up("--server", "docker")


@pytest.fixture
def containers(tmp_path):
    """A function that names the containers of this test's services."""

    def names():
        form = '{{.Names}} {{.Label "mmekit.owner"}}'
        listed = docker("ps", "--all", "--filter", "label=mmekit.owner", "--format", form)
        pairs = [line.split(" ") for line in listed.splitlines()]
        return {name for name, owner in pairs if Path(owner).is_relative_to(tmp_path)}

    return names


def looked(service, endpoint, target=None, address=("127.0.0.1", 9)):
    return json.loads(service.invoke(endpoint, target, json.dumps(address).encode()))


def test_an_archive_of_the_demonstration_answers_with_worker_slots(
    service, made, tmp_path, containers
):
    import joblib
    from sklearn.linear_model import LinearRegression

    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]), artifacts / "model.joblib")
    packed = pack(PACKAGES / "linear_regression", artifacts, tmp_path / "regression.tar.gz").path
    s3 = service.client("s3")
    s3.create_bucket(Bucket="models")
    for number in range(3):
        s3.upload_file(str(packed), "models", f"{number}.tar.gz")
    described = service.create_endpoint("e", made.stock)
    assert described["EndpointStatus"] == "InService", described

    for number in range(3):
        answer = service.seen(
            "e",
            f"{number}.tar.gz",
            body=b'{"instances": [[2.0]]}',
            ContentType="application/json",
        )
        assert answer["predictions"] == [pytest.approx(5.0)]

    (name,) = containers()
    running = docker("exec", name, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "mmekit_runtime.slots.forkserver" in running


def test_a_container_has_the_memory_and_the_processors_of_its_instance_type(
    service, made, containers
):
    service.put("a.tar.gz", **LOOKS)
    service.create_endpoint("e", made.stock)  # an ml.m5.large

    seen = looked(service, "e", "a.tar.gz")

    (name,) = containers()
    form = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"
    cpus = min(2, os.cpu_count())
    assert docker("inspect", name, "--format", form) == f"{8 << 30} {cpus * 10**9}"
    assert seen["memory"] == 8 << 30
    assert seen["cpus"] == str(cpus * 100_000)


def test_a_model_that_does_not_fit_into_the_limit_has_another_unloaded(up, made, containers):
    if psutil.virtual_memory().available < 9 << 30:
        pytest.skip("there are no 9 GiB to be had")
    service = up("--server", "docker", "--memory", "6GiB")
    for key in ("a.tar.gz", "b.tar.gz"):
        service.put(key, **LARGE)
    service.create_endpoint("e", made.stock)
    (name,) = containers()
    host, port = docker("port", name, "8080").rsplit(":", 1)

    def loaded():
        return len(httpx.get(f"http://{host}:{port}/models").json()["models"])

    assert service.invoke("e", "a.tar.gz") == b"here"
    assert loaded() == 1
    assert service.invoke("e", "b.tar.gz") == b"here"
    assert loaded() == 1
    assert service.invoke("e", "a.tar.gz") == b"here"
    assert containers() == {name}


def test_the_folder_of_a_model_can_only_be_read(service, made):
    service.put("a.tar.gz", **LOOKS)
    service.create_endpoint("many", made.stock)
    service.create_endpoint("one", made.stock, single="a.tar.gz")

    for seen in (looked(service, "many", "a.tar.gz"), looked(service, "one")):
        assert "Read-only file system" in seen["write"]


def test_an_image_with_a_user_of_its_own_serves_as_that_user(up, made):
    image = made.derive("user", "USER djl", stock=True)
    before = os.umask(0o077)
    try:
        service = up("--server", "docker")
    finally:
        os.umask(before)
    service.put("a.tar.gz", **LOOKS)
    service.create_endpoint("e", image)

    assert looked(service, "e", "a.tar.gz")["uid"] not in (0, os.getuid())


def test_djl_serving_is_not_told_a_port_and_others_are(service, made, echo, containers):
    service.put("a.tar.gz", **LOOKS)
    service.create_endpoint("djl", made.stock, environment={"COLOUR": "blue"})
    service.create_endpoint("echo", echo)

    seen = looked(service, "djl", "a.tar.gz")["environment"]
    told = service.seen("echo", "a.tar.gz")["variables"]

    assert "SAGEMAKER_BIND_TO_PORT" not in seen
    assert (seen["COLOUR"], seen["SAGEMAKER_MULTI_MODEL"]) == ("blue", "true")
    assert told["SAGEMAKER_BIND_TO_PORT"] == "8080"
    for name in containers():
        ports = json.loads(docker("inspect", name, "--format", "{{json .NetworkSettings.Ports}}"))
        published = [one for many in ports.values() for one in many or []]
        assert [one["HostIp"] for one in published] == ["127.0.0.1"]


def test_a_model_reaches_the_network_unless_it_is_isolated(service, made, echo, containers):
    service.put("a.tar.gz", **LOOKS)
    service.create_endpoint("elsewhere", echo)
    (name,) = containers()
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    elsewhere = (docker("inspect", name, "--format", form), 8080)
    service.create_endpoint("open", made.stock)
    service.create_endpoint("isolated", made.stock, isolated=True)

    described = service.client("sagemaker").describe_model(ModelName="isolated")

    assert described["EnableNetworkIsolation"] is True
    assert looked(service, "open", "a.tar.gz", elsewhere)["connect"] == "done"
    assert looked(service, "isolated", "a.tar.gz", elsewhere)["connect"] != "done"


def test_a_container_is_asked_to_end_and_then_made_to(service, made, containers):
    program = service.folder / "ending.py"
    program.write_text(ENDING)
    files = {"/echo_container.py": HERE / "echo_container.py", "/ending.py": program}
    service.put("a.tar.gz", model=b"weights")
    for manner in ("obey", "stay"):
        entry = f'ENTRYPOINT ["python3", "/ending.py", "{manner}"]'
        service.create_endpoint(manner, made.derive(manner, entry, files=files))
    assert len(containers()) == 2

    for manner in ("obey", "stay"):
        service.client("sagemaker").delete_endpoint(EndpointName=manner)

    service.wait_until(lambda: not containers())
    assert "[obey/AllTraffic/1] told to end" in service.log
    assert "obey/AllTraffic/1 does not end; killing it" not in service.log
    assert "stay/AllTraffic/1 does not end; killing it" in service.log


@pytest.mark.parametrize("multi", [True, False], ids=["multi-model", "single-model"])
def test_an_image_that_does_not_start_fails_the_endpoint_with_its_last_words(
    service, made, multi, containers
):
    words = "print('one line'); print('no licence'); raise SystemExit(3)"
    image = made.derive(f"broken-{multi}".lower(), f'ENTRYPOINT ["python3", "-c", "{words}"]')
    service.put("a.tar.gz", **LOOKS)

    described = service.create_endpoint("e", image, single=None if multi else "a.tar.gz")

    assert described["EndpointStatus"] == "Failed"
    assert "The container ended (exit status 3)." in described["FailureReason"]
    assert described["FailureReason"].endswith("one line\nno licence")
    service.wait_until(lambda: not containers())


def test_a_model_that_cannot_be_loaded_at_start_fails_the_endpoint_with_what_it_said(service, made):
    code = b"raise RuntimeError('the weights are torn')\n"
    service.put("a.tar.gz", **{**LOOKS, "model.py": code})

    described = service.create_endpoint("e", made.stock, single="a.tar.gz")

    assert described["EndpointStatus"] == "Failed"
    assert "the weights are torn" in described["FailureReason"]


def test_an_image_that_is_nowhere_fails_the_endpoint_with_what_docker_says(service):
    described = service.create_endpoint("e", "127.0.0.1:9/no/such-image:1")

    assert described["EndpointStatus"] == "Failed"
    assert "no/such-image" in described["FailureReason"]
    assert "exit status 125" in described["FailureReason"]


def test_containers_that_a_killed_service_left_go_at_the_next_start(
    up, made, echo, tmp_path, containers
):
    dead = up("--server", "docker")
    dead.put("a.tar.gz", model=b"weights")
    dead.create_endpoint("e", echo)
    (left,) = containers()
    family = psutil.Process(dead.process.pid).children(recursive=True)
    for process in (*family, dead.process):  # its guard too, which would remove it at once
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    dead.process.wait(60)
    assert docker("inspect", left, "--format", "{{.State.Running}}") == "true"

    (tmp_path / "alive").mkdir()
    alive = start_service(tmp_path / "alive", "--server", "docker")
    try:
        assert left not in containers()
        assert left in alive.log
        alive.put("a.tar.gz", model=b"weights")
        alive.create_endpoint("e", echo)
        (kept,) = containers()
        (tmp_path / "third").mkdir()
        third = start_service(tmp_path / "third", "--server", "docker")
        assert containers() == {kept}
        assert third.stop() == 0
        assert alive.seen("e", "a.tar.gz")["files"] == ["model"]
    finally:
        assert alive.stop(signal.SIGINT) == 0
    assert not containers()


def test_a_container_that_dies_is_replaced(service, echo, containers):
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", echo)
    (first,) = containers()

    docker("kill", first)

    def again():
        with contextlib.suppress(ClientError):
            return service.seen("e", "a.tar.gz")
        return None

    assert service.wait_until(again)["files"] == ["model"]
    assert first not in containers()
