"""boto3 with nothing but environment variables: clients, resources, waiters, paginators."""

import concurrent.futures
import io
import json
import os
import urllib.request

import boto3
import botocore.exceptions
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

QUICK = {"Delay": 0.1, "MaxAttempts": 600}


def ask(runtime, endpoint, rows, **more):
    answer = runtime.invoke_endpoint(
        EndpointName=endpoint,
        Body=json.dumps({"instances": rows}),
        ContentType="application/json",
        **more,
    )
    return json.loads(answer["Body"].read())["predictions"]


def test_the_environment_alone_points_boto3_at_the_endpoint(aws, team):
    runtime = boto3.client("sagemaker-runtime")
    assert ask(runtime, team, [[1, 2], [3, 4]], TargetModel="times1.tar.gz") == [3, 7]
    assert ask(runtime, team, [[1, 2], [3, 4]], TargetModel="times10.tar.gz") == [30, 70]
    runtime.close()


def test_a_single_model_endpoint_answers_without_a_target_model(aws, lone):
    assert ask(boto3.client("sagemaker-runtime"), lone, [[1, 2]]) == [30]


def test_a_session_with_a_profile_finds_the_endpoint(aws, team, tmp_path, monkeypatch):
    config = tmp_path / "config"
    config.write_text(
        f"[profile rehearsal]\nendpoint_url = {aws.url}\nregion = us-east-1\n"
        "aws_access_key_id = local\naws_secret_access_key = local\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    runtime = boto3.Session(profile_name="rehearsal").client("sagemaker-runtime")
    assert ask(runtime, team, [[5, 5]], TargetModel="times1.tar.gz") == [10]


def test_the_s3_resource_stores_lists_copies_reads_and_deletes(aws):
    bucket = boto3.resource("s3").create_bucket(Bucket="from-a-resource")
    bucket.wait_until_exists()
    content = os.urandom(9 * 1024 * 1024)
    in_parts = TransferConfig(multipart_threshold=1024 * 1024, multipart_chunksize=5 * 1024 * 1024)
    bucket.upload_fileobj(io.BytesIO(content), "a/large.bin", Config=in_parts)
    bucket.put_object(Key="a/small.txt", Body=b"small", Metadata={"team": "blue"})
    bucket.put_object(Key="b/other.txt", Body=b"other")
    assert [item.key for item in bucket.objects.filter(Prefix="a/")] == [
        "a/large.bin",
        "a/small.txt",
    ]
    bucket.Object("b/copy.bin").copy({"Bucket": bucket.name, "Key": "a/large.bin"})
    read = io.BytesIO()
    bucket.download_fileobj("b/copy.bin", read, Config=in_parts)
    assert read.getvalue() == content
    small = bucket.Object("a/small.txt").get(Range="bytes=1-3")
    assert (small["Body"].read(), small["Metadata"]) == (b"mal", {"team": "blue"})
    bucket.objects.all().delete()
    bucket.delete()
    bucket.wait_until_not_exists()


def test_a_presigned_address_needs_no_client(aws):
    s3 = boto3.client("s3", config=Config(signature_version="s3v4"))
    address = s3.generate_presigned_url(
        "get_object", Params={"Bucket": "models", "Key": "times1.tar.gz"}
    )
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == aws.archives[1].read_bytes()


def test_paginators_see_every_page_once(aws):
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="pages")
    keys = [f"key-{number:02}" for number in range(25)]
    for key in keys:
        s3.put_object(Bucket="pages", Key=key, Body=b"")
    pages = list(
        s3.get_paginator("list_objects_v2").paginate(
            Bucket="pages", PaginationConfig={"PageSize": 10}
        )
    )
    assert [len(page["Contents"]) for page in pages] == [10, 10, 5]
    assert [item["Key"] for page in pages for item in page["Contents"]] == keys


