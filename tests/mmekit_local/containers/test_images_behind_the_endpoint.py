"""An image URI decides what an instance of the local endpoint runs."""

import json
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError

HERE = Path(__file__).parent
ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
OWN = f"{ECR}/echo:1"
STOCK = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
MODEL = (
    b"from djl_python import Output\n\n\n"
    b"def handle(inputs):\n"
    b"    return None if inputs.is_empty() else Output().add(b'from djl')\n"
)
PYTHON = b"engine=Python\noption.entryPoint=model.py\n"


def gone(*pids):
    def ended(pid):
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(map(ended, pids))


def test_a_command_gets_what_sagemaker_gives_a_container(shared):
    (shared.folder / "serving").mkdir()
    shutil.copyfile(HERE / "echo_container.py", shared.folder / "serving" / "echo.py")
    command = ["python", "serving/echo.py", "--workers=2"]
    shared.images(echo=(command, {"WORKERS": "2", "COLOUR": "red"}))
    shared.put("a.tar.gz", model=b"weights")
    shared.create_endpoint("command", OWN, environment={"SHAPE": "round", "COLOUR": "blue"})

    seen = shared.seen("command", "a.tar.gz")

    variables = seen["variables"]
    assert seen["files"] == ["model"]
    assert seen["arguments"] == ["--workers=2"]
    assert variables["SAGEMAKER_MULTI_MODEL"] == "true"
    assert 1024 < int(variables["SAGEMAKER_BIND_TO_PORT"]) < 32_768
    first, last = map(int, variables["SAGEMAKER_SAFE_PORT_RANGE"].split("-"))
    assert not first <= int(variables["SAGEMAKER_BIND_TO_PORT"]) <= last
    assert (variables["WORKERS"], variables["COLOUR"], variables["SHAPE"]) == ("2", "blue", "round")
    assert seen["folder"] == variables["SAGEMAKER_BASE_DIR"]
    assert variables["SM_MODEL_DIR"] == f"{seen['folder']}/models"
    assert Path(variables["TMPDIR"]).parent == shared.folder / "tmp"
    assert variables["MME_BIND_HOST"] == "127.0.0.1"


def test_a_single_model_container_finds_its_model_at_start(shared, echo_command):
    shared.images(echo=echo_command)
    shared.put("only.tar.gz", model=b"weights")
    shared.create_endpoint("single", OWN, single="only.tar.gz")

    seen = shared.seen("single")

    assert seen["files"] == ["model"]
    assert "SAGEMAKER_MULTI_MODEL" not in seen["variables"]
    assert seen["variables"]["SM_MODEL_DIR"] == seen["variables"]["SAGEMAKER_BASE_DIR"] + "/model"


def test_images_of_djl_serving_and_of_others_are_served_side_by_side(shared, echo_command):
    shared.images(echo=echo_command, known=["embedded"])
    shared.put("b.tar.gz", **{"model.py": MODEL, "serving.properties": PYTHON})
    shared.create_endpoint("djl", STOCK)
    shared.create_endpoint("known", f"{ECR}/known:7")
    shared.create_endpoint("echo", OWN)

    assert shared.invoke("djl", "b.tar.gz") == b"from djl"
    assert shared.invoke("known", "b.tar.gz") == b"from djl"
    assert shared.seen("echo", "b.tar.gz")["files"] == ["model.py", "serving.properties"]
    assert not any(f"what {image} is" in shared.log for image in (STOCK, f"{ECR}/known:7", OWN))


@pytest.mark.parametrize(
    ("image", "kind", "reason"),
    [
        (f"{ECR}/mine:7", "ml.m6i.large", f"mme images add '{ECR}/mine:7' -- djl"),
        (f"{ECR}/mine:7", "serverless", "mme up --server docker"),
        (f"{ECR}/pytorch-inference:2.5-cpu-py311", "ml.m6i.large", "mme up --server docker"),
        (f"{ECR}/sagemaker-tritonserver:24.09-py3", "ml.g5.xlarge", "mme up --server docker"),
        (f"{ECR}/sagemaker-scikit-learn:0.20.0-cpu-py3", "ml.m6i.large", "1.2-1 and 1.4-2"),
        (STOCK, "ml.c7g.large", "exec format error"),
        (STOCK.replace("cpu-full", "aarch64"), "ml.m6i.large", "exec format error"),
    ],
)
def test_an_image_that_nothing_here_is_fails_the_endpoint_with_the_remedy(
    shared, request, image, kind, reason
):
    name = f"nothing-{abs(hash(request.node.name))}"
    shared.put("a.tar.gz", model=b"weights")
    single = None if "triton" in image else "a.tar.gz"
    found = shared.create_endpoint(name, image, kind=kind, single=single)
    assert found["EndpointStatus"] == "Failed"
    assert reason in found["FailureReason"]
    assert image in found["FailureReason"]


@pytest.mark.thorough
def test_a_graviton_type_serves_an_image_that_is_built_for_it(shared):
    shared.put("b.tar.gz", **{"model.py": MODEL, "serving.properties": PYTHON})
    shared.create_endpoint("graviton", STOCK.replace("cpu-full", "aarch64"), kind="ml.c7g.large")
    assert shared.invoke("graviton", "b.tar.gz") == b"from djl"


@pytest.mark.parametrize("kind", ["ml.g5.xlarge", "ml.inf2.xlarge"])
def test_an_accelerator_with_several_models_is_refused_with_what_aws_documents(shared, kind):
    with pytest.raises(ClientError, match="NVIDIA Triton") as raised:
        shared.describe("fast-" + kind.split(".")[1], STOCK, kind=kind)
    assert raised.value.response["Error"]["Code"] == "ValidationException"


def test_a_network_isolation_that_cannot_be_had_fails_the_endpoint(shared):
    described = shared.create_endpoint("isolated", STOCK, isolated=True)

    assert described["EndpointStatus"] == "Failed"
    assert "cannot be cut off from the network" in described["FailureReason"]
    assert "Use --server docker" in described["FailureReason"]


def test_a_file_that_cannot_be_read_fails_the_endpoint_with_what_is_wrong(shared):
    (shared.folder / "images.json").write_text(json.dumps({"images": [{"pattern": "*"}]}))

    described = shared.create_endpoint("unreadable", OWN)

    assert described["EndpointStatus"] == "Failed"
    assert "images[0].command: Field required" in described["FailureReason"]


def test_a_program_that_is_not_there_fails_the_endpoint(shared):
    shared.images(echo=["no-such-program"])

    described = shared.create_endpoint("absent", OWN)

    assert described["EndpointStatus"] == "Failed"
    assert "no-such-program" in described["FailureReason"]


def test_a_service_that_is_killed_takes_its_containers_with_it(up, images, echo_command):
    images(echo=echo_command)
    service = up()
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", OWN)
    service.seen("e", "a.tar.gz", body=b"child")
    pids = service.seen("e", "a.tar.gz", body=b"child afar")["pids"]
    assert len(pids) == 3
    assert not any(map(gone, pids))

    service.stop(signal.SIGKILL)

    service.wait_until(lambda: gone(*pids))


@pytest.mark.thorough
def test_an_endpoint_that_is_deleted_leaves_no_process_and_no_folder(up, images, echo_command):
    images(echo=echo_command)
    service = up()
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", OWN)
    seen = service.seen("e", "a.tar.gz", body=b"child")

    assert service.stop() == 0

    service.wait_until(lambda: gone(*seen["pids"]))
    assert not Path(seen["folder"]).exists()
    assert not Path(seen["variables"]["TMPDIR"]).exists()
