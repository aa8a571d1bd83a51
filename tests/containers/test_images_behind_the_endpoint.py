"""An image URI decides what an instance of the local endpoint runs."""

import json
import signal
from pathlib import Path

import psutil

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


def test_a_command_gets_what_sagemaker_gives_a_container(up, images, echo_command):
    images(echo=([*echo_command, "--workers=2"], {"WORKERS": "2", "COLOUR": "red"}))
    service = up()
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", OWN, environment={"SHAPE": "round"})

    seen = service.seen("e", "a.tar.gz")

    variables = seen["variables"]
    assert seen["files"] == ["model"]
    assert seen["arguments"] == ["--workers=2"]
    assert variables["SAGEMAKER_MULTI_MODEL"] == "true"
    assert 1024 < int(variables["SAGEMAKER_BIND_TO_PORT"]) < 32_768
    first, last = map(int, variables["SAGEMAKER_SAFE_PORT_RANGE"].split("-"))
    assert not first <= int(variables["SAGEMAKER_BIND_TO_PORT"]) <= last
    assert (variables["WORKERS"], variables["COLOUR"], variables["SHAPE"]) == ("2", "red", "round")
    assert seen["folder"] == variables["SAGEMAKER_BASE_DIR"]
    assert variables["SM_MODEL_DIR"] == f"{seen['folder']}/models"
    assert Path(variables["TMPDIR"]).parent == service.folder / "tmp"
    assert variables["MME_BIND_HOST"] == "127.0.0.1"


def test_a_single_model_container_finds_its_model_at_start(up, images, echo_command):
    images(echo=echo_command)
    service = up()
    service.put("only.tar.gz", model=b"weights")
    service.create_endpoint("e", OWN, single="only.tar.gz")

    seen = service.seen("e")

    assert seen["files"] == ["model"]
    assert "SAGEMAKER_MULTI_MODEL" not in seen["variables"]
    assert seen["variables"]["SM_MODEL_DIR"] == seen["variables"]["SAGEMAKER_BASE_DIR"] + "/model"


def test_images_of_djl_serving_and_of_others_are_served_side_by_side(up, images, echo_command):
    images(echo=echo_command, mine=["embedded"])
    service = up()
    service.put("a.tar.gz", **{"model.py": MODEL, "serving.properties": PYTHON})
    service.create_endpoint("djl", STOCK)
    service.create_endpoint("mine", f"{ECR}/mine:7")
    service.create_endpoint("echo", OWN)

    assert service.invoke("djl", "a.tar.gz") == b"from djl"
    assert service.invoke("mine", "a.tar.gz") == b"from djl"
    assert service.seen("echo", "a.tar.gz")["files"] == ["model.py", "serving.properties"]
    assert "no rule says" not in service.log


def test_an_image_that_nobody_knows_is_served_as_djl_serving_and_the_log_says_so_once(up):
    service = up()
    service.put("a.tar.gz", **{"model.py": MODEL, "serving.properties": PYTHON})
    service.create_endpoint("e", f"{ECR}/mine:7", instances=2)

    assert service.invoke("e", "a.tar.gz") == b"from djl"
    assert service.log.count("no rule says what") == 1
    assert f"mme images add '{ECR}/mine:7' -- COMMAND" in service.log


def test_a_rule_that_is_added_counts_for_the_next_endpoint(up, images, echo_command):
    service = up()
    service.put("a.tar.gz", model=b"weights")
    images(echo=echo_command)

    service.create_endpoint("e", OWN)

    assert service.seen("e", "a.tar.gz")["files"] == ["model"]


def test_a_file_that_cannot_be_read_fails_the_endpoint_with_what_is_wrong(up):
    service = up()
    (service.folder / "images.json").write_text(json.dumps({"images": [{"pattern": "*"}]}))

    described = service.create_endpoint("e", OWN)

    assert described["EndpointStatus"] == "Failed"
    assert "images[0].command: Field required" in described["FailureReason"]


def test_a_program_that_is_not_there_fails_the_endpoint(up, images):
    images(echo=["no-such-program"])
    service = up()

    described = service.create_endpoint("e", OWN)

    assert described["EndpointStatus"] == "Failed"
    assert "no-such-program" in described["FailureReason"]


def test_a_service_that_is_killed_takes_its_containers_with_it(up, images, echo_command):
    images(echo=echo_command)
    service = up()
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", OWN)
    pids = service.seen("e", "a.tar.gz", body=b"child")["pids"]
    assert not gone(pids[0])

    service.stop(signal.SIGKILL)

    deadline = 60
    gone_ones = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(gone_ones, timeout=deadline)
    assert gone(*(process.pid for process in alive))


def test_an_endpoint_that_is_deleted_leaves_no_process_and_no_folder(up, images, echo_command):
    images(echo=echo_command)
    service = up()
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", OWN)
    seen = service.seen("e", "a.tar.gz", body=b"child")

    assert service.stop() == 0

    assert gone(*seen["pids"])
    assert not Path(seen["folder"]).exists()
    assert not Path(seen["variables"]["TMPDIR"]).exists()
