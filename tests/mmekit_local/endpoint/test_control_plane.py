"""Endpoints come and go: boto3 on one side, processes and folders on the other."""

import concurrent.futures
import json
import pathlib
import threading
import time

import psutil
import pytest
from botocore.exceptions import ClientError

SETTLE_SECONDS = 3.0  # for so long the answer to a creation or a deletion waits for it


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def waits_for(process, gate):
    try:
        return process.environ().get("START_AFTER") == str(gate)
    except psutil.Error:  # it has ended meanwhile
        return False


@pytest.fixture(scope="module", autouse=True)
def _models(service):
    for key in ("a.tar.gz", "b.tar.gz", "c.tar.gz", "prefix/a.tar.gz"):
        service.put(key, service.echo_archive())


def test_an_endpoint_is_creating_until_its_container_answers_ping(service, tmp_path):
    sagemaker = service.client("sagemaker")
    gate = tmp_path / "gate"
    service.describe_models("slow-start", environment={"START_AFTER": str(gate)})
    sagemaker.create_endpoint(EndpointName="slow-start", EndpointConfigName="slow-start")
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    assert sagemaker.describe_endpoint(EndpointName="slow-start")["EndpointStatus"] == "Creating"
    with pytest.raises(runtime.exceptions.ValidationError, match="not found"):
        service.invoke("slow-start", "a.tar.gz")
    gate.touch()
    service.wait_for("endpoint_in_service", "slow-start")
    assert service.seen("slow-start", "a.tar.gz")["loads"] == 1
    listed = sagemaker.list_endpoints(NameContains="slow-start")["Endpoints"]
    assert [found["EndpointStatus"] for found in listed] == ["InService"]


def test_boto3s_own_waiter_does_not_wait_for_a_container_that_starts_at_once(service):
    sagemaker = service.client("sagemaker")
    service.describe_models("at-once")

    def status_after(change):
        began = time.monotonic()
        change()
        elapsed = time.monotonic() - began
        try:
            described = sagemaker.describe_endpoint(EndpointName="at-once")
        except ClientError as error:
            return error.response["Error"]["Message"].partition(" endpoint")[0]
        # A container that takes longer is not waited for.
        return "slow" if elapsed >= SETTLE_SECONDS else described["EndpointStatus"]

    created = status_after(
        lambda: sagemaker.create_endpoint(EndpointName="at-once", EndpointConfigName="at-once")
    )
    assert created in ("InService", "slow")
    service.wait_for("endpoint_in_service", "at-once")
    deleted = status_after(lambda: sagemaker.delete_endpoint(EndpointName="at-once"))
    assert deleted in ("Could not find", "slow")


def test_deleting_an_endpoint_stops_its_container_and_removes_its_folder(service):
    sagemaker = service.client("sagemaker")
    service.create_endpoint("short-lived")
    pid = service.seen("short-lived", "a.tar.gz")["pid"]
    folder = pathlib.Path(psutil.Process(pid).cwd())
    assert list(folder.rglob("model.json"))
    sagemaker.delete_endpoint(EndpointName="short-lived")
    service.wait_for("endpoint_deleted", "short-lived")
    service.wait_until(lambda: not is_running(pid))
    service.wait_until(lambda: not folder.parent.exists())
    sagemaker.delete_endpoint_config(EndpointConfigName="short-lived")
    sagemaker.delete_model(ModelName="short-lived")
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match="not found"):
        service.invoke("short-lived", "a.tar.gz")
    service.create_endpoint("short-lived")
    assert service.seen("short-lived", "a.tar.gz")["loads"] == 1


def test_a_request_in_flight_survives_the_deletion_of_its_endpoint(service, tmp_path):
    service.create_endpoint("draining")
    service.seen("draining", "a.tar.gz")
    gate = tmp_path / "gate"
    body = json.dumps({"hold": str(gate)}).encode()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        call = threads.submit(service.seen, "draining", "a.tar.gz", body=body)
        service.wait_until((tmp_path / "gate.held").exists, what="the call")
        deleted = threads.submit(
            service.client("sagemaker").delete_endpoint, EndpointName="draining"
        )
        runtime = service.client("sagemaker-runtime", parameter_validation=False)

        def is_not_found():
            try:
                service.invoke("draining", "a.tar.gz")
            except runtime.exceptions.ValidationError:
                return True

        service.wait_until(is_not_found)
        assert not call.done()
        gate.touch()
        assert call.result()["loads"] == 1
        deleted.result()
    service.wait_for("endpoint_deleted", "draining")


