"""What `mme up --state` keeps, through a stop and through a kill; and what it refuses."""

import contextlib
import hashlib
import io
import itertools
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading

import httpx
import psutil
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

from mmekit_local.aws.state.log import StateLog

ROLE = "arn:aws:iam::123456789012:role/Kept"


def fill(service, content):
    """Make one of everything; return what may not change."""
    s3, sagemaker, iam = (service.client(name) for name in ("s3", "sagemaker", "iam"))
    service.put("a.tar.gz", service.echo_archive(), bucket="kept")
    s3.put_object(Bucket="kept", Key="ünï/key", Body=b"old")
    s3.put_object(Bucket="kept", Key="ünï/key", Body=b"new", Metadata={"who": "me"})
    s3.copy_object(Bucket="kept", Key="copy", CopySource={"Bucket": "kept", "Key": "ünï/key"})
    s3.put_object(Bucket="kept", Key="gone", Body=b"x")
    s3.delete_objects(Bucket="kept", Delete={"Objects": [{"Key": "gone"}]})
    transfer = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    s3.upload_fileobj(io.BytesIO(content), "kept", "large", Config=transfer)
    upload = s3.create_multipart_upload(Bucket="kept", Key="unfinished")["UploadId"]
    part = s3.upload_part(
        Bucket="kept", Key="unfinished", UploadId=upload, PartNumber=1, Body=b"part"
    )
    iam.create_role(RoleName="Kept", AssumeRolePolicyDocument="{}")
    service.create_endpoint("kept", data_url="s3://kept/", environment={"COLOUR": "blue"})
    service.describe_models("next", data_url="s3://kept/", environment={"COLOUR": "green"})
    sagemaker.update_endpoint(EndpointName="kept", EndpointConfigName="next")
    service.wait_for("endpoint_in_service", "kept")
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="kept",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}],
    )
    service.wait_for("endpoint_in_service", "kept")
    service.describe_models("broken", environment={"REFUSE_TO_START": "yes"})
    sagemaker.update_endpoint(EndpointName="kept", EndpointConfigName="broken")
    service.wait_for("endpoint_in_service", "kept")
    service.create_endpoint("deleted", data_url="s3://kept/")
    sagemaker.delete_endpoint(EndpointName="deleted")
    for name in ("next", "kept"):  # in use, which does not matter
        sagemaker.delete_model(ModelName=name)
        sagemaker.delete_endpoint_config(EndpointConfigName=name)
    return upload, part["ETag"]


def identity(service):
    """What identifies and dates things."""
    s3, sagemaker, iam = (service.client(name) for name in ("s3", "sagemaker", "iam"))
    return {
        "role": iam.get_role(RoleName="Kept")["Role"],
        "endpoint": sagemaker.describe_endpoint(EndpointName="kept")["CreationTime"],
        "etag": s3.head_object(Bucket="kept", Key="large")["ETag"],
        "modified": s3.head_object(Bucket="kept", Key="ünï/key")["LastModified"],
    }


def test_everything_comes_back(start, tmp_path):
    service, content = start(), os.urandom(6 << 20)
    upload, etag = fill(service, content)
    before = identity(service)
    service.stop(signal.SIGKILL)

    service = start()
    s3, sagemaker = service.client("s3"), service.client("sagemaker")
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="kept")["Contents"]]
    assert keys == ["a.tar.gz", "copy", "large", "ünï/key"]
    assert s3.get_object(Bucket="kept", Key="copy")["Body"].read() == b"new"
    found = s3.get_object(Bucket="kept", Key="ünï/key")
    assert (found["Body"].read(), found["Metadata"]) == (b"new", {"who": "me"})
    assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == content
    s3.complete_multipart_upload(
        Bucket="kept",
        Key="unfinished",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
    )
    assert s3.get_object(Bucket="kept", Key="unfinished")["Body"].read() == b"part"
    service.wait_for("endpoint_in_service", "kept")
    described = sagemaker.describe_endpoint(EndpointName="kept")
    assert described["EndpointConfigName"] == "next"
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    assert service.seen("kept", "a.tar.gz")["environment"]["COLOUR"] == "green"
    assert [found["EndpointName"] for found in sagemaker.list_endpoints()["Endpoints"]] == ["kept"]
    assert identity(service) == before
    assert f"kept in {tmp_path / 'state'}" in service.log
    assert "could not be restored" not in service.log


