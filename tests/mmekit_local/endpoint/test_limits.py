"""How long an endpoint waits for a load and for an answer, here with limits of seconds."""

import pytest


@pytest.fixture(scope="module")
def service_options():
    return ["--limits", "invoke_seconds=1", "load_seconds=3", "start_seconds=60"]


def seen_once_ready(service, endpoint, target):
    """What the container saw of the first invocation that did not come too early."""
    runtime = service.client("sagemaker-runtime", parameter_validation=False)

    def is_ready():
        try:
            return service.seen(endpoint, target)
        except runtime.exceptions.ModelNotReadyException:
            return None

    return service.wait_until(is_ready)


def test_an_invocation_that_takes_too_long_is_a_model_error(service, echo):
    seen_once_ready(service, echo, "a.tar.gz")
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError, match="invocation timed out") as raised:
        service.invoke(echo, "a.tar.gz", body=b'{"seconds": 600}')
    assert raised.value.response["OriginalStatusCode"] == 0
    assert service.seen(echo, "a.tar.gz")["loads"] == 1


def test_a_model_that_loads_longer_than_a_call_may_take_is_not_ready_and_then_is(
    service, echo, tmp_path
):
    gate = tmp_path / "gate"
    service.put("slow.tar.gz", service.echo_archive(load_after=str(gate)))
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelNotReadyException, match="not ready") as raised:
        service.invoke(echo, "slow.tar.gz")
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    gate.touch()
    assert seen_once_ready(service, echo, "slow.tar.gz")["loads"] == 1


def test_a_load_that_takes_too_long_is_given_up(service, echo):
    service.put("endless.tar.gz", service.echo_archive(load_seconds=600))
    runtime = service.client("sagemaker-runtime", parameter_validation=False)

    def given_up():
        try:
            service.invoke(echo, "endless.tar.gz")
        except runtime.exceptions.ModelNotReadyException:
            return None
        except runtime.exceptions.ModelError as error:
            return error.response["OriginalMessage"]

    assert service.wait_until(given_up) == "The model was not loaded within 3 seconds."


def test_a_container_that_dies_is_a_model_error(service):
    service.put("mortal.tar.gz", service.echo_archive())
    service.create_endpoint("mortal")
    seen_once_ready(service, "mortal", "mortal.tar.gz")
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError, match="gave no answer"):
        service.invoke("mortal", "mortal.tar.gz", body=b'{"exit": 3}')
    service.client("sagemaker").delete_endpoint(EndpointName="mortal")
    service.wait_for("endpoint_deleted", "mortal")