def test_a_container_that_does_not_start_makes_the_endpoint_fail_with_its_last_words(service):
    sagemaker = service.client("sagemaker")
    service.describe_models("hopeless", environment={"REFUSE_TO_START": "yes"})
    sagemaker.create_endpoint(EndpointName="hopeless", EndpointConfigName="hopeless")

    def described():
        found = sagemaker.describe_endpoint(EndpointName="hopeless")
        return found["EndpointStatus"] != "Creating" and found

    found = service.wait_until(described)
    assert found["EndpointStatus"] == "Failed"
    assert "did not pass the ping health check" in found["FailureReason"]
    assert "no engine to be found" in found["FailureReason"]
    sagemaker.delete_endpoint(EndpointName="hopeless")
    service.wait_for("endpoint_deleted", "hopeless")


@pytest.mark.parametrize("kind", ["model", "endpoint_config", "endpoint"])
def test_what_exists_cannot_be_created_again(service, echo, kind):
    sagemaker = service.client("sagemaker")
    pid = service.seen(echo, "a.tar.gz")["pid"]
    variant = {"VariantName": "v", "ModelName": echo, "InstanceType": "ml.m5.large"}
    members = {
        "model": {
            "ModelName": echo,
            "ExecutionRoleArn": "arn:aws:iam::123456789012:role/Rehearsal",
        },
        "endpoint_config": {
            "EndpointConfigName": echo,
            "ProductionVariants": [variant | {"InitialInstanceCount": 1}],
        },
        "endpoint": {"EndpointName": echo, "EndpointConfigName": echo},
    }
    create = getattr(sagemaker, f"create_{kind}")
    with pytest.raises(sagemaker.exceptions.ClientError, match="already existing") as raised:
        create(**members[kind])
    assert raised.value.response["Error"]["Code"] == "ValidationException"
    assert service.seen(echo, "a.tar.gz")["pid"] == pid


def test_models_are_unloaded_least_recently_used_first_when_the_container_is_full(service):
    service.create_endpoint("tight", environment={"CAPACITY": "2"})
    for target in ("a.tar.gz", "b.tar.gz", "a.tar.gz", "c.tar.gz"):
        assert service.seen("tight", target)["loaded"] <= 2
    assert service.seen("tight", "a.tar.gz")["loads"] == 1
    assert service.seen("tight", "b.tar.gz")["loads"] == 3  # the first, a 507, and this one


def test_a_model_that_fits_nowhere_is_a_model_error_507(service):
    service.create_endpoint("no-room", environment={"CAPACITY": "0"})
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        service.invoke("no-room", "a.tar.gz")
    assert raised.value.response["OriginalStatusCode"] == 507


@pytest.mark.parametrize(
    ("data_url", "target"),
    [
        ("s3://models/prefix/", "a.tar.gz"),
        ("s3://models/prefix", "/a.tar.gz"),
        ("s3://models/pre", "fix/a.tar.gz"),
        ("https://s3-us-east-1.amazonaws.com/models/prefix/", "a.tar.gz"),
        ("https://models.s3.us-east-1.amazonaws.com/prefix/", "a.tar.gz"),
    ],
)
def test_prefix_and_target_model_are_joined_literally(service, data_url, target, request):
    name = f"literal-{abs(hash((data_url, target)))}"
    service.create_endpoint(name, data_url=data_url)
    assert service.seen(name, target)["headers"]["x-amzn-sagemaker-target-model"] == target
    service.client("sagemaker").delete_endpoint(EndpointName=name)


def test_several_instances_serve_one_variant_and_a_model_sticks_to_its_own(service):
    service.create_endpoint("pair", instances=2)
    first = {service.seen("pair", "a.tar.gz")["pid"] for _ in range(5)}
    second = {service.seen("pair", "b.tar.gz")["pid"] for _ in range(5)}
    assert len(first) == len(second) == 1
    assert first != second


