"""What becomes of stacks on the local service when something goes wrong, and afterwards."""

import contextlib
import json
import signal

import pytest
from botocore.exceptions import ClientError

from mmekit_local.aws.cloudformation.context import Clients, StackContext
from mmekit_local.aws.cloudformation.stack import Stack
from mmekit_local.aws.cloudformation.stack_operations import StackOperations
from mmekit_local.aws.cloudformation.stack_table import StackTable
from mmekit_local.sagemaker.errors import AwsError

from .conftest import IMAGE, start_service, until

ROLE = {
    "Type": "AWS::IAM::Role",
    "Properties": {
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sagemaker.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
    },
}


def serving(name, environment=None, image=IMAGE):
    """A template of an endpoint and what it needs; `environment` is the container's."""
    container = {
        "Image": image,
        "Mode": "MultiModel",
        "ModelDataUrl": {"Fn::Sub": "s3://${Bucket}/models/"},
        "Environment": environment or {},
    }
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": {"Fn::GetAtt": "Model.ModelName"},
        "InstanceType": "ml.m6i.large",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1,
    }
    role = {"Fn::GetAtt": "Role.Arn"}
    return {
        "Resources": {
            "Bucket": {"Type": "AWS::S3::Bucket"},
            "Role": ROLE,
            "Model": {
                "Type": "AWS::SageMaker::Model",
                "Properties": {"ExecutionRoleArn": role, "PrimaryContainer": container},
            },
            "Config": {
                "Type": "AWS::SageMaker::EndpointConfig",
                "Properties": {"ProductionVariants": [variant]},
            },
            "Endpoint": {
                "Type": "AWS::SageMaker::Endpoint",
                "Properties": {
                    "EndpointName": name,
                    "EndpointConfigName": {"Fn::GetAtt": ["Config", "EndpointConfigName"]},
                },
            },
        },
        "Outputs": {"Bucket": {"Value": {"Ref": "Bucket"}}},
    }


def left_of(local, stack):
    """What of a stack is still there."""
    sagemaker, small = local.client("sagemaker"), stack.lower()
    return [
        *(one["EndpointName"] for one in sagemaker.list_endpoints(NameContains=stack)["Endpoints"]),
        *(one["ModelName"] for one in sagemaker.list_models(NameContains=stack)["Models"]),
        *(
            one["EndpointConfigName"]
            for one in sagemaker.list_endpoint_configs(NameContains=stack)["EndpointConfigs"]
        ),
        *(
            one["RoleName"]
            for one in local.client("iam").list_roles()["Roles"]
            if one["RoleName"].startswith(stack)
        ),
        *(
            one["Name"]
            for one in local.client("s3").list_buckets()["Buckets"]
            if one["Name"].startswith(small)
        ),
    ]


def failures(local, stack):
    return {
        name: reason for name, status, reason in local.events(stack) if status.endswith("_FAILED")
    }


def test_a_stack_whose_endpoint_fails_says_why_and_is_deleted_and_made_anew(local):
    found = local.create("mended", serving("mended", {"REFUSE_TO_START": "1"}))
    assert found["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "failed to create: [Endpoint]" in " ".join(
        reason for _, status, reason in local.events("mended") if status == "ROLLBACK_IN_PROGRESS"
    )
    reason = failures(local, "mended")["Endpoint"]
    assert "did not pass the ping health check" in reason
    assert left_of(local, "mended") == []
    with pytest.raises(ClientError, match="is in ROLLBACK_COMPLETE state and can not be updated"):
        local.update("mended", serving("mended"))
    assert local.delete("mended")["StackStatus"] == "DELETE_COMPLETE"
    assert local.create("mended", serving("mended"))["StackStatus"] == "CREATE_COMPLETE"
    local.put(local.outputs("mended")["Bucket"], "models/a.tar.gz")
    assert local.seen("mended", TargetModel="a.tar.gz")["loads"] == 1


