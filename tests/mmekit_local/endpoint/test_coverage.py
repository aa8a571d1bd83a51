"""Everything that botocore knows of SageMaker is acted on, recorded or refused."""

import contextlib
import json
import urllib.request

import pytest
from botocore.exceptions import ClientError
from moto.core.utils import camelcase_to_underscores, get_service_model
from moto.sagemaker.responses import SageMakerResponse

from mmekit_local.sagemaker.control import members, operations

SAGEMAKER = get_service_model("sagemaker")
RUNTIME = get_service_model("sagemaker-runtime")
ROLE = "arn:aws:iam::123456789012:role/Rehearsal"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
PREFIX = {"S3Uri": "s3://models/x/", "S3DataType": "S3Prefix", "CompressionType": "None"}
OURS = {"UpdateEndpoint"}


def test_every_operation_is_acted_on_lists_nothing_or_says_why_it_is_refused():
    silent = []
    for name in SAGEMAKER.operation_names:
        refused = operations.refusal(name)
        assert (name in operations.ACTED_ON) + (name in operations.EMPTY) + bool(refused) == 1
        if refused is not None:
            assert refused.message.startswith(f"{name} is not rehearsed here. ")
            assert (refused.status, refused.code) == (400, "ValidationException")
            silent += [name] * (operations.subject_of(name) is None)
    assert not silent, "say in REFUSED why, or act on them"


def test_the_table_has_no_operation_that_there_is_not():
    known = set(SAGEMAKER.operation_names)
    assert known >= operations.ACTED_ON
    assert known >= operations.EMPTY
    refused = {operations.subject_of(name) for name in known - operations.ACTED_ON}
    assert refused >= operations.REFUSED.keys()


def test_what_is_acted_on_is_done_by_somebody():
    by_moto = {
        name
        for name in operations.ACTED_ON
        if camelcase_to_underscores(name) in vars(SageMakerResponse)
    }
    assert operations.ACTED_ON - by_moto == OURS


def test_an_operation_that_nobody_knows_yet_is_refused():
    assert operations.refusal("CreateSomethingNew") is not None


def shapes():
    """Every structure that a request which is acted on has members of."""
    found = {}

    def look(shape):
        if shape.type_name == "list":
            look(shape.member)
        if shape.type_name != "structure" or shape.name in found:
            return
        found[shape.name] = shape
        for name, member in shape.members.items():
            if members.MEMBERS.get(shape.name, {}).get(name) == members.ACTED_ON:
                look(member)

    for name in operations.ACTED_ON:
        look(SAGEMAKER.operation_model(name).input_shape)
    for name in RUNTIME.operation_names:
        look(RUNTIME.operation_model(name).input_shape)
    return found


SHAPES = shapes()


def test_every_member_of_a_request_is_acted_on_recorded_or_refused():
    for name, shape in SHAPES.items():
        assert sorted(members.MEMBERS[name]) == sorted(shape.members), name


@pytest.mark.parametrize("operation", ["InvokeEndpoint", "InvokeEndpointWithResponseStream"])
def test_headers_of_another_botocore_are_refused_where_nobody_knows_them(monkeypatch, operation):
    shape = members.MEMBERS[f"{operation}Input"]
    others = dict.fromkeys(["NotYetInBotocore"], members.RefusedMember("which is of tomorrow"))
    known = {name: one for name, one in shape.items() if name != "CustomAttributes"} | others
    monkeypatch.setitem(members.MEMBERS, f"{operation}Input", known)
    refused = members.refused_headers.__wrapped__(operation)
    assert "nobody here has looked at yet" in refused[b"x-amzn-sagemaker-custom-attributes"]
    assert b"x-amzn-sagemaker-session-id" in refused


def test_the_table_has_no_shape_that_no_request_has():
    assert members.MEMBERS.keys() == SHAPES.keys()


def test_each_says_why():
    reasons = [one for shape in members.MEMBERS.values() for one in shape.values()]
    assert all(one == members.ACTED_ON or one.why for one in reasons)


@pytest.fixture(scope="module")
def model(service):
    """A model that endpoint configs can name."""
    service.describe_models("covered")
    return "covered"


