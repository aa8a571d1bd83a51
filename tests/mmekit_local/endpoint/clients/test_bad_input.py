"""What clients must not send, sent all the same: each gets AWS's error, and nothing is lost.

botocore refuses some of it by itself, so those requests are raw HTTP.
"""

import concurrent.futures
import contextlib
import http.client
import json
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ROWS = b'{"instances": [[1, 2]]}'
JSON = {"content-type": "application/json"}
TARGET = {"x-amzn-sagemaker-target-model": "times1.tar.gz"}
LIMIT = 6 * 1024 * 1024


class Answer:
    """An HTTP answer, and the error in it as botocore would see it."""

    def __init__(self, answer):
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()

    @property
    def error(self):
        """Status and code."""
        members = json.loads(self.body)
        code = self.headers["x-amzn-errortype"] or members["__type"]
        return self.status, code.partition(":")[0].rpartition("#")[2]

    @property
    def message(self):
        members = json.loads(self.body)
        return members.get("message") or members["Message"]


@pytest.fixture(scope="module")
def send(rehearsal):
    """A function that sends one request to the data plane: signed, unless told otherwise."""

    def send(path, body=ROWS, headers=None, method="POST", service="sagemaker"):
        request = AWSRequest(method, rehearsal.url + path, data=body, headers=headers or {})
        if service is not None:
            SigV4Auth(Credentials("local", "local"), service, "us-east-1").add_auth(request)
        address = urlsplit(rehearsal.url)
        with contextlib.closing(http.client.HTTPConnection(address.hostname, address.port)) as wire:
            wire.request(method, path, body, dict(request.headers))
            return Answer(wire.getresponse())

    return send


@pytest.fixture
def invoke(send):
    """A function that invokes an endpoint with given headers."""

    def invoke(endpoint, headers=None, body=ROWS, suffix="invocations", **more):
        path = f"/endpoints/{quote(endpoint, safe='')}/{suffix}"
        return send(path, body, JSON | (headers or {}), **more)

    return invoke


@pytest.fixture(autouse=True)
def _nothing_is_lost(invoke, team):
    yield
    answer = invoke(team, TARGET)
    assert (answer.status, json.loads(answer.body)) == (200, {"predictions": [3.0]})


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, "missing a target model header"),
        ("", "greater than or equal to 1"),
        ("m" * 1025, "less than or equal to 1024"),
        ("../times1.tar.gz", ".."),
        ("a/../times1.tar.gz", ".."),
        ("absent.tar.gz", "Failed to download model data"),
        ("times1.tar.gz/", "Failed to download model data"),
        ("times1\ttar.gz", "regular expression"),
        ("t\u00fcr.tar.gz", "regular expression"),
    ],
)
def test_a_target_model_that_cannot_be_is_a_validation_error(invoke, team, target, words):
    answer = invoke(team, {} if target is None else {next(iter(TARGET)): target})
    assert answer.error == (400, "ValidationError")
    assert words in answer.message


def test_a_target_model_of_a_single_model_endpoint_is_a_validation_error(invoke, lone):
    answer = invoke(lone, TARGET)
    assert answer.error == (400, "ValidationError")
    assert "not a multi-model endpoint" in answer.message
    assert json.loads(invoke(lone).body) == {"predictions": [30.0]}


@pytest.mark.parametrize("name", ["nobody", "Team", "team/", "no such thing", "..", "e" * 64])
def test_an_endpoint_that_is_not_there_is_a_validation_error(invoke, name):
    assert invoke(name, TARGET).error == (400, "ValidationError")


def test_an_unknown_endpoint_is_named_with_its_account(invoke):
    message = invoke("nobody", TARGET).message
    assert message == "Endpoint nobody of account 123456789012 not found."


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-amzn-sagemaker-target-variant", "Blue"),
        ("x-amzn-sagemaker-target-variant", "under_score"),
        ("x-amzn-sagemaker-target-variant", "v" * 64),
        ("x-amzn-sagemaker-custom-attributes", "a" * 1025),
        ("x-amzn-sagemaker-inference-id", "i" * 65),
        ("x-amzn-sagemaker-inference-component", "component"),
    ],
)
def test_a_header_that_the_service_model_forbids_is_a_validation_error(invoke, team, header, value):
    assert invoke(team, TARGET | {header: value}).error == (400, "ValidationError")