def test_an_update_that_would_have_failed_is_refused_after_a_kill_in_its_middle(start, tmp_path):
    gate = tmp_path / "gate"
    service = start()
    service.put("a.tar.gz", service.echo_archive())
    service.create_endpoint("kept", environment={"COLOUR": "blue"})
    service.describe_models(
        "broken", environment={"REFUSE_TO_START": "yes", "START_AFTER": str(gate)}
    )
    sagemaker = service.client("sagemaker")
    sagemaker.update_endpoint(EndpointName="kept", EndpointConfigName="broken")
    assert sagemaker.describe_endpoint(EndpointName="kept")["EndpointStatus"] == "Updating"
    service.stop(signal.SIGKILL)
    gate.touch()

    service = start()
    service.wait_for("endpoint_in_service", "kept")
    described = service.client("sagemaker").describe_endpoint(EndpointName="kept")
    assert described["EndpointConfigName"] == "kept"
    assert "ping" in described["FailureReason"]
    assert service.seen("kept", "a.tar.gz")["environment"]["COLOUR"] == "blue"


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.thorough)])
def test_a_kill_at_any_moment_loses_nothing_that_was_answered(start, kills):
    answered, deleted = {}, set()
    for number in range(kills + 1):
        service = start()
        s3 = service.client("s3")
        s3.create_bucket(Bucket="kept")
        for key, digest in answered.items():
            body = s3.get_object(Bucket="kept", Key=key)["Body"].read()
            assert hashlib.sha256(body).hexdigest() == digest
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="kept")
        assert not deleted & {one["Key"] for page in pages for one in page.get("Contents", ())}
        assert "could not be restored" not in service.log
        if number == kills:
            break
        ending = threading.Event()

        def change(thread, number=number, service=service, ending=ending):
            s3 = service.client("s3")
            for count in itertools.count():
                key, body = f"{number}/{thread}/{count % 7}", os.urandom(2000 + count)
                copied = {"Bucket": "kept", "Key": f"{key}/copy"}
                for one in (key, copied["Key"]):
                    answered.pop(one, None)
                    deleted.discard(one)
                try:
                    s3.put_object(Bucket="kept", Key=key, Body=body)
                    answered[key] = hashlib.sha256(body).hexdigest()
                    with pytest.raises(ClientError, match="Precondition"):
                        s3.put_object(Bucket="kept", Key=key, Body=b"other", IfNoneMatch="*")
                    s3.copy_object(**copied, CopySource={"Bucket": "kept", "Key": key})
                    s3.delete_object(**copied)
                    deleted.add(copied["Key"])
                except (EndpointConnectionError, HTTPClientError, ClientError):
                    assert ending.is_set()
                    return

        threads = [threading.Thread(target=change, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        service.wait_until(lambda number=number: len(answered) >= 20 * (number + 1))
        ending.set()
        service.process.kill()
        for thread in threads:
            thread.join()
    assert len(answered) > 15 * kills


def test_what_is_gone_takes_no_room_after_the_next_start(start, tmp_path):
    service = start()
    s3 = service.client("s3")
    s3.create_bucket(Bucket="kept")
    for number in range(5):
        s3.put_object(Bucket="kept", Key="again", Body=b"%d" % number * 100_000)
        s3.put_object(Bucket="kept", Key=f"gone/{number}", Body=os.urandom(100_000))
        s3.delete_object(Bucket="kept", Key=f"gone/{number}")
    service.stop()
    bodies = tmp_path / "state" / "bodies"
    assert len(list(bodies.iterdir())) >= 10
    start().stop()
    [body] = [path.read_bytes() for path in bodies.iterdir() if path.stat().st_size > 1000]
    assert body == b"4" * 100_000
    service = start()
    assert service.client("s3").get_object(Bucket="kept", Key="again")["Body"].read() == body
    assert service.client("s3").list_objects_v2(Bucket="kept")["KeyCount"] == 1


def test_what_was_not_taken_leaves_no_body(start, tmp_path):
    service = start()
    s3 = service.client("s3")
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="taken", Body=b"taken" * 1000)
    bodies = tmp_path / "state" / "bodies"
    before = {path.name for path in bodies.iterdir()}
    for body in (b"refused" * 1000, b"taken" * 1000):
        with pytest.raises(ClientError):
            s3.put_object(Bucket="nowhere", Key="refused", Body=body)
    assert {path.name for path in bodies.iterdir()} == before
    service.stop(signal.SIGKILL)
    found = start().client("s3").get_object(Bucket="kept", Key="taken")
    assert found["Body"].read() == b"taken" * 1000


def test_an_object_that_a_form_wrote_stays_deleted_however_often_it_starts(start):
    service = start()
    s3 = service.client("s3")
    s3.create_bucket(Bucket="forms")
    form = s3.generate_presigned_post("forms", "foo")
    sent = httpx.post(form["url"], data=form["fields"], files={"file": b"hello"})
    assert sent.status_code == 204
    s3.delete_object(Bucket="forms", Key="foo")
    for _ in range(2):
        s3 = start().client("s3")
        assert s3.list_objects_v2(Bucket="forms")["KeyCount"] == 0


def test_what_cannot_be_restored_is_said_and_removes_nothing(start, tmp_path):
    service = start()
    s3 = service.client("s3")
    for bucket in ("lost", "kept"):
        s3.create_bucket(Bucket=bucket)
        for number in range(15):
            s3.put_object(Bucket=bucket, Key=f"{number}", Body=f"{bucket} {number}".encode())
    service.stop()
    log = StateLog(tmp_path / "state")
    creation, others = log.entries[0], log.entries[1:]
    assert creation.path == "/lost"
    log.replace(others)  # as it was left by a version that did not write it down
    log.close()
    bodies = sorted(path.name for path in (tmp_path / "state" / "bodies").iterdir())

    service = start()
    assert "entry 1 of the log (PUT /lost/0) could not be restored: " in service.log
    assert "15 of 31 changes could not be restored" in service.log
    assert service.log.count("could not be restored: ") == 10
    s3 = service.client("s3")
    s3.delete_object(Bucket="kept", Key="0")
    s3.put_object(Bucket="kept", Key="1", Body=b"new")
    service = start()
    assert service.client("s3").get_object(Bucket="kept", Key="1")["Body"].read() == b"new"
    service.stop()
    left = {path.name for path in (tmp_path / "state" / "bodies").iterdir()}
    assert left > set(bodies)

    log = StateLog(tmp_path / "state")
    log.replace([creation, *log.entries])
    log.close()
    s3 = start().client("s3")
    for number in range(15):
        found = s3.get_object(Bucket="lost", Key=f"{number}")["Body"].read()
        assert found == f"lost {number}".encode()
    assert s3.list_objects_v2(Bucket="kept")["KeyCount"] == 14


def test_what_is_refused_in_its_middle_leaves_nothing_behind(start_service, tmp_path):
    options = ["--state", str(tmp_path / "state")]
    (tmp_path / "1").mkdir()
    with limited_files(20 << 20):  # moto keeps objects in files from 16 MB on
        service = start_service(tmp_path / "1", *options)
    s3 = service.client("s3")
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="small", Body=b"old", Tagging="a=b")
    tags = "&".join(f"{number}=x" for number in range(60))
    for key in ("small", "new"):
        with pytest.raises(ClientError):
            s3.put_object(Bucket="kept", Key=key, Body=b"new", Tagging=tags)
    upload = {"Bucket": "kept", "Key": "large"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(**upload, PartNumber=number, Body=bytes(9 << 20))["ETag"],
        }
        for number in (1, 2, 3)
    ]
    with pytest.raises(ClientError, match="no room on the disk"):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    for number in (1, 2):
        assert s3.get_object(Bucket="kept", Key="small")["Body"].read() == b"old"
        assert len(s3.get_object_tagging(Bucket="kept", Key="small")["TagSet"]) == 1
        assert s3.list_objects_v2(Bucket="kept")["KeyCount"] == 1
        assert len(s3.list_parts(**upload)["Parts"]) == 3
        if number == 1:
            service.stop(signal.SIGKILL)
            (tmp_path / "2").mkdir()
            service = start_service(tmp_path / "2", *options)
            s3 = service.client("s3")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert s3.head_object(Bucket="kept", Key="large")["ContentLength"] == 27 << 20
    service.stop()
    assert "Traceback" not in service.log