def refused(call, **given):
    with pytest.raises(ClientError) as raised:
        call(**given)
    error = raised.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert error["Error"]["Code"] in ("ValidationException", "ValidationError")
    return error["Error"]["Message"]


@pytest.mark.parametrize(
    ("operation", "given", "remedy"),
    [
        ("create_training_job", {"TrainingJobName": "t"}, "mme pack"),
        ("create_processing_job", {}, "the job's script with Python"),
        ("create_transform_job", {}, "InvokeEndpoint"),
        ("create_pipeline", {"PipelineName": "p"}, "notebook or a script"),
        ("create_inference_component", {}, "ModelName"),
        ("describe_training_job", {"TrainingJobName": "t"}, "bring its artefact"),
        ("search", {"Resource": "Endpoint"}, "ListEndpoints"),
        ("create_notebook_instance", {}, "any Jupyter"),
        ("create_monitoring_schedule", {}, "captured data"),
    ],
)
def test_what_is_not_rehearsed_is_refused_with_what_to_do_instead(
    service, operation, given, remedy
):
    sagemaker = service.client("sagemaker", parameter_validation=False)
    message = refused(getattr(sagemaker, operation), **given)
    assert "is not rehearsed here" in message
    assert remedy in message


def test_lists_of_what_there_can_be_none_of_are_empty(service):
    sagemaker = service.client("sagemaker")
    assert sagemaker.list_training_jobs(MaxResults=5)["TrainingJobSummaries"] == []
    assert sagemaker.list_inference_components()["InferenceComponents"] == []
    for name in operations.EMPTY:
        answer = getattr(sagemaker, camelcase_to_underscores(name).replace("m_l", "ml"))()
        answer.pop("ResponseMetadata")
        assert list(answer.values()) == [[]], name


CONFIG_MEMBERS = {
    "ExplainerConfig": {"ClarifyExplainerConfig": {"ShapConfig": {"ShapBaselineConfig": {}}}},
    "EnableNetworkIsolation": True,
}
VARIANT_MEMBERS = {
    "AcceleratorType": "ml.eia1.medium",
    "CoreDumpConfig": {"DestinationS3Uri": "s3://dumps/"},
    "EnableSSMAccess": True,
    "ManagedInstanceScaling": {"Status": "ENABLED"},
    "RoutingConfig": {"RoutingStrategy": "PREFIX_AWARE"},
}


def variant(model, **more):
    usual = {"VariantName": "v", "ModelName": model, "InstanceType": "ml.m5.large"}
    return [usual | {"InitialInstanceCount": 1} | more]


@pytest.mark.parametrize("member", [*CONFIG_MEMBERS, *VARIANT_MEMBERS])
def test_a_member_of_a_config_that_nothing_acts_on_is_refused_by_its_name(service, model, member):
    sagemaker = service.client("sagemaker", parameter_validation=False)
    of_variant = {member: VARIANT_MEMBERS[member]} if member in VARIANT_MEMBERS else {}
    of_config = {member: CONFIG_MEMBERS[member]} if member in CONFIG_MEMBERS else {}
    message = refused(
        sagemaker.create_endpoint_config,
        EndpointConfigName="not-acted-on",
        ProductionVariants=variant(model, **of_variant),
        **of_config,
    )
    assert member in message
    assert "not rehearsed on this machine" in message
    assert "not-acted-on" not in str(sagemaker.list_endpoint_configs())


