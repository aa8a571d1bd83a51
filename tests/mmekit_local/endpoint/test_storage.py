"""S3 and the rest of AWS behind the same port."""

import hashlib
import http.client
import os
import threading
from urllib.parse import urlsplit

import boto3.session
import pytest

SCOPE = "AWS4-HMAC-SHA256 Credential=k/20250101/us-east-1/s3/aws4_request, x"


@pytest.fixture(scope="module", autouse=True)
def _bucket(service):
    service.client("s3").create_bucket(Bucket="things")


def put(service, key, body, **headers):
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    connection.request(
        "PUT", f"/things/{key}", body=body, headers={"Authorization": SCOPE} | headers
    )
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    "key", ["a.tar.gz", "team/a b+c%2F.tar.gz", "ünï/cödé", "/leading//slashes/", "endpoints/x"]
)
def test_objects_come_back_as_they_were_stored(service, key):
    s3 = service.client("s3")
    s3.put_object(Bucket="things", Key=key, Body=b"content", Metadata={"my_key": "v"})
    found = s3.get_object(Bucket="things", Key=key)
    assert found["Body"].read() == b"content"
    assert found["Metadata"] == {"my_key": "v"}
    listed = s3.list_objects_v2(Bucket="things", Prefix=key)["Contents"]
    assert [item["Key"] for item in listed] == [key]
    s3.delete_object(Bucket="things", Key=key)
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="things", Key=key)


def test_a_large_file_is_uploaded_in_parts_and_invocations_go_on_meanwhile(service, echo, tmp_path):
    content = os.urandom(40 * 1024 * 1024)
    (tmp_path / "large").write_bytes(content)
    service.seen(echo, "a.tar.gz")
    answered, done = 0, threading.Event()

    def upload():
        service.client("s3").upload_file(str(tmp_path / "large"), "things", "large")
        done.set()

    uploading = threading.Thread(target=upload)
    uploading.start()
    while not done.is_set():
        service.seen(echo, "a.tar.gz")
        answered += 1
    uploading.join()
    found = service.client("s3").get_object(Bucket="things", Key="large")["Body"].read()
    assert hashlib.sha256(found).digest() == hashlib.sha256(content).digest()
    assert answered > 1  # not only one, which waited for all of it


def test_an_invocation_is_answered_in_the_middle_of_an_upload(service, echo):
    body = bytes(20 * 1024 * 1024)
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)

    def pieces():
        yield body[: len(body) // 2]
        assert service.seen(echo, "a.tar.gz")["length"] == 1
        yield body[len(body) // 2 :]

    headers = {"Authorization": SCOPE, "Content-Length": str(len(body))}
    connection.request("PUT", "/things/slow", body=pieces(), headers=headers)
    assert connection.getresponse().status == 200
    connection.close()
    assert service.client("s3").head_object(Bucket="things", Key="slow")["ContentLength"] == len(
        body
    )


def test_a_large_body_in_small_signed_chunks_is_stored(service):
    chunk = b"%x;chunk-signature=%064d\r\n%s\r\n" % (8192, 0, b"x" * 8192)
    status = put(
        service,
        "chunked",
        chunk * 4096 + b"0;chunk-signature=0\r\n\r\n",
        **{
            "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "x-amz-decoded-content-length": str(8192 * 4096),
            "content-encoding": "aws-chunked",
        },
    )
    assert status == 200
    found = service.client("s3").get_object(Bucket="things", Key="chunked")
    assert found["ContentLength"] == 8192 * 4096
    assert "ContentEncoding" not in found


def test_a_checksum_in_a_trailer_is_kept_and_other_codings_stay(service):
    status = put(
        service,
        "trailed",
        b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
        **{
            "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "x-amz-decoded-content-length": "5",
            "x-amz-trailer": "x-amz-checksum-crc32",
            "x-amz-sdk-checksum-algorithm": "CRC32",
            "content-encoding": "gzip,aws-chunked",
        },
    )
    assert status == 200
    found = service.client("s3").get_object(Bucket="things", Key="trailed")
    assert found["Body"].read() == b"hello"
    assert found["ContentEncoding"] == "gzip"
    head = service.client("s3").head_object(Bucket="things", Key="trailed", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == "NhCmhg=="


def test_a_chunked_body_that_ends_early_is_refused(service):
    status = put(
        service,
        "torn",
        b"ff\r\nhello",
        **{"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
    )
    assert status == 400


def test_a_body_of_unknown_length_is_stored(service):
    assert put(service, "streamed", iter([b"he", b"llo"])) == 200
    found = service.client("s3").get_object(Bucket="things", Key="streamed")
    assert found["Body"].read() == b"hello"


def test_nothing_but_the_environment_points_boto3_here(service, echo, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": service.url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    session = boto3.session.Session()
    names = [bucket["Name"] for bucket in session.client("s3").list_buckets()["Buckets"]]
    assert {"models", "things"} <= set(names)
    assert [bucket.name for bucket in session.resource("s3").buckets.all()] == names
    runtime = session.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName=echo, TargetModel="a.tar.gz", Body=b"")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_roles_can_be_created_and_the_caller_asks_who_it_is(service):
    iam = service.client("iam")
    role = iam.create_role(RoleName="Rehearsal", AssumeRolePolicyDocument="{}")["Role"]
    account = service.client("sts").get_caller_identity()["Account"]
    assert role["Arn"] == f"arn:aws:iam::{account}:role/Rehearsal"


def test_an_operation_that_moto_lacks_is_an_error_that_says_so(service):
    iam = service.client("iam")
    with pytest.raises(iam.exceptions.ClientError) as raised:
        iam.get_context_keys_for_custom_policy(PolicyInputList=["{}"])
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
