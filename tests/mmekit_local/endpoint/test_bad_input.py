"""What SageMaker's control plane refuses, it refuses here: same code, same message, no change."""

import http.client
import json
from urllib.parse import urlsplit

import httpx
import pytest

SCOPE = "AWS4-HMAC-SHA256 Credential=k/20250101/us-east-1/sagemaker/aws4_request, x"
ROLE = "arn:aws:iam::123456789012:role/Rehearsal"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
MULTI = {"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": "s3://models/"}
VARIANT = {
    "VariantName": "v",
    "ModelName": "multi",
    "InstanceType": "ml.m5.large",
    "InitialInstanceCount": 1,
}
SERVERLESS = {
    "VariantName": "v",
    "ModelName": "single",
    "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5},
}


@pytest.fixture(scope="module")
def call(service):
    """A function that sends a request as a client without any checks of its own would."""
    address = urlsplit(service.url)

    def send(operation, body, authorization=SCOPE, target="SageMaker"):
        connection = http.client.HTTPConnection(address.hostname, address.port)
        headers = {"Content-Type": "application/x-amz-json-1.1"}
        if operation is not None:
            headers["X-Amz-Target"] = f"{target}.{operation}"
        if authorization is not None:
            headers["Authorization"] = authorization
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", "/", body=content, headers=headers)
        response = connection.getresponse()
        answer = json.loads(response.read() or b"{}")
        connection.close()
        return response.status, answer

    return send


@pytest.fixture(scope="module", autouse=True)
def _models(service):
    sagemaker = service.client("sagemaker")
    single = {"Image": IMAGE, "ModelDataUrl": "s3://models/a.tar.gz"}
    sagemaker.create_model(ModelName="multi", ExecutionRoleArn=ROLE, PrimaryContainer=MULTI)
    sagemaker.create_model(ModelName="single", ExecutionRoleArn=ROLE, PrimaryContainer=single)
    sagemaker.create_model(ModelName="several", ExecutionRoleArn=ROLE, Containers=[single, single])


def listed(service):
    sagemaker = service.client("sagemaker")
    return (
        [found["ModelName"] for found in sagemaker.list_models()["Models"]],
        [
            found["EndpointConfigName"]
            for found in sagemaker.list_endpoint_configs()["EndpointConfigs"]
        ],
        [found["EndpointName"] for found in sagemaker.list_endpoints()["Endpoints"]],
    )


def refused(service, call, operation, members, code="ValidationException"):
    """Send what must be refused, see that it changed nothing, and return the message."""
    before = listed(service)
    status, answer = call(operation, members)
    assert (status, answer.get("__type")) == (400, code), answer
    assert listed(service) == before
    return answer["message"]


def model(**members):
    described = {"ModelName": "m", "ExecutionRoleArn": ROLE, "PrimaryContainer": MULTI} | members
    return {name: value for name, value in described.items() if value is not ...}


def config(*variants, **members):
    return {"EndpointConfigName": "c", "ProductionVariants": list(variants)} | members


@pytest.mark.parametrize(
    ("name", "constraint"),
    [
        ("-leading", "regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"),
        ("trailing-", "regular expression pattern"),
        ("under_score", "regular expression pattern"),
        ("line\nend", "regular expression pattern"),
        ("end\n", "regular expression pattern"),
        ("ünï", "regular expression pattern"),
        ("", "regular expression pattern"),
        ("x" * 64, "Member must have length less than or equal to 63"),
    ],
)
@pytest.mark.parametrize(
    "operation", ["CreateEndpoint", "DescribeEndpoint", "UpdateEndpoint", "DeleteEndpoint"]
)
def test_names_that_the_patterns_forbid(call, operation, name, constraint):
    status, answer = call(operation, {"EndpointName": name, "EndpointConfigName": "c"})
    assert (status, answer["__type"]) == (400, "ValidationException")
    message = answer["message"]
    assert "1 validation error detected: Value '" in message or "2 validation errors" in message
    assert f"'{name}' at 'endpointName' failed to satisfy constraint: Member must" in message
    assert constraint in message