def test_what_is_kept_of_an_object_brings_it_back_however_often_it_starts(start):
    """Each of these is written in a way that earlier entries have a say in."""
    service = start()
    s3 = service.client("s3")
    s3.create_bucket(Bucket="kept")

    def upload(key, *, completes):
        named = {"Bucket": "kept", "Key": key}
        named["UploadId"] = s3.create_multipart_upload(**named)["UploadId"]
        etag = s3.upload_part(**named, PartNumber=1, Body=b"part")["ETag"]
        if completes:
            parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
            s3.complete_multipart_upload(**named, MultipartUpload=parts)
        return named

    etag = s3.put_object(Bucket="kept", Key="conditional", Body=b"1")["ETag"]
    s3.put_object(Bucket="kept", Key="conditional", Body=b"2", IfMatch=etag)
    s3.put_object(Bucket="kept", Key="again", Body=b"1")
    s3.delete_object(Bucket="kept", Key="again")
    s3.put_object(Bucket="kept", Key="again", Body=b"2", IfNoneMatch="*")
    s3.abort_multipart_upload(**upload("aborted", completes=False))
    aborted = upload("overwritten", completes=False)
    s3.put_object(Bucket="kept", Key="overwritten", Body=b"whole")
    s3.abort_multipart_upload(**aborted)
    upload("completed", completes=True)
    s3.put_object(Bucket="kept", Key="unfinished", Body=b"whole")
    unfinished = upload("unfinished", completes=False)
    s3.put_object(Bucket="kept", Key="unfinished", Body=b"again")
    s3.put_object(Bucket="kept", Key="untagged", Body=b"x", Tagging="a=b")
    s3.delete_object_tagging(Bucket="kept", Key="untagged")
    s3.delete_objects(Bucket="kept", Delete={"Objects": [{"Key": "untagged"}]})
    form = s3.generate_presigned_post(
        "kept", "redirected", Fields={"success_action_redirect": service.url}
    )
    form["fields"]["success_action_redirect"] = service.url
    sent = httpx.post(form["url"], data=form["fields"], files={"file": b"hello"})
    assert sent.status_code == 303
    for _ in range(2):
        service = start()
        s3 = service.client("s3")
        assert "could not be restored" not in service.log
        found = {one["Key"] for one in s3.list_objects_v2(Bucket="kept")["Contents"]}
        assert found == {
            *("again", "completed", "conditional", "overwritten", "redirected", "unfinished")
        }
        assert s3.get_object(Bucket="kept", Key="conditional")["Body"].read() == b"2"
        assert len(s3.list_parts(**unfinished)["Parts"]) == 1
        assert len(s3.list_multipart_uploads(Bucket="kept")["Uploads"]) == 1


