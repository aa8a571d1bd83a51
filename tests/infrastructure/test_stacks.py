"""What becomes of stacks on the local service when something goes wrong, and afterwards."""

import json
import signal

import pytest
from botocore.exceptions import ClientError

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


def test_an_endpoint_that_does_not_come_into_service_fails_its_stack_with_the_reason(local):
    found = local.create("fails", serving("fails", {"REFUSE_TO_START": "1"}))
    assert found["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "failed to create: [Endpoint]" in " ".join(
        reason for _, status, reason in local.events("fails") if status == "ROLLBACK_IN_PROGRESS"
    )
    reason = failures(local, "fails")["Endpoint"]
    assert "did not pass the ping health check" in reason
    assert left_of(local, "fails") == []


def test_a_stack_that_was_rolled_back_is_deleted_and_made_anew(local):
    local.create("mended", serving("mended", {"REFUSE_TO_START": "1"}))
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
        answer = {"Status": "SUCCESS", "Data": {"Said": event["RequestType"]}}
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
        "Outputs": {"Said": {"Value": {"Fn::GetAtt": "Thing.Said"}}},
    }


def test_a_custom_resource_is_made_by_its_function(local):
    found = local.create("custom", with_custom_resource())
    assert found["StackStatus"] == "CREATE_COMPLETE", local.events("custom")
    assert local.outputs("custom") == {"Said": "Create"}
    assert local.update("custom", with_custom_resource(More="x"))["StackStatus"] == (
        "UPDATE_COMPLETE"
    )
    assert local.outputs("custom") == {"Said": "Update"}
    local.delete("custom")
    found = local.create("custom", with_custom_resource(Refuse="yes"))
    assert found["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "it was asked to" in failures(local, "custom")["Thing"]
    local.delete("custom")


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
        service.create("kept", serving("kept"))
        service.put(service.outputs("kept")["Bucket"], "models/a.tar.gz")
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
        until(
            lambda: (
                service.client("sagemaker").describe_endpoint(EndpointName="kept")["EndpointStatus"]
                == "InService"
            )
        )
        assert service.seen("kept", TargetModel="a.tar.gz")["loads"] == 1
        cut = service.describe("cut")
        assert cut["StackStatus"] == "CREATE_FAILED"
        assert "The endpoint service ended while it worked on the stack" in cut["StackStatusReason"]
        assert service.delete("cut")["StackStatus"] == "DELETE_COMPLETE"
        assert left_of(service, "cut") == []
        assert service.create("cut", serving("cut"))["StackStatus"] == "CREATE_COMPLETE"
