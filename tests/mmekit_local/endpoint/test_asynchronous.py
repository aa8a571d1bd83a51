"""Asynchronous endpoints: requests wait in a queue, answers go to S3, topics are told."""

import base64
import json
import pathlib
import urllib.request

import pytest

BUCKET = "async"
OUT, FAILED = f"s3://{BUCKET}/answers", f"s3://{BUCKET}/failures/"


@pytest.fixture(scope="module", autouse=True)
def _model(service):
    service.put("only.tar.gz", service.echo_archive())
    service.client("s3").create_bucket(Bucket=BUCKET)


@pytest.fixture(scope="module")
def topic(service):
    """A function that makes a topic and returns its ARN and what its queue hears of it."""

    def make(name):
        sns, sqs = service.client("sns"), service.client("sqs")
        arn = sns.create_topic(Name=name)["TopicArn"]
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue["Attributes"]["QueueArn"])

        def heard():
            found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            return [json.loads(json.loads(one["Body"])["Message"]) for one in found]

        return arn, lambda: service.wait_until(heard, what="a notification")

    return make


def output(**more):
    return {"OutputConfig": {"S3OutputPath": OUT, **more}}


def describe(service, name, config, **variant):
    """Create a model and an endpoint config of one name, of a single model."""
    sagemaker = service.client("sagemaker")
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::123456789012:role/Rehearsal",
        PrimaryContainer={
            "Image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full",
            "ModelDataUrl": "s3://models/only.tar.gz",
            "Environment": variant.pop("environment", {}),
        },
    )
    one = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m6i.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[one | {"InitialInstanceCount": 1} | variant],
        AsyncInferenceConfig=config,
    )


def create(service, name, config, **variant):
    describe(service, name, config, **variant)
    service.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
    service.wait_for("endpoint_in_service", name)
    return name


@pytest.fixture(scope="module")
def endpoint(service):
    return create(service, "queued", output(S3FailurePath=FAILED))


def put(service, key, body):
    service.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)
    return f"s3://{BUCKET}/{key}"


def ask(service, endpoint, body, **more):
    """Put a payload into the bucket and ask for an answer to it."""
    location = put(service, f"payloads/{more.pop('key', 'one')}", body)
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    return runtime.invoke_endpoint_async(
        EndpointName=endpoint, InputLocation=location, **{"ContentType": "text/plain"} | more
    )