@contextlib.contextmanager
def limited_files(size):
    """Let the processes that are started write no file longer than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("with_state", [False, True])
def test_no_room_for_an_object_is_s3s_own_error_and_changes_nothing(
    start_service, tmp_path, with_state
):
    options = ["--state", str(tmp_path / "state")] if with_state else []
    with limited_files(20 << 20):  # moto keeps objects in files from 16 MB on
        service = start_service(tmp_path, *options)
    s3 = service.client("s3")
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="small", Body=b"old")
    with pytest.raises(ClientError, match="no room on the disk") as raised:
        s3.put_object(Bucket="kept", Key="small", Body=bytes(30 << 20))
    assert raised.value.response["Error"]["Code"] == "InternalError"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert s3.get_object(Bucket="kept", Key="small")["Body"].read() == b"old"
    service.stop()
    assert "Traceback" not in service.log


def test_the_folders_of_a_killed_service_go_with_the_next_start(start_service, tmp_path):
    first = start_service(tmp_path)
    first.put("a.tar.gz", first.echo_archive())
    first.create_endpoint("short-lived")
    first.seen("short-lived", "a.tar.gz")
    containers = psutil.Process(first.process.pid).children(recursive=True)
    first.stop(signal.SIGKILL)
    first.wait_for_the_end(containers)
    left = list(first.folder.iterdir())
    assert left
    code = (
        "import tempfile, sys; from mmekit_local.scratch import sweep; "
        "tempfile.tempdir = sys.argv[1]; [sweep(p) for p in ('mme-', 'mmekit-endpoint-')]"
    )
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[3] / "packaging")}
    command = [sys.executable, "-c", code, str(first.folder)]
    subprocess.run(command, check=True, env=environment, timeout=60)
    assert list(first.folder.iterdir()) == []