def test_a_body_of_six_mebibytes_is_taken_and_one_byte_more_is_not(invoke, team):
    rows = json.dumps({"instances": [[1, 2]]}).encode()
    whole = rows + b" " * (LIMIT - len(rows))
    assert json.loads(invoke(team, TARGET, whole).body) == {"predictions": [3.0]}
    answer = invoke(team, TARGET, whole + b" ")
    assert answer.error == (400, "ValidationError")
    assert f"less than or equal to {LIMIT}" in answer.message


def test_a_far_too_large_body_is_refused_and_boto3_sees_why(aws, team):
    runtime = boto3.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ValidationError, match="body"):
        runtime.invoke_endpoint(
            EndpointName=team, TargetModel="times1.tar.gz", Body=b" " * (10 * LIMIT)
        )
    runtime.close()


@pytest.mark.parametrize("suffix", ["invocations", "async-invocations"])
def test_an_unsigned_request_is_refused(invoke, team, suffix):
    answer = invoke(team, TARGET, suffix=suffix, service=None)
    assert answer.error == (403, "MissingAuthenticationTokenException")


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic bG9jYWw6bG9jYWw=",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=local, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e/f/g/h, SignedHeaders=host, Signature=0",
    ],
)
def test_a_signature_that_is_none_is_refused(invoke, team, authorization):
    answer = invoke(team, TARGET | {"authorization": authorization}, service=None)
    assert answer.status in (400, 403)
    assert answer.error[1] in (
        "IncompleteSignatureException",
        "MissingAuthenticationTokenException",
    )


def test_an_asynchronous_invocation_is_refused_clearly(aws, team):
    runtime = boto3.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ValidationError, match=team) as raised:
        runtime.invoke_endpoint_async(EndpointName=team, InputLocation="s3://models/rows.json")
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    runtime.close()


def test_a_streamed_invocation_cannot_name_a_target_model_and_is_refused_clearly(aws, team):
    runtime = boto3.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ValidationError, match="missing a target model header"):
        runtime.invoke_endpoint_with_response_stream(EndpointName=team, Body=ROWS)
    runtime.close()


def test_an_endpoint_that_is_not_in_service_yet_is_not_found(aws, team):
    sagemaker = boto3.client("sagemaker")
    aws.describe("early")
    runtime = boto3.client("sagemaker-runtime")
    refusals = []
    with concurrent.futures.ThreadPoolExecutor() as threads:
        # CreateEndpoint is answered once the endpoint is there: ask while it is under way.
        created = threads.submit(
            sagemaker.create_endpoint, EndpointName="early", EndpointConfigName="early"
        )
        while not created.done():
            try:
                runtime.invoke_endpoint(
                    EndpointName="early",
                    TargetModel="times1.tar.gz",
                    Body=ROWS,
                    ContentType="application/json",
                )
                break
            except runtime.exceptions.ValidationError as error:
                refusals.append(error.response["Error"]["Message"])
        created.result()
    # None, if the container was there before anybody could ask.
    assert set(refusals) <= {"Endpoint early of account 123456789012 not found."}
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="early", WaiterConfig={"Delay": 0.1, "MaxAttempts": 1000}
    )
    sagemaker.delete_endpoint(EndpointName="early")
    runtime.close()


@pytest.fixture
def control(send):
    """A function that calls an operation of SageMaker's control plane, bypassing botocore."""

    def control(operation, members=None, body=None, **more):
        headers = {
            "x-amz-target": f"SageMaker.{operation}",
            "content-type": "application/x-amz-json-1.1",
        }
        return send("/", body if members is None else json.dumps(members).encode(), headers, **more)

    return control


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"ModelName": 7}', b'"text"'])
def test_a_malformed_request_is_refused(control, body):
    status, code = control("CreateModel", body=body).error
    assert status == 400
    assert code in ("SerializationException", "ValidationException")


def test_an_unknown_operation_is_refused(control):
    assert control("MakeCoffee", {}).error == (400, "UnknownOperationException")


def test_an_unsigned_request_to_the_control_plane_is_refused(control):
    status, code = control("ListModels", {}, service=None).error
    assert status in (400, 403)
    assert code == "MissingAuthenticationTokenException"


@pytest.mark.parametrize(
    "name",
    ["under_score", "-first", "last-", "a" * 64, "", "dot.ted", "spa ce", "sl/ash", "\u00fc"],
)
@pytest.mark.parametrize(
    ("operation", "member"),
    [
        ("CreateModel", "ModelName"),
        ("CreateEndpointConfig", "EndpointConfigName"),
        ("CreateEndpoint", "EndpointName"),
    ],
)
def test_a_name_that_awss_patterns_forbid_is_refused(control, team, operation, member, name):
    members = {
        "CreateModel": {"ExecutionRoleArn": "arn:aws:iam::123456789012:role/Rehearsal"},
        "CreateEndpointConfig": {
            "ProductionVariants": [
                {
                    "VariantName": "v",
                    "ModelName": team,
                    "InstanceType": "ml.m5.large",
                    "InitialInstanceCount": 1,
                }
            ]
        },
        "CreateEndpoint": {"EndpointConfigName": team},
    }[operation]
    answer = control(operation, members | {member: name})
    assert answer.error == (400, "ValidationException")
    assert "failed to satisfy constraint" in answer.message