def test_requests_go_to_the_variant_they_name_and_otherwise_by_weight(service):
    service.describe_models("weighty")
    sagemaker = service.client("sagemaker")
    common = {"ModelName": "weighty", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    variants = [
        common | {"VariantName": "Blue", "InitialVariantWeight": 1},
        common | {"VariantName": "Green", "InitialVariantWeight": 0},
    ]
    sagemaker.create_endpoint_config(EndpointConfigName="weighty-2", ProductionVariants=variants)
    sagemaker.create_endpoint(EndpointName="weighty", EndpointConfigName="weighty-2")
    service.wait_for("endpoint_in_service", "weighty")
    named = service.invoke("weighty", "a.tar.gz", TargetVariant="Green")
    assert named["InvokedProductionVariant"] == "Green"
    answers = [service.invoke("weighty", "a.tar.gz") for _ in range(5)]
    assert {answer["InvokedProductionVariant"] for answer in answers} == {"Blue"}


def test_a_model_data_url_outside_of_s3_is_a_validation_error(service):
    service.create_endpoint("elsewhere", data_url="https://example.com/models/")
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match="not an address in S3"):
        service.invoke("elsewhere", "a.tar.gz")


def test_a_single_model_endpoint_has_its_model_loaded_and_takes_no_target(service):
    service.create_endpoint("single", data_url="s3://models/a.tar.gz", mode="SingleModel")
    assert service.seen("single")["loads"] == 1
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match="is not a multi-model endpoint"):
        service.invoke("single", "a.tar.gz")


def test_a_single_model_endpoint_without_its_archive_fails(service):
    sagemaker = service.client("sagemaker")
    service.describe_models("bare", data_url="s3://models/none.tar.gz", mode="SingleModel")
    sagemaker.create_endpoint(EndpointName="bare", EndpointConfigName="bare")

    def failed():
        found = sagemaker.describe_endpoint(EndpointName="bare")
        return found["EndpointStatus"] == "Failed" and found

    assert "Failed to download model data" in service.wait_until(failed)["FailureReason"]


def test_an_updated_endpoint_changes_its_instances_without_a_failed_request(service, tmp_path):
    gate = tmp_path / "gate"
    service.create_endpoint("changing")
    service.describe_models("changed", environment={"COLOUR": "green", "START_AFTER": str(gate)})
    sagemaker = service.client("sagemaker")
    before = service.seen("changing", "a.tar.gz")
    sagemaker.update_endpoint(EndpointName="changing", EndpointConfigName="changed")
    described = sagemaker.describe_endpoint(EndpointName="changing")
    assert described["EndpointStatus"] == "Updating"
    while described["EndpointStatus"] == "Updating":
        service.seen("changing", "a.tar.gz")
        gate.touch()
        described = sagemaker.describe_endpoint(EndpointName="changing")
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == (
        "InService",
        "changed",
    )
    after = service.seen("changing", "a.tar.gz")
    assert after["environment"]["COLOUR"] == "green"
    service.wait_until(lambda: not is_running(before["pid"]), what="the old instance's end")


def test_an_update_that_cannot_start_leaves_the_endpoint_as_it_was(service):
    service.create_endpoint("stable")
    service.describe_models("unstable", environment={"REFUSE_TO_START": "yes"})
    sagemaker = service.client("sagemaker")
    before = service.seen("stable", "a.tar.gz")
    sagemaker.update_endpoint(EndpointName="stable", EndpointConfigName="unstable")
    service.wait_for("endpoint_in_service", "stable")
    described = sagemaker.describe_endpoint(EndpointName="stable")
    assert described["EndpointConfigName"] == "stable"
    assert "ping health check" in described["FailureReason"]
    assert service.seen("stable", "a.tar.gz")["pid"] == before["pid"]


@pytest.mark.parametrize(("endpoint", "config"), [("nobody", "echo"), ("echo", "nothing")])
def test_an_update_of_or_to_what_is_not_there_is_refused(service, echo, endpoint, config):
    sagemaker = service.client("sagemaker")
    with pytest.raises(sagemaker.exceptions.ClientError, match="Could not find"):
        sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)