def read(service, address):
    """Return an object, once it is there."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    s3 = service.client("s3")

    def there_is():
        found = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
        return key in [one["Key"] for one in found]

    service.wait_until(there_is, what=address)
    return s3.get_object(Bucket=bucket, Key=key)


def test_an_answer_is_in_s3_where_the_client_was_told(service, endpoint):
    answer = ask(service, endpoint, b"hello", InferenceId="mine", CustomAttributes="c000")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["InferenceId"] == "mine"
    assert answer["OutputLocation"].startswith(f"{OUT}/")
    assert answer["FailureLocation"].startswith(FAILED)
    found = read(service, answer["OutputLocation"])
    assert found["ContentType"] == "application/json"
    seen = json.loads(found["Body"].read())
    assert seen["length"] == 5
    assert seen["headers"]["content-type"] == "text/plain"
    assert seen["headers"]["x-amzn-sagemaker-custom-attributes"] == "c000"
    assert seen["headers"]["x-amzn-sagemaker-inference-id"] == "mine"
    assert seen["headers"]["accept"] == "*/*"


def test_without_an_inference_id_one_is_made(service, endpoint):
    first, second = (ask(service, endpoint, b"x")["InferenceId"] for _ in range(2))
    assert len(first) == 36
    assert first != second


def test_payloads_may_be_larger_than_an_ordinary_request(service, endpoint):
    answer = ask(service, endpoint, b"x" * (7 << 20))
    seen = json.loads(read(service, answer["OutputLocation"])["Body"].read())
    assert seen["length"] == 7 << 20


def test_an_answer_goes_where_the_request_wants_it_below_the_output_path(service, endpoint):
    answer = ask(service, endpoint, b"x", S3OutputPathExtension="2026/a", Filename="b.json")
    assert answer["OutputLocation"] == f"{OUT}/2026/a/b.json"
    read(service, answer["OutputLocation"])


def test_a_payload_may_come_with_the_request(service, endpoint):
    runtime = service.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint_async(EndpointName=endpoint, Body=b"inline")
    assert json.loads(read(service, answer["OutputLocation"])["Body"].read())["length"] == 6


def test_success_and_failure_are_told_to_their_topics(service, topic):
    (success, succeeded), (error, failed) = topic("success"), topic("error")
    notices = {
        "SuccessTopic": success,
        "ErrorTopic": error,
        "IncludeInferenceResponseIn": ["SUCCESS_NOTIFICATION_TOPIC"],
    }
    name = create(service, "told", output(S3FailurePath=FAILED, NotificationConfig=notices))
    answer = ask(service, name, b"hello", key="good", InferenceId="good")
    [told] = succeeded()
    content = told.pop("responseBody")
    assert json.loads(base64.b64decode(content["content"]))["length"] == 5
    assert told.pop("eventTime") >= told.pop("receivedTime")
    assert told == {
        "awsRegion": "us-east-1",
        "invocationStatus": "Completed",
        "requestParameters": {
            "contentType": "text/plain",
            "endpointName": name,
            "inputLocation": f"s3://{BUCKET}/payloads/good",
        },
        "responseParameters": {
            "contentType": "application/json",
            "outputLocation": answer["OutputLocation"],
        },
        "inferenceId": "good",
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }
    answer = ask(service, name, b'{"status": 400}', key="bad", InferenceId="bad")
    [told] = failed()
    assert (told["invocationStatus"], told["inferenceId"]) == ("Failed", "bad")
    assert told["failureReason"].startswith("ClientError: Received client error (400) from model.")
    assert "responseBody" not in told
    assert json.loads(read(service, answer["FailureLocation"])["Body"].read())["length"] == 15
    described = service.client("sagemaker").describe_endpoint(EndpointName=name)
    config = output(S3FailurePath=FAILED, NotificationConfig=notices)
    assert described["AsyncInferenceConfig"] == config


def test_a_payload_that_is_not_there_fails_the_invocation(service, endpoint):
    runtime = service.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint_async(
        EndpointName=endpoint, InputLocation=f"s3://{BUCKET}/nothing"
    )
    said = read(service, answer["FailureLocation"])["Body"].read().decode()
    assert "could not be downloaded: there is no such object" in said


def test_what_a_model_refuses_is_told_once(service, endpoint):
    answer = ask(service, endpoint, b'{"status": 418}', key="refused")
    read(service, answer["FailureLocation"])

    with urllib.request.urlopen(f"{service.url}/_mme/top?endpoint={endpoint}", timeout=60) as top:
        errors = [one for one in json.load(top)["errors"] if "418" in one["example"]]
    assert [(one["status"], one["count"]) for one in errors] == [(418, 1)]


def test_an_answer_that_takes_too_long_is_a_failure(service, endpoint, tmp_path):
    gate = tmp_path / "gate"
    body = json.dumps({"hold": str(gate)}).encode()
    answer = ask(service, endpoint, body, InvocationTimeoutSeconds=1)
    said = read(service, answer["FailureLocation"])["Body"].read().decode()
    assert "did not answer within 1 seconds" in said
    gate.touch()


def test_no_more_invocations_run_at_once_than_the_config_says(service, tmp_path):
    config = output() | {"ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2}}
    name = create(service, "two-at-once", config)
    gate = tmp_path / "gate"
    body = json.dumps({"hold": str(gate)}).encode()
    answers = [ask(service, name, body, key=f"held-{number}") for number in range(5)]
    service.wait_until(pathlib.Path(f"{gate}.held").exists, what="the first invocation")
    gate.touch()
    seen = [
        json.loads(read(service, answer["OutputLocation"])["Body"].read()) for answer in answers
    ]
    assert max(one["most"] for one in seen) == 2


def test_an_asynchronous_endpoint_refuses_ordinary_invocations(service, endpoint):
    runtime = service.client("sagemaker-runtime")
    for ask_now in (runtime.invoke_endpoint, runtime.invoke_endpoint_with_response_stream):
        with pytest.raises(runtime.exceptions.ValidationError, match="asynchronous endpoint"):
            ask_now(EndpointName=endpoint, Body=b"x")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "InputLocation or Body"),
        ({"InputLocation": "s3://b/k", "Body": b"x"}, "not both"),
        ({"InputLocation": "ftp://b/k"}, "inputLocation.*regular expression"),
        ({"InputLocation": "https://example.com/k"}, "not an address in S3"),
        ({"InputLocation": "s3://b/k", "InferenceId": "x" * 65}, "inferenceId"),
        ({"InputLocation": "s3://b/k", "RequestTTLSeconds": 59}, "requestTTLSeconds"),
        ({"InputLocation": "s3://b/k", "InvocationTimeoutSeconds": 3601}, "invocationTimeout"),
        ({"InputLocation": "s3://b/k", "Filename": "a/b"}, "filename"),
        ({"InputLocation": "s3://b/k", "S3OutputPathExtension": "a/../.."}, r"\.\."),
        ({"Body": b"x" * 128_001}, "body"),
    ],
)
def test_a_request_that_is_none_is_refused(service, endpoint, members, words):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match=words):
        runtime.invoke_endpoint_async(EndpointName=endpoint, **members)


def test_an_endpoint_that_is_not_asynchronous_says_so(service):
    service.put("a.tar.gz", service.echo_archive())
    service.create_endpoint("at-once")
    runtime = service.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ValidationError, match="no AsyncInferenceConfig"):
        runtime.invoke_endpoint_async(EndpointName="at-once", InputLocation="s3://b/k")


@pytest.mark.parametrize(
    ("config", "variant", "words"),
    [
        ({"OutputConfig": {}}, {}, "without an S3OutputPath"),
        (
            output(),
            {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}},
            "not supported for serverless",
        ),
    ],
)
def test_a_config_that_cannot_be_queued_is_refused(service, config, variant, words, request):
    sagemaker = service.client("sagemaker")
    name = f"refused-{abs(hash(request.node.name))}"
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::123456789012:role/Rehearsal",
        PrimaryContainer={"Image": "image", "ModelDataUrl": "s3://models/only.tar.gz"},
    )
    one = {"VariantName": "AllTraffic", "ModelName": name}
    one |= variant or {"InstanceType": "ml.m6i.large", "InitialInstanceCount": 1}
    with pytest.raises(sagemaker.exceptions.ClientError, match=words) as refused:
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[one], AsyncInferenceConfig=config
        )
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_multi_model_endpoint_cannot_be_asynchronous(service):
    sagemaker = service.client("sagemaker")
    service.describe_models("several-models")
    one = {"VariantName": "AllTraffic", "ModelName": "several-models"}
    one |= {"InstanceType": "ml.m6i.large", "InitialInstanceCount": 1}
    with pytest.raises(sagemaker.exceptions.ClientError, match="multi-model"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="queued-models",
            ProductionVariants=[one],
            AsyncInferenceConfig=output(),
        )


def test_a_queue_outlives_an_update(service, tmp_path):
    config = output() | {"ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1}}
    gate = tmp_path / "gate"
    create(service, "before", config)
    describe(service, "after", config, environment={"COLOUR": "green"})
    body = json.dumps({"hold": str(gate)}).encode()
    answers = [ask(service, "before", body, key=f"queued-{number}") for number in range(2)]
    service.wait_until(pathlib.Path(f"{gate}.held").exists, what="the first invocation")
    sagemaker = service.client("sagemaker")
    sagemaker.update_endpoint(EndpointName="before", EndpointConfigName="after")
    service.wait_for("endpoint_in_service", "before")
    gate.touch()
    colours = [
        json.loads(read(service, answer["OutputLocation"])["Body"].read())["environment"]["COLOUR"]
        for answer in answers
    ]
    assert colours == [None, "green"]


def test_an_endpoint_may_have_no_instance_while_nobody_asks(service):
    name = create(service, "at-rest", output())
    sagemaker = service.client("sagemaker")

    def resize(count):
        wish = {"VariantName": "AllTraffic", "DesiredInstanceCount": count}
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name, DesiredWeightsAndCapacities=[wish]
        )
        service.wait_for("endpoint_in_service", name)
        (variant,) = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
        assert variant["CurrentInstanceCount"] == variant["DesiredInstanceCount"] == count

    resize(0)
    answer = ask(service, name, b"hello")
    resize(1)
    assert json.loads(read(service, answer["OutputLocation"])["Body"].read())["length"] == 5


def test_what_cannot_be_written_or_told_is_counted(service):
    nobody = "arn:aws:sns:us-east-1:123456789012:nobody"
    config = {
        "OutputConfig": {
            "S3OutputPath": "s3://no-such-bucket-anywhere/x",
            "NotificationConfig": {"ErrorTopic": nobody},
        }
    }
    name = create(service, "unheard", config)
    ask(service, name, b"x")
    for metric in ("ResponseUploadFailures", "NotificationFailures", "InvocationFailures"):
        service.wait_until(lambda metric=metric: total(service, name, metric) == 1.0, what=metric)
    assert nobody in service.log


def total(service, endpoint, metric, **dimensions):
    """Return the sum of a metric's values; None where there are none."""
    dimensions = {"EndpointName": endpoint, "VariantName": "AllTraffic"} | dimensions
    found = service.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": key, "Value": one} for key, one in dimensions.items() if one],
        StartTime=0,
        EndTime=32_503_680_000,
        Period=86_400,
        Statistics=["Sum"],
    )["Datapoints"]
    return sum(point["Sum"] for point in found) if found else None