@pytest.mark.parametrize(
    ("operation", "members", "words"),
    [
        ("DescribeEndpoint", {"EndpointName": "nobody"}, "Could not find endpoint"),
        ("DescribeModel", {"ModelName": "nobody"}, "Could not find model"),
        ("DeleteEndpoint", {"EndpointName": "nobody"}, "Could not find endpoint"),
        ("DeleteModel", {"ModelName": "nobody"}, "Could not find model"),
        (
            "DescribeEndpointConfig",
            {"EndpointConfigName": "nobody"},
            "Could not find endpoint configuration",
        ),
        (
            "DeleteEndpointConfig",
            {"EndpointConfigName": "nobody"},
            "Could not find endpoint configuration",
        ),
        (
            "CreateEndpoint",
            {"EndpointName": "new", "EndpointConfigName": "nobody"},
            "Could not find endpoint configuration",
        ),
        (
            "CreateEndpointConfig",
            {
                "EndpointConfigName": "new",
                "ProductionVariants": [
                    {
                        "VariantName": "v",
                        "ModelName": "nobody",
                        "InstanceType": "ml.m5.large",
                        "InitialInstanceCount": 1,
                    }
                ],
            },
            "Could not find model",
        ),
    ],
)
def test_what_is_not_there_is_a_validation_exception(control, operation, members, words):
    answer = control(operation, members)
    assert answer.error == (400, "ValidationException")
    assert words in answer.message
    assert "arn:aws:sagemaker:us-east-1:123456789012:" in answer.message


def test_what_is_in_use_may_be_deleted_and_its_endpoint_goes_on(aws):
    sagemaker, s3 = boto3.client("sagemaker"), boto3.client("s3")
    s3.copy_object(Bucket="models", Key="used/a.tar.gz", CopySource="models/times1.tar.gz")
    aws.create("used", data_url="s3://models/used/")
    runtime = boto3.client("sagemaker-runtime")

    def call():
        answer = runtime.invoke_endpoint(
            EndpointName="used", TargetModel="a.tar.gz", Body=ROWS, ContentType="application/json"
        )
        return json.loads(answer["Body"].read())

    assert call() == {"predictions": [3.0]}
    sagemaker.delete_model(ModelName="used")
    sagemaker.delete_endpoint_config(EndpointConfigName="used")
    s3.delete_object(Bucket="models", Key="used/a.tar.gz")
    assert call() == {"predictions": [3.0]}
    assert sagemaker.describe_endpoint(EndpointName="used")["EndpointStatus"] == "InService"
    sagemaker.delete_endpoint(EndpointName="used")
    runtime.close()


def test_a_bucket_with_models_in_it_is_not_deleted(aws):
    s3 = boto3.client("s3")
    with pytest.raises(s3.exceptions.ClientError) as raised:
        s3.delete_bucket(Bucket="models")
    assert raised.value.response["Error"]["Code"] == "BucketNotEmpty"
    assert s3.head_object(Bucket="models", Key="times1.tar.gz")


@pytest.mark.parametrize(
    ("endpoint", "memory", "concurrency"),
    [
        ("team", 2048, 5),
        ("lone", 512, 5),
        ("lone", 1500, 5),
        ("lone", 7168, 5),
        ("lone", 2048, 201),
    ],
)
def test_a_serverless_variant_that_cannot_be_is_refused(
    control, team, lone, endpoint, memory, concurrency
):
    serverless = {"MemorySizeInMB": memory, "MaxConcurrency": concurrency}
    variant = {"VariantName": "v", "ModelName": endpoint, "ServerlessConfig": serverless}
    config = f"serverless-{endpoint}-{memory}-{concurrency}"
    answer = control(
        "CreateEndpointConfig", {"EndpointConfigName": config, "ProductionVariants": [variant]}
    )
    if answer.status == 200:  # whoever accepts the config must refuse the endpoint
        answer = control("CreateEndpoint", {"EndpointName": config, "EndpointConfigName": config})
    assert answer.error == (400, "ValidationException")