def test_an_update_that_fails_leaves_everything_as_it_was(local):
    local.create("steady", serving("steady", {"COLOUR": "red"}))
    bucket = local.outputs("steady")["Bucket"]
    local.put(bucket, "models/a.tar.gz")
    before = sorted(left_of(local, "steady"))
    found = local.update("steady", serving("steady", {"REFUSE_TO_START": "1"}))
    assert found["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert "did not pass the ping health check" in failures(local, "steady")["Endpoint"]
    assert sorted(left_of(local, "steady")) == before
    seen = local.seen("steady", TargetModel="a.tar.gz")
    assert seen["environment"]["COLOUR"] == "red"
    found = local.update("steady", serving("steady", {"COLOUR": "green"}))
    assert found["StackStatus"] == "UPDATE_COMPLETE"
    seen = local.seen("steady", TargetModel="a.tar.gz")
    assert seen["environment"]["COLOUR"] == "green"


@pytest.mark.parametrize(
    ("kind", "properties", "said"),
    [
        ("AWS::Rocket::Launch", {}, "does not know the resource type AWS::Rocket::Launch"),
        ("AWS::IAM::Role", {}, "AssumeRolePolicyDocument"),
        (
            "AWS::CloudWatch::Dashboard",
            {"DashboardName": "d", "DashboardBody": "no JSON"},
            "DashboardBody",
        ),
        (
            "AWS::Lambda::Function",
            {
                "Role": "arn:aws:iam::123456789012:role/any",
                "Runtime": "python3.12",
                "Handler": "app.handler",
                "Code": {"S3Bucket": "nowhere", "S3Key": "code.zip"},
            },
            "",
        ),
        (
            "AWS::SageMaker::Model",
            {"ExecutionRoleArn": "somebody", "PrimaryContainer": {"Image": "x"}},
            "ExecutionRoleArn",
        ),
        ("AWS::Logs::LogGroup", {"RetentionInDays": "long"}, "is no integer"),
        ("AWS::SQS::Queue", {"QueueName": "moto-makes-it"}, None),
    ],
)
def test_what_a_resource_is_refused_for_is_its_reason(local, kind, properties, said):
    template = {"Resources": {"Thing": {"Type": kind, "Properties": properties}}}
    found = local.create("thing", template)
    if said is None:
        assert found["StackStatus"] == "CREATE_COMPLETE"
    else:
        assert found["StackStatus"] == "ROLLBACK_COMPLETE"
        assert failures(local, "thing")["Thing"]
        assert said in failures(local, "thing")["Thing"]
    local.delete("thing")


@pytest.mark.parametrize(("status", "begins"), [("UPDATE_COMPLETE", 0), ("UPDATE_FAILED", 1)])
def test_an_update_that_came_to_no_end_is_done_again_with_the_same_template(status, begins):
    text = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    place = {"account": "123456789012", "region": "us-east-1"}
    stacks, begun = StackTable(), []
    stacks.keep(Stack(id="arn", name="cut", template=text, status=status, **place))
    operations = StackOperations(stacks, lambda *work: begun.append(work), lambda _: None, aws=None)
    context = StackContext(
        **place,
        stack_id="",
        stack_name="",
        access_key="local",
        clients=Clients("http://127.0.0.1"),
        withdraw=lambda _: None,
        note=lambda *_: None,
    )
    with contextlib.suppress(AwsError):
        operations.known["UpdateStack"]({"StackName": "cut", "TemplateBody": text}, context)
    assert len(begun) == begins


def test_roles_want_an_acknowledgement(local):
    formation = local.client("cloudformation")
    with pytest.raises(ClientError) as refused:
        formation.create_stack(
            StackName="roles", TemplateBody=json.dumps({"Resources": {"Role": ROLE}})
        )
    assert refused.value.response["Error"]["Code"] == "InsufficientCapabilitiesException"


def test_a_stack_may_import_what_another_one_exports_and_then_keeps_it(local):
    exporting = {
        "Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}},
        "Outputs": {"Name": {"Value": {"Ref": "Bucket"}, "Export": {"Name": "the-bucket"}}},
    }
    policy = {"Version": "2012-10-17", "Statement": []}
    importing = {
        "Resources": {
            "Policy": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {
                    "Bucket": {"Fn::ImportValue": "the-bucket"},
                    "PolicyDocument": policy,
                },
            }
        }
    }
    local.create("exporting", exporting)
    local.create("importing", importing)
    with pytest.raises(ClientError, match="the-bucket cannot be deleted as it is in use by"):
        local.delete("exporting")
    local.delete("importing")
    assert local.delete("exporting")["StackStatus"] == "DELETE_COMPLETE"


FUNCTION = """
import json, urllib.request

def handler(event, context):
    if event["RequestType"] == "Create" and event["ResourceProperties"].get("Refuse"):
        answer = {"Status": "FAILED", "Reason": "it was asked to"}
    else:
        said = {"Said": event["RequestType"], "Type": event["ResourceType"]}
        answer = {"Status": "SUCCESS", "Data": said}
    answer |= {"PhysicalResourceId": "made", "LogicalResourceId": event["LogicalResourceId"],
               "StackId": event["StackId"], "RequestId": event["RequestId"]}
    request = urllib.request.Request(
        event["ResponseURL"], json.dumps(answer).encode(), {"Content-Type": ""}, method="PUT")
    urllib.request.urlopen(request).close()
"""


def with_custom_resource(**properties):
    function = {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Role": {"Fn::GetAtt": "Role.Arn"},
            "Runtime": "python3.12",
            "Handler": "index.handler",
            "Timeout": 60,
            "Code": {"ZipFile": FUNCTION},
        },
    }
    custom = {
        "Type": "Custom::Thing",
        "Properties": {"ServiceToken": {"Fn::GetAtt": "Function.Arn"}, **properties},
    }
    return {
        "Resources": {"Role": ROLE, "Function": function, "Thing": custom},
        "Outputs": {name: {"Value": {"Fn::GetAtt": f"Thing.{name}"}} for name in ("Said", "Type")},
    }


