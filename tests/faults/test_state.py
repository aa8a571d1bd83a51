"""The folder of `mme up --state` on a disk that is full, in a service that is killed."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.faults.conftest import fill
from tests.mmekit_local.endpoint.conftest import Service, one_after_the_other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROLE = "arn:aws:iam::123456789012:role/kept"
VARIANT = {"VariantName": "AllTraffic", "DesiredInstanceCount": 2}
SCALED = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/kept/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
BUCKET_STACK = json.dumps({"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}})


@pytest.fixture
def begin(tmp_path: Path, small_folder: Path) -> Iterator[Callable[[], Service]]:
    """Start one service after the other on a state folder on a small disk; the former is killed."""
    yield from one_after_the_other(tmp_path, small_folder / "state")


def kept(service: Service) -> dict[str, Any]:
    """Tell everything that a state folder keeps."""
    s3, sagemaker, iam = (service.client(name) for name in ("s3", "sagemaker", "iam"))
    scaling = service.client("application-autoscaling")
    found: dict[str, Any] = {}
    for bucket in (one["Name"] for one in s3.list_buckets()["Buckets"]):
        for listed in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
            key = {"Bucket": bucket, "Key": listed["Key"]}
            body = s3.get_object(**key)["Body"].read()
            tags = s3.get_object_tagging(**key)["TagSet"]
            found[f"{bucket}/{listed['Key']}"] = body, tags, listed["LastModified"]
        for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
            named = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            parts = s3.list_parts(**named).get("Parts", [])
            found[upload["UploadId"]] = [part["ETag"] for part in parts]
        with contextlib.suppress(ClientError):
            found[f"{bucket} tags"] = s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
        found[bucket] = True
    found["roles"] = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    found["models"] = [model["ModelName"] for model in sagemaker.list_models()["Models"]]
    listed = sagemaker.list_endpoint_configs()["EndpointConfigs"]
    found["configs"] = sorted(config["EndpointConfigName"] for config in listed)
    for endpoint in sagemaker.list_endpoints()["Endpoints"]:
        name = endpoint["EndpointName"]
        service.wait_for("endpoint_in_service", name)
        described = sagemaker.describe_endpoint(EndpointName=name)
        wanted = [one["DesiredInstanceCount"] for one in described["ProductionVariants"]]
        found[f"endpoint {name}"] = described["EndpointConfigName"], wanted
    found["targets"] = [
        target["MaxCapacity"]
        for target in scaling.describe_scalable_targets(ServiceNamespace="sagemaker")[
            "ScalableTargets"
        ]
    ]
    listed = service.client("lambda").list_functions()["Functions"]
    found["functions"] = [function["FunctionName"] for function in listed]
    for stack in service.client("cloudformation").describe_stacks()["Stacks"]:
        found[stack["StackId"]] = stack["StackStatus"], stack["EnableTerminationProtection"]
    return found


def function_code() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("main.py", "def handle(event, context):\n    return 1\n")
    return content.getvalue()


def changes(service: Service, upload: dict[str, Any], etag: str) -> list[Callable[[], Any]]:
    """Return one of each kind of change, that would be made if there was room."""
    s3, sagemaker, iam = (service.client(name) for name in ("s3", "sagemaker", "iam"))
    stacks, functions = service.client("cloudformation"), service.client("lambda")
    scaling = service.client("application-autoscaling")
    one = {"Bucket": "kept", "Key": "one"}
    whole = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    return [
        lambda: s3.create_bucket(Bucket="another"),
        lambda: s3.copy_object(Bucket="kept", Key="copy", CopySource=one),
        lambda: s3.delete_object(**one),
        lambda: s3.delete_objects(Bucket="kept", Delete={"Objects": [{"Key": "one"}]}),
        lambda: s3.put_object(**one, Body=b"other"),
        lambda: s3.put_object(Bucket="kept", Key="two", Body=bytes(100_000)),
        lambda: s3.put_object_tagging(**one, Tagging=tags),
        lambda: s3.put_bucket_tagging(Bucket="kept", Tagging=tags),
        lambda: s3.create_multipart_upload(Bucket="kept", Key="three"),
        lambda: s3.upload_part(**upload, PartNumber=2, Body=b"part 2"),
        lambda: s3.complete_multipart_upload(**upload, MultipartUpload=whole),
        lambda: s3.abort_multipart_upload(**upload),
        lambda: iam.create_role(RoleName="another", AssumeRolePolicyDocument="{}"),
        lambda: iam.delete_role(RoleName="kept"),
        lambda: service.describe_models("another"),
        lambda: sagemaker.create_endpoint(EndpointName="another", EndpointConfigName="kept"),
        lambda: sagemaker.update_endpoint(EndpointName="kept", EndpointConfigName="next"),
        lambda: sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="kept", DesiredWeightsAndCapacities=[VARIANT]
        ),
        lambda: sagemaker.delete_endpoint(EndpointName="kept"),
        lambda: sagemaker.delete_endpoint_config(EndpointConfigName="next"),
        lambda: scaling.register_scalable_target(**SCALED, MinCapacity=1, MaxCapacity=4),
        lambda: functions.create_function(
            FunctionName="another",
            Runtime="python3.11",
            Role=ROLE,
            Handler="main.handle",
            Code={"ZipFile": function_code()},
        ),
        lambda: stacks.create_stack(StackName="another", TemplateBody=BUCKET_STACK),
        lambda: stacks.update_termination_protection(
            StackName="kept", EnableTerminationProtection=True
        ),
        lambda: stacks.delete_stack(StackName="kept"),
    ]


def refusal(change: Callable[[], Any]) -> bool:
    """Make a change; say whether it was refused, as there is no room."""
    try:
        change()
    except ClientError as error:
        if "no room on the disk" not in str(error):
            raise
        return True
    return False


@pytest.mark.thorough
def test_what_a_full_disk_refuses_does_not_happen_and_what_is_answered_stays(begin, small_folder):
    service = begin()
    s3 = service.client("s3")
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="one", Body=b"one")
    upload = {"Bucket": "kept", "Key": "three"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    etag = s3.upload_part(**upload, PartNumber=1, Body=b"part 1")["ETag"]
    service.client("iam").create_role(RoleName="kept", AssumeRolePolicyDocument="{}")
    service.create_endpoint("kept", data_url="s3://kept/")
    service.describe_models("next", data_url="s3://kept/")
    service.client("cloudformation").create_stack(StackName="kept", TemplateBody=BUCKET_STACK)
    service.client("cloudformation").get_waiter("stack_create_complete").wait(StackName="kept")

    full = fill(small_folder)
    padding = {"Bucket": "kept", "CopySource": {"Bucket": "kept", "Key": "one"}}
    for size in (700, 1):  # the log's last page has some room left
        while not refusal(lambda size=size: s3.copy_object(Key="p" * size, **padding)):
            pass
    before, refused = kept(service), 0
    for change in changes(service, upload, etag):
        if refusal(change):
            assert kept(service) == before
            refused += 1
        else:  # its entry is shorter than those before
            before = kept(service)
    assert refused > 20

    full.unlink()
    s3.create_bucket(Bucket="another")
    for number in range(20):
        s3.put_object(Bucket="another", Key=f"{number}", Body=b"later %d" % number)
    s3.delete_object(Bucket="kept", Key="one")
    before = kept(service)
    for _ in range(2):
        service = begin()
        assert kept(service) == before
        assert "could not be restored" not in service.log