def test_an_unknown_instance_type_is_refused(service):
    sagemaker = service.client("sagemaker")
    variant = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.made-up.large"}
    with pytest.raises(sagemaker.exceptions.ClientError, match="enum value set"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="odd", ProductionVariants=[variant | {"InitialInstanceCount": 1}]
        )


def stack_template(name, environment, version=1):
    model, config = f"Model{version}", f"Config{version}"
    container = {
        "Image": "image",
        "Mode": "MultiModel",
        "ModelDataUrl": "s3://models/",
        "Environment": environment,
    }
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": {"Fn::GetAtt": [model, "ModelName"]},
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1,
    }
    role = "arn:aws:iam::123456789012:role/Rehearsal"
    resources = {
        model: {
            "Type": "AWS::SageMaker::Model",
            "Properties": {"ExecutionRoleArn": role, "Containers": [container]},
        },
        config: {
            "Type": "AWS::SageMaker::EndpointConfig",
            "Properties": {"ProductionVariants": [variant]},
        },
        "Endpoint": {
            "Type": "AWS::SageMaker::Endpoint",
            "Properties": {
                "EndpointName": name,
                "EndpointConfigName": {"Fn::GetAtt": [config, "EndpointConfigName"]},
            },
        },
    }
    return json.dumps({"Resources": resources})


def test_a_cloudformation_stack_starts_and_stops_containers(service):
    template = stack_template("stacked", environment={})
    formation = service.client("cloudformation")
    formation.create_stack(StackName="stack", TemplateBody=template)
    service.wait_for("endpoint_in_service", "stacked")
    assert service.seen("stacked", "a.tar.gz")["loads"] == 1
    formation.delete_stack(StackName="stack")
    service.wait_for("endpoint_deleted", "stacked")


def test_an_updated_stack_updates_its_endpoint_without_a_gap(service):
    formation = service.client("cloudformation")
    template = stack_template("restacked", {"COLOUR": "red"})
    formation.create_stack(StackName="restack", TemplateBody=template)
    service.wait_for("endpoint_in_service", "restacked")
    assert service.seen("restacked", "a.tar.gz")["environment"]["COLOUR"] == "red"
    template = stack_template("restacked", {"COLOUR": "green"}, version=2)
    formation.update_stack(StackName="restack", TemplateBody=template)
    service.wait_until(
        lambda: service.seen("restacked", "a.tar.gz")["environment"]["COLOUR"] == "green"
    )
    formation.delete_stack(StackName="restack")


def test_a_stack_that_is_deleted_while_its_endpoint_is_created_leaves_nothing_running(
    service, tmp_path
):
    formation = service.client("cloudformation")
    gate = tmp_path / "gate"
    template = stack_template("unborn", {"START_AFTER": str(gate)})
    formation.create_stack(StackName="unborn", TemplateBody=template)
    [container] = service.wait_until(
        lambda: [
            child
            for child in psutil.Process(service.process.pid).children()
            if waits_for(child, gate)
        ]
    )
    formation.delete_stack(StackName="unborn")
    service.wait_for("endpoint_deleted", "unborn")
    service.wait_until(lambda: not is_running(container.pid))


@pytest.mark.parametrize("kind", ["model", "config", "endpoint"])
def test_of_two_that_create_the_same_at_once_one_is_refused(service, kind):
    service.describe_models(f"twice-{kind}")
    sagemaker = service.client("sagemaker")
    variant = {
        "VariantName": "v",
        "ModelName": f"twice-{kind}",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    create = {
        "model": lambda: sagemaker.create_model(
            ModelName="same",
            ExecutionRoleArn="arn:aws:iam::123456789012:role/r",
            PrimaryContainer={"Image": "i", "ModelDataUrl": "s3://models/a.tar.gz"},
        ),
        "config": lambda: sagemaker.create_endpoint_config(
            EndpointConfigName="same", ProductionVariants=[variant]
        ),
        "endpoint": lambda: sagemaker.create_endpoint(
            EndpointName="same", EndpointConfigName=f"twice-{kind}"
        ),
    }[kind]
    start = threading.Barrier(6)

    def one(_):
        start.wait()
        try:
            create()
        except ClientError as error:
            return error.response["Error"]["Code"]
        return "created"

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        outcomes = sorted(threads.map(one, range(6)))
    assert outcomes == ["ValidationException"] * 5 + ["created"]
