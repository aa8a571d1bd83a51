"""The endpoint with the containers that it has by default, and archives made by hand."""

import json
import signal

import psutil
import pytest

HANDLER = b"""
from djl_python import Input, Output

def handle(inputs):
    if inputs.is_empty():
        return None
    rows = inputs.get_as_json()["instances"]
    if not rows:
        return Output(code=400, message="no rows").add("no rows")
    return Output().add_as_json({"predictions": [sum(row) for row in rows]})
"""
FILES = {"model.py": HANDLER, "serving.properties": b"engine=Python\nmaxWorkers=1\n"}


@pytest.fixture(scope="module")
def service_options():
    return ["--container", "embedded"]


@pytest.fixture(scope="module")
def endpoint(service):
    service.put("flat.tar.gz", service.archive(FILES))
    service.put("folder.tar.gz", service.archive({f"m/{name}": FILES[name] for name in FILES}))
    service.put("broken.tar.gz", service.archive(FILES | {"model.py": b"import not_there\n"}))
    return service.create_endpoint("by-hand")


@pytest.mark.parametrize("target", ["flat.tar.gz", "folder.tar.gz"])
def test_an_archive_made_by_hand_is_served(service, endpoint, target):
    body = json.dumps({"instances": [[1, 2], [3, 4]]}).encode()
    for _ in range(2):
        answer = service.seen(endpoint, target, body=body, ContentType="application/json")
        assert answer == {"predictions": [3, 7]}


def test_bad_input_is_a_model_error_with_the_handlers_own_status(service, endpoint):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        service.invoke(endpoint, "flat.tar.gz", b'{"instances": []}')
    assert raised.value.response["OriginalStatusCode"] == 400
    assert "no rows" in raised.value.response["OriginalMessage"]


def test_a_handler_that_cannot_be_imported_is_a_model_error(service, endpoint):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        service.invoke(endpoint, "broken.tar.gz")
    assert raised.value.response["OriginalStatusCode"] >= 500


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_server_and_no_worker_outlives_the_service(start_service, tmp_path, number):
    service = start_service(tmp_path, "--container", "embedded")
    service.put("flat.tar.gz", service.archive(FILES))
    service.create_endpoint("by-hand")
    service.seen("by-hand", "flat.tar.gz", body=b'{"instances": [[1]]}')
    processes = psutil.Process(service.process.pid).children(recursive=True)
    assert len(processes) >= 2
    service.stop(number)
    service.wait_for_the_end(processes)