@pytest.mark.parametrize(
    ("operation", "listed", "name"),
    [
        ("list_models", "Models", "ModelName"),
        ("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
    ],
)
def test_sagemakers_lists_are_paginated_and_filtered(aws, operation, listed, name):
    sagemaker = boto3.client("sagemaker")
    names = {f"{operation.replace('_', '-')}-{number}" for number in range(5)}
    for each in names:
        aws.describe(each)
    pages = list(
        sagemaker.get_paginator(operation).paginate(
            NameContains=operation.replace("_", "-"), PaginationConfig={"PageSize": 2}
        )
    )
    assert [len(page[listed]) for page in pages] == [2, 2, 1]
    assert {item[name] for page in pages for item in page[listed]} == names


def test_waiters_see_an_endpoint_come_and_go(aws):
    sagemaker = boto3.client("sagemaker")
    aws.describe("comes-and-goes")
    created = sagemaker.create_endpoint(
        EndpointName="comes-and-goes", EndpointConfigName="comes-and-goes"
    )
    assert created["EndpointArn"].endswith(":endpoint/comes-and-goes")
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="comes-and-goes", WaiterConfig=QUICK
    )
    [listed] = sagemaker.list_endpoints(NameContains="comes-and", StatusEquals="InService")[
        "Endpoints"
    ]
    assert listed["EndpointName"] == "comes-and-goes"
    sagemaker.delete_endpoint(EndpointName="comes-and-goes")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="comes-and-goes", WaiterConfig=QUICK)
    sagemaker.delete_endpoint_config(EndpointConfigName="comes-and-goes")
    sagemaker.delete_model(ModelName="comes-and-goes")


def test_a_waiter_says_that_an_endpoint_failed(aws):
    sagemaker = boto3.client("sagemaker")
    aws.describe("fails", data_url="s3://models/nothing.tar.gz", mode="SingleModel")
    sagemaker.create_endpoint(EndpointName="fails", EndpointConfigName="fails")
    with pytest.raises(botocore.exceptions.WaiterError, match="Failed") as raised:
        sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="fails", WaiterConfig=QUICK)
    assert "nothing.tar.gz" in raised.value.last_response["FailureReason"]


def test_an_answer_has_the_metadata_that_sagemaker_sends(aws, team):
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=team,
        TargetModel="times1.tar.gz",
        Body=b'{"instances": [[1]]}',
        ContentType="application/json",
        Accept="application/json",
        CustomAttributes="trace=1",
        InferenceId="call-1",
    )
    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    metadata = answer["ResponseMetadata"]
    assert (metadata["HTTPStatusCode"], metadata["RetryAttempts"]) == (200, 0)
    assert metadata["RequestId"] == metadata["HTTPHeaders"]["x-amzn-requestid"]


def test_a_models_own_refusal_has_its_status_and_words(aws, team):
    runtime = boto3.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        ask(runtime, team, "no rows at all", TargetModel="times1.tar.gz")
    response = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == 400
    assert response["OriginalMessage"]
    assert response["LogStreamArn"].endswith(":log-group:/aws/sagemaker/Endpoints/team")
    assert response["Error"]["Message"].startswith("Received client error (400) from model")


def test_the_rest_of_aws_is_there(aws):
    assert boto3.client("sts").get_caller_identity()["Account"] == "123456789012"
    role = boto3.client("iam").create_role(RoleName="from-boto3", AssumeRolePolicyDocument="{}")
    assert role["Role"]["Arn"] == "arn:aws:iam::123456789012:role/from-boto3"


def test_two_hundred_threads_share_one_client(aws, team):
    runtime = boto3.client("sagemaker-runtime", config=Config(max_pool_connections=200))

    def call(number):
        scale = (1, 10)[number % 2]
        rows = [[number, 0.5]] * (1 + number % 7)
        found = ask(runtime, team, rows, TargetModel=f"times{scale}.tar.gz")
        return found == [(number + 0.5) * scale] * len(rows)

    with concurrent.futures.ThreadPoolExecutor(200) as threads:
        right = list(threads.map(call, range(2000)))
    assert right.count(True) == 2000
    runtime.close()