@pytest.mark.parametrize(
    ("operation", "members", "message"),
    [
        ("CreateModel", model(ModelName=...), "Value null at 'modelName' failed to satisfy"),
        ("CreateModel", model(ExecutionRoleArn=...), "Value null at 'executionRoleArn'"),
        ("CreateModel", model(ExecutionRoleArn="role/Rehearsal"), "at 'executionRoleArn' failed"),
        ("CreateModel", model(PrimaryContainer=...), "either PrimaryContainer or Containers"),
        ("CreateModel", model(Containers=[MULTI]), "both PrimaryContainer and Containers"),
        (
            "CreateModel",
            model(PrimaryContainer=MULTI | {"Mode": "Many"}),
            (
                "Value 'Many' at 'primaryContainer.mode' failed to satisfy constraint: Member must "
                "satisfy enum value set: [SingleModel, MultiModel]"
            ),
        ),
        (
            "CreateModel",
            model(PrimaryContainer=MULTI | {"ModelDataUrl": "http://example.com/models/"}),
            "at 'primaryContainer.modelDataUrl' failed to satisfy constraint",
        ),
        (
            "CreateModel",
            model(PrimaryContainer={"Image": IMAGE, "Mode": "MultiModel"}),
            "ModelDataUrl must be specified",
        ),
        (
            "CreateModel",
            model(PrimaryContainer={"ModelDataUrl": "s3://models/a.tar.gz"}),
            "must have an Image",
        ),
        ("CreateModel", model(PrimaryContainer=..., Containers=[MULTI] * 16), "equal to 15"),
        ("CreateEndpointConfig", config(), "Member must have length greater than or equal to 1"),
        ("CreateEndpointConfig", config(VARIANT, VARIANT), 'name "v" was non-unique'),
        (
            "CreateEndpointConfig",
            config(VARIANT | {"ModelName": "nothing"}),
            'Could not find model "arn:aws:sagemaker:us-east-1:123456789012:model/nothing".',
        ),
        (
            "CreateEndpointConfig",
            config(VARIANT | {"InstanceType": "ml.made-up.large"}),
            (
                "at 'productionVariants.1.member.instanceType' failed to satisfy constraint: "
                "Member must satisfy enum value set: [ml.t2.medium"
            ),
        ),
        (
            "CreateEndpointConfig",
            config(VARIANT | {"InitialInstanceCount": 0}),
            (
                "Value '0' at 'productionVariants.1.member.initialInstanceCount' failed to satisfy "
                "constraint: Member must have value greater than or equal to 1"
            ),
        ),
        (
            "CreateEndpointConfig",
            config(VARIANT | {"InitialVariantWeight": -1}),
            "Member must have value greater than or equal to 0",
        ),
        (
            "CreateEndpointConfig",
            config(SERVERLESS | {"ModelName": "multi"}),
            "MultiModel mode is not supported for serverless",
        ),
        (
            "CreateEndpointConfig",
            config(SERVERLESS | {"InstanceType": "ml.m5.large"}),
            "cannot have InstanceType",
        ),
        (
            "CreateEndpointConfig",
            config(
                SERVERLESS | {"ServerlessConfig": {"MemorySizeInMB": 1500, "MaxConcurrency": 1}}
            ),
            "enum value set: [1024, 2048, 3072, 4096, 5120, 6144]",
        ),
        (
            "CreateEndpointConfig",
            config(
                SERVERLESS | {"ServerlessConfig": {"MemorySizeInMB": 7168, "MaxConcurrency": 201}}
            ),
            (
                "2 validation errors detected: Value '7168' at "
                "'productionVariants.1.member.serverlessConfig.memorySizeInMB'"
            ),
        ),
        (
            "CreateEndpointConfig",
            config(
                SERVERLESS
                | {
                    "ServerlessConfig": {
                        "MemorySizeInMB": 1024,
                        "MaxConcurrency": 5,
                        "ProvisionedConcurrency": 6,
                    }
                }
            ),
            "ProvisionedConcurrency must be less than or equal to MaxConcurrency",
        ),
        ("CreateEndpointConfig", config({"VariantName": "v"}), "has no ModelName"),
        (
            "CreateEndpointConfig",
            config({"VariantName": "v", "ModelName": "multi"}),
            "either an InstanceType or a ServerlessConfig",
        ),
        (
            "CreateEndpoint",
            {"EndpointName": "e", "EndpointConfigName": "nothing"},
            (
                "Could not find endpoint configuration "
                '"arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/nothing".'
            ),
        ),
        ("DescribeModel", {"ModelName": "nothing"}, 'Could not find model "arn:'),
        ("DeleteModel", {"ModelName": "nothing"}, 'Could not find model "arn:'),
        ("DescribeEndpointConfig", {"EndpointConfigName": "nothing"}, "endpoint configuration"),
        ("DeleteEndpointConfig", {"EndpointConfigName": "nothing"}, "endpoint configuration"),
        ("DescribeEndpoint", {"EndpointName": "nobody"}, 'Could not find endpoint "arn:aws:sage'),
        ("DeleteEndpoint", {"EndpointName": "nobody"}, 'Could not find endpoint "arn:aws:sage'),
        (
            "UpdateEndpoint",
            {"EndpointName": "nobody", "EndpointConfigName": "nothing"},
            'Could not find endpoint "arn:aws:sage',
        ),
        (
            "UpdateEndpointWeightsAndCapacities",
            {
                "EndpointName": "nobody",
                "DesiredWeightsAndCapacities": [{"VariantName": "v", "DesiredWeight": 1}],
            },
            'Could not find endpoint "arn:aws:sage',
        ),
    ],
)
def test_requests_that_cannot_be_done(service, call, operation, members, message):
    assert message in refused(service, call, operation, members)