def test_metrics_are_those_of_asynchronous_endpoints(service):
    name = create(service, "measured", output())
    answer = ask(service, name, b"x")
    read(service, answer["OutputLocation"])
    service.wait_until(lambda: total(service, name, "InvocationsProcessed") == 1.0)
    for metric in ("TimeInBacklog", "RequestDownloadLatency", "TotalProcessingTime"):
        assert total(service, name, metric) > 0
    assert total(service, name, "ModelLatency") > 0
    assert total(service, name, "Invocation4XXErrors") == 0.0
    assert total(service, name, "ApproximateBacklogSize", VariantName=None) is not None
    for metric in ("Invocations", "InvocationsPerInstance", "OverheadLatency"):
        assert total(service, name, metric) is None


def test_an_endpoint_that_is_deleted_takes_its_queue_along(service, tmp_path):
    name = create(service, "dropped", output())
    ask(service, name, json.dumps({"hold": str(tmp_path / "never")}).encode())
    service.wait_until((tmp_path / "never.held").exists, what="the invocation")
    sagemaker = service.client("sagemaker")
    sagemaker.delete_endpoint(EndpointName=name)
    # By itself the waiter looks again after half a minute.
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1})


@pytest.mark.thorough  # AWS's shortest time is a minute
def test_a_request_that_waits_for_too_long_expires(service, tmp_path):
    config = output(S3FailurePath=FAILED)
    config |= {"ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1}}
    name = create(service, "expiring", config)
    gate = tmp_path / "gate"
    ask(service, name, json.dumps({"hold": str(gate)}).encode())
    answer = ask(service, name, b"x", RequestTTLSeconds=60)
    said = read(service, answer["FailureLocation"])["Body"].read().decode()
    assert "waited for longer than 60 seconds" in said
    assert total(service, name, "ExpiredRequests") == 1.0
    gate.touch()