def test_what_asks_for_what_there_is_anyway_is_accepted(service, model):
    sagemaker = service.client("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName="as-it-is",
        ProductionVariants=variant(
            model,
            EnableSSMAccess=False,
            RoutingConfig={"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        ),
        Tags=[{"Key": "team", "Value": "blue"}],
    )
    assert sagemaker.describe_endpoint_config(EndpointConfigName="as-it-is")


@pytest.mark.parametrize(
    "container",
    [
        {"AdditionalModelDataSources": [{"ChannelName": "c", "S3DataSource": PREFIX}]},
        {"ContainerMetricsConfig": {}},
        {"ModelDataSource": {"S3DataSource": PREFIX}},
        {"ANewMember": "of a later botocore"},
    ],
)
def test_a_container_that_asks_for_more_than_an_archive_is_refused(ask_raw, container):
    image = {"Image": IMAGE, "ModelDataUrl": "s3://models/a.tar.gz"}
    status, answer = ask_raw(
        "CreateModel",
        {"ModelName": "m", "ExecutionRoleArn": ROLE, "PrimaryContainer": image | container},
    )
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert f"PrimaryContainer.{next(iter(container))}" in answer["message"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("TargetContainerHostname", "second"),
        ("EnableExplanations", "`true`"),
        ("SessionId", "NEW_SESSION"),
        ("PrefixAwareId", "p"),
    ],
)
def test_an_invocation_that_asks_for_what_is_not_there_is_refused(service, echo, member, value):
    message = refused(service.invoke, endpoint=echo, target="a.tar.gz", **{member: value})
    assert member in message


def test_a_stack_can_have_no_more_of_sagemaker_than_there_is(service):
    template = {"Resources": {"Job": {"Type": "AWS::SageMaker::NotebookInstance"}}}
    cloudformation = service.client("cloudformation")
    cloudformation.create_stack(StackName="notebook", TemplateBody=json.dumps(template))

    def failed():
        events = cloudformation.describe_stack_events(StackName="notebook")["StackEvents"]
        return next((one for one in events if one["ResourceStatus"] == "CREATE_FAILED"), None)

    assert "is not rehearsed here" in service.wait_until(failed)["ResourceStatusReason"]


def test_tags_are_overwritten_by_their_keys_and_those_of_nothing_are_refused(service, model):
    sagemaker = service.client("sagemaker")
    arn = sagemaker.describe_model(ModelName=model)["ModelArn"]
    for value in ("blue", "red"):
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": value}])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "red"}]
    message = refused(sagemaker.list_tags, ResourceArn=arn.replace(model, "nobody"))
    assert "Could not find" in message


def test_the_newest_is_listed_first_unless_another_order_is_asked_for(service, model):
    sagemaker = service.client("sagemaker")
    for name in ("order-1", "order-2"):
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variant(model))

    def listed(**order):
        found = sagemaker.list_endpoint_configs(NameContains="order-", **order)
        return [one["EndpointConfigName"] for one in found["EndpointConfigs"]]

    assert listed() == ["order-2", "order-1"]
    assert listed(SortOrder="Ascending") == ["order-1", "order-2"]


@pytest.fixture
def ask_raw(service):
    """Send a request that boto3 would not."""

    def ask(operation, given):
        request = urllib.request.Request(
            service.url,
            json.dumps(given).encode(),
            {
                "Authorization": "AWS4-HMAC-SHA256 Credential=local/20261128/us-east-1/sagemaker/"
                "aws4_request, SignedHeaders=host, Signature=0",
                "X-Amz-Target": f"SageMaker.{operation}",
                "Content-Type": "application/x-amz-json-1.1",
            },
        )
        with contextlib.closing(urllib.request.build_opener(Errors).open(request)) as answer:
            return answer.status, json.load(answer)

    return ask


class Errors(urllib.request.HTTPErrorProcessor):
    """Errors are answers."""

    def http_response(self, request, response):
        return response


@pytest.mark.parametrize(
    ("name", "operation", "given"),
    [
        ("sagemaker-metrics", "batch_put_metrics", {"TrialComponentName": "t", "MetricData": []}),
        ("sagemaker-featurestore-runtime", "get_record", {"FeatureGroupName": "f"}),
        ("sagemaker-a2i-runtime", "list_human_loops", {"FlowDefinitionArn": "f"}),
        ("sagemaker-edge", "get_deployments", {"DeviceName": "d", "DeviceFleetName": "f"}),
        ("sagemaker-geospatial", "list_raster_data_collections", {}),
    ],
)
def test_the_services_beside_sagemaker_accept_nothing(service, name, operation, given):
    client = service.client(name, parameter_validation=False)
    with pytest.raises(ClientError) as raised:
        getattr(client, operation)(**given)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 404, 501)