def test_a_custom_resource_is_made_by_its_function(local):
    found = local.create("custom", with_custom_resource())
    assert found["StackStatus"] == "CREATE_COMPLETE", local.events("custom")
    assert local.outputs("custom") == {"Said": "Create", "Type": "Custom::Thing"}
    assert local.update("custom", with_custom_resource(More="x"))["StackStatus"] == (
        "UPDATE_COMPLETE"
    )
    assert local.outputs("custom") == {"Said": "Update", "Type": "Custom::Thing"}
    local.delete("custom")
    found = local.create("custom", with_custom_resource(Refuse="yes"))
    assert found["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "it was asked to" in failures(local, "custom")["Thing"]
    local.delete("custom")


def test_what_leaves_the_template_is_deleted(local):
    document = {"Version": "2012-10-17", "Statement": []}
    resources = {
        "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "stays-in-the-stack"}},
        "Policy": {  # it has the bucket's name
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": document},
        },
        "Log": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "leaves"}},
    }
    local.create("leaving", {"Resources": resources})
    found = local.update("leaving", {"Resources": {"Bucket": resources["Bucket"]}})
    assert found["StackStatus"] == "UPDATE_COMPLETE"
    groups = local.client("logs").describe_log_groups(logGroupNamePrefix="leaves")["logGroups"]
    assert groups == []
    with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
        local.client("s3").get_bucket_policy(Bucket="stays-in-the-stack")
    local.client("s3").head_bucket(Bucket="stays-in-the-stack")
    deleted = [name for name, status, _ in local.events("leaving") if status == "DELETE_COMPLETE"]
    assert deleted == ["Policy", "Log"]
    assert local.delete("leaving")["StackStatus"] == "DELETE_COMPLETE"


def test_a_change_set_shows_no_secret(local):
    formation = local.client("cloudformation")
    template = {
        "Parameters": {"Secret": {"Type": "String", "NoEcho": True}},
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    }
    formation.create_change_set(
        StackName="discreet",
        ChangeSetName="first",
        ChangeSetType="CREATE",
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "Secret", "ParameterValue": "hush-hush"}],
    )
    shown = formation.describe_change_set(StackName="discreet", ChangeSetName="first")
    assert shown["Parameters"] == [{"ParameterKey": "Secret", "ParameterValue": "****"}]
    local.delete("discreet")


def test_a_change_set_without_changes_fails_and_lists_none(local):
    formation = local.client("cloudformation")
    text = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    formation.create_stack(StackName="same", TemplateBody=text)
    formation.create_change_set(StackName="same", ChangeSetName="none", TemplateBody=text)
    shown = formation.describe_change_set(StackName="same", ChangeSetName="none")
    assert (shown["Status"], shown["ExecutionStatus"]) == ("FAILED", "UNAVAILABLE")
    assert "didn't contain changes" in shown["StatusReason"]
    assert shown["Changes"] == []
    local.delete("same")


def test_what_is_retained_stays(local):
    template = {
        "Resources": {
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "DeletionPolicy": "Retain",
                "Properties": {"BucketName": "stays-behind"},
            }
        }
    }
    local.create("retaining", template)
    assert local.delete("retaining")["StackStatus"] == "DELETE_COMPLETE"
    local.client("s3").delete_bucket(Bucket="stays-behind")


def test_a_name_of_the_templates_own_cannot_be_given_twice(local):
    def named(tag):
        container = {"Image": IMAGE, "Environment": {"TAG": tag}}
        properties = {
            "ModelName": "one-name",
            "ExecutionRoleArn": "arn:aws:iam::123456789012:role/any",
            "PrimaryContainer": container,
        }
        return {"Resources": {"Model": {"Type": "AWS::SageMaker::Model", "Properties": properties}}}

    local.create("named", named("1"))
    assert local.update("named", named("2"))["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert "custom-named resource requires replacing" in failures(local, "named")["Model"]
    local.delete("named")


def test_stacks_outlive_the_service_and_one_that_was_cut_short_is_mended(tmp_path):
    options = ("--state", str(tmp_path / "state"))
    gate = tmp_path / "gate"
    first = tmp_path / "1"
    first.mkdir()
    with start_service(first, *options) as service:
        service.create("kept", {"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}})
        service.client("cloudformation").create_stack(
            StackName="cut",
            TemplateBody=json.dumps(serving("cut", {"START_AFTER": str(gate)})),
            Capabilities=["CAPABILITY_IAM"],
        )
        until(lambda: ("Endpoint", "CREATE_IN_PROGRESS", "") in service.events("cut"))
        before = service.describe("kept")
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(60)
    second = tmp_path / "2"
    second.mkdir()
    with start_service(second, *options) as service:
        assert service.describe("kept") == before
        cut = service.describe("cut")
        assert cut["StackStatus"] == "CREATE_FAILED"
        assert "The endpoint service ended while it worked on the stack" in cut["StackStatusReason"]
        assert service.delete("cut")["StackStatus"] == "DELETE_COMPLETE"
        assert left_of(service, "cut") == []