@pytest.mark.parametrize(
    "member",
    [
        {"EnableNetworkIsolation": True},
        {"VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}},
    ],
)
def test_a_serverless_endpoint_has_no_network_of_its_own(service, call, member):
    (name,) = member
    container = {"Image": IMAGE, "ModelDataUrl": "s3://models/a.tar.gz"}
    service.client("sagemaker").create_model(
        ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container, **member
    )
    message = refused(
        service, call, "CreateEndpointConfig", config(SERVERLESS | {"ModelName": name})
    )
    assert f"Serverless endpoints do not support {name}" in message


@pytest.mark.parametrize(
    "body",
    [
        b'{"EndpointName": ',
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b'{"EndpointName": 5}',
        b'{"EndpointName": ["x"]}',
        b'{"EndpointName": {"a": 1}}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_not_what_it_must_be(service, call, body):
    refused(service, call, "DescribeEndpoint", body, "SerializationException")


@pytest.mark.parametrize("weight", [b"NaN", b"Infinity", b"1e999", b'"1"', b"true"])
def test_numbers_that_are_none(service, call, weight):
    body = json.dumps(config(VARIANT | {"InitialVariantWeight": 0.125})).encode()
    body = body.replace(b"0.125", weight)
    refused(service, call, "CreateEndpointConfig", body, "SerializationException")


def test_an_operation_that_does_not_exist(service, call):
    refused(service, call, "DestroyEverything", {}, "UnknownOperationException")
    refused(service, call, None, {}, "UnknownOperationException")


def test_a_request_without_a_signature(call):
    status, answer = call("ListEndpoints", {}, authorization=None)
    assert (status, answer["__type"]) == (403, "MissingAuthenticationTokenException")


def test_a_request_with_a_malformed_signature(call):
    for authorization in ("AWS4-HMAC-SHA256 Credential=k/1/2, x", "Basic eDp5", ""):
        status, answer = call("ListEndpoints", {}, authorization=authorization)
        assert status == 403, authorization
        assert answer["__type"] in (
            "IncompleteSignatureException",
            "MissingAuthenticationTokenException",
        )


def test_several_containers_are_refused_when_an_endpoint_is_to_run_them(service, call):
    sagemaker = service.client("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName="several", ProductionVariants=[VARIANT | {"ModelName": "several"}]
    )
    members = {"EndpointName": "several", "EndpointConfigName": "several"}
    assert "several containers are not supported" in refused(
        service, call, "CreateEndpoint", members
    )


def test_more_instances_than_the_quota_are_refused(service, call):
    sagemaker = service.client("sagemaker")
    for name, counts in {"crowd": [101], "together": [60, 60]}.items():
        sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[
                VARIANT | {"VariantName": f"v{number}", "InitialInstanceCount": count}
                for number, count in enumerate(counts)
            ],
        )
        members = {"EndpointName": name, "EndpointConfigName": name}
        message = refused(service, call, "CreateEndpoint", members, "ResourceLimitExceeded")
        assert "'ml.m5.large for endpoint usage' is 100 Instances" in message
        assert f"a request delta of {sum(counts)} Instances" in message


def test_more_instances_than_the_quota_cannot_be_had_later_either(service, echo, call):
    service.client("sagemaker").create_endpoint_config(
        EndpointConfigName="later", ProductionVariants=[VARIANT | {"InitialInstanceCount": 1000}]
    )
    wishes = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 101}]
    for operation, members in {
        "UpdateEndpoint": {"EndpointConfigName": "later"},
        "UpdateEndpointWeightsAndCapacities": {"DesiredWeightsAndCapacities": wishes},
    }.items():
        refused(
            service, call, operation, {"EndpointName": echo, **members}, "ResourceLimitExceeded"
        )
    described = service.client("sagemaker").describe_endpoint(EndpointName=echo)
    assert described["EndpointStatus"] == "InService"


def test_an_endpoint_whose_model_is_gone_cannot_be_created(service, call):
    service.describe_models("forgotten")
    service.client("sagemaker").delete_model(ModelName="forgotten")
    members = {"EndpointName": "forgotten", "EndpointConfigName": "forgotten"}
    assert "Could not find model" in refused(service, call, "CreateEndpoint", members)


def test_an_endpoint_in_progress_can_be_neither_changed_nor_deleted(service, call, tmp_path):
    sagemaker = service.client("sagemaker")
    gate = tmp_path / "gate"
    service.describe_models("in-progress", environment={"START_AFTER": str(gate)})
    sagemaker.create_endpoint(EndpointName="in-progress", EndpointConfigName="in-progress")
    capacities = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}]
    for operation, members in {
        "DeleteEndpoint": {},
        "UpdateEndpoint": {"EndpointConfigName": "in-progress"},
        "UpdateEndpointWeightsAndCapacities": {"DesiredWeightsAndCapacities": capacities},
    }.items():
        message = refused(service, call, operation, {"EndpointName": "in-progress", **members})
        assert message == (
            "Cannot update in-progress endpoint "
            '"arn:aws:sagemaker:us-east-1:123456789012:endpoint/in-progress".'
        )
    gate.touch()
    service.wait_for("endpoint_in_service", "in-progress")
    sagemaker.delete_endpoint(EndpointName="in-progress")


def test_what_is_in_use_may_be_deleted_as_on_aws_and_the_endpoint_goes_on(service):
    sagemaker = service.client("sagemaker")
    service.put("a.tar.gz", service.echo_archive())
    service.create_endpoint("in-use")
    sagemaker.delete_model(ModelName="in-use")
    sagemaker.delete_endpoint_config(EndpointConfigName="in-use")
    assert service.seen("in-use", "a.tar.gz")["loads"] == 1
    described = sagemaker.describe_endpoint(EndpointName="in-use")
    assert described["EndpointStatus"] == "InService"
    sagemaker.delete_endpoint(EndpointName="in-use")


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ([{"VariantName": "other", "DesiredWeight": 1}], 'name(s) "other" is/are not present'),
        ([{"VariantName": "AllTraffic", "DesiredWeight": -1}], "greater than or equal to 0"),
        ([{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}], "at least 1"),
        ([{"VariantName": "AllTraffic", "DesiredWeight": 1}] * 2, "non-unique"),
        ([], "length greater than or equal to 1"),
    ],
)
def test_weights_and_capacities_that_make_no_sense(service, echo, call, wishes, message):
    members = {"EndpointName": echo, "DesiredWeightsAndCapacities": wishes}
    operation = "UpdateEndpointWeightsAndCapacities"
    assert message in refused(service, call, operation, members)
    described = service.client("sagemaker").describe_endpoint(EndpointName=echo)
    assert described["EndpointStatus"] == "InService"
    [variant] = described["ProductionVariants"]
    assert (variant["DesiredWeight"], variant["DesiredInstanceCount"]) == (1.0, 1)


def test_an_update_with_contradictory_wishes(service, echo, call):
    members = {"EndpointName": echo, "EndpointConfigName": echo}
    excluded = [{"VariantPropertyType": "DesiredWeight"}]
    more = {"ExcludeRetainedVariantProperties": excluded}
    assert "only when RetainAllVariantProperties" in refused(
        service, call, "UpdateEndpoint", members | more
    )


def test_a_region_that_does_not_exist_is_no_fault_of_the_service(service):
    scope = SCOPE.replace("us-east-1", "us-east-11")
    answer = httpx.post(
        service.url,
        json={},
        headers={"Authorization": scope, "X-Amz-Target": "SageMaker.ListModels"},
    )
    assert (answer.status_code, answer.json()["__type"]) == (403, "InvalidSignatureException")


def test_a_weight_beyond_a_float_of_32_bits_is_refused(call):
    status, answer = call(
        "CreateEndpointConfig",
        {
            "EndpointConfigName": "heavy",
            "ProductionVariants": [{**VARIANT, "InitialVariantWeight": 1.7e308}],
        },
    )
    assert (status, answer["__type"]) == (400, "SerializationException")
