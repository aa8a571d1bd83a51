"""Data capture: invocations as JSON lines in S3."""

import asyncio
import base64
import datetime as dt
import json
import re

import pytest

from mmekit_local.sagemaker.api import ApiReply
from mmekit_local.sagemaker.instances.container_connection import ContainerReply
from mmekit_local.sagemaker.observability.capture import DataCapture, EndpointCapture
from mmekit_local.sagemaker.specification import (
    CaptureSpecification,
    EndpointId,
    EndpointSpecification,
)


@pytest.fixture(scope="module")
def captured(service):
    """Three invocations, one of them failing, as they are found in S3: {key: [record]}."""
    service.put("a.tar.gz", service.echo_archive())
    service.client("s3").create_bucket(Bucket="kept")
    service.describe_models("watched")
    sagemaker = service.client("sagemaker")
    described = sagemaker.describe_endpoint_config(EndpointConfigName="watched")
    sagemaker.create_endpoint_config(
        EndpointConfigName="watched-closely",
        ProductionVariants=described["ProductionVariants"],
        DataCaptureConfig={
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://kept/data/",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {
                "CsvContentTypes": ["text/csv"],
                "JsonContentTypes": ["application/json"],
            },
        },
    )
    sagemaker.create_endpoint(EndpointName="watched", EndpointConfigName="watched-closely")
    service.wait_for("endpoint_in_service", "watched")
    service.invoke("watched", "a.tar.gz", b"1,2\n", ContentType="text/csv; charset=utf-8")
    with pytest.raises(service.client("sagemaker-runtime").exceptions.ModelError):
        service.invoke("watched", "a.tar.gz", b'{"status": 500}', ContentType="application/json")
    service.invoke("watched", "a.tar.gz", b"\x93NUMPY", CustomAttributes="trace=1")

    def found():
        s3 = service.client("s3")
        keys = [one["Key"] for one in s3.list_objects_v2(Bucket="kept").get("Contents", [])]
        files = {k: s3.get_object(Bucket="kept", Key=k)["Body"].read() for k in keys}
        records = {k: [json.loads(line) for line in v.splitlines()] for k, v in files.items()}
        return records if sum(map(len, records.values())) >= 2 else None

    return service.wait_until(found, what="captured data")


def test_keys_name_endpoint_variant_and_hour(captured):
    pattern = (
        r"data/watched/AllTraffic/(\d{4}/\d\d/\d\d/\d\d)/(\d\d-\d\d)-\d{3}-[0-9a-f-]{36}\.jsonl"
    )
    now = dt.datetime.now(dt.timezone.utc)
    for key in captured:
        found = re.fullmatch(pattern, key)
        assert found, key
        at = dt.datetime.strptime(" ".join(found.groups()) + " +0000", "%Y/%m/%d/%H %M-%S %z")
        assert abs(now - at) < dt.timedelta(hours=1)


def test_records_hold_input_and_output_as_sagemaker_writes_them(captured):
    records = [record for file in captured.values() for record in file]
    assert len(records) == 2  # what failed is not captured
    assert all(record["eventVersion"] == "0" for record in records)
    text, binary = records
    assert text["captureData"]["endpointInput"] == {
        "observedContentType": "text/csv; charset=utf-8",
        "mode": "INPUT",
        "data": "1,2\n",
        "encoding": "CSV",
    }
    output = text["captureData"]["endpointOutput"]
    assert (output["mode"], output["encoding"]) == ("OUTPUT", "JSON")
    assert json.loads(output["data"])["length"] == 4
    taken = binary["captureData"]["endpointInput"]
    assert taken["encoding"] == "BASE64"
    assert base64.b64decode(taken["data"]) == b"\x93NUMPY"
    metadata = binary["eventMetadata"]
    assert metadata["customAttributes"] == ["trace=1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["inferenceTime"])
    assert text["eventMetadata"]["eventId"] != metadata["eventId"]


def specification(**more):
    return CaptureSpecification(
        **{
            "percentage": 100.0,
            "destination": "s3://sampled",
            "captures_input": True,
            "captures_output": False,
            "csv_types": ("text/csv",),
            **more,
        }
    )


def lines_of(capture, count, body=b"x"):
    """What is to be written of so many invocations."""
    for _ in range(count):
        capture.add("v", {b"content-type": b"text/csv"}, body, ContainerReply(200, {}, b""), b"id")
    files = capture.files_of(capture.take())
    return [json.loads(line) for file in files.values() for line in file.splitlines()]


ID = EndpointId("123456789012", "us-east-1", "e")


def test_only_the_share_that_is_asked_for_is_captured():
    lines = lines_of(EndpointCapture(ID, specification(percentage=25.0)), 4000)
    assert 800 < len(lines) < 1200
    assert not lines_of(EndpointCapture(ID, specification(percentage=0.0)), 100)


def test_only_the_sides_that_are_asked_for_are_captured():
    (line,) = lines_of(EndpointCapture(ID, specification()), 1)
    assert set(line["captureData"]) == {"endpointInput"}


def test_text_that_is_no_utf8_becomes_base64_whatever_its_type():
    (line,) = lines_of(EndpointCapture(ID, specification()), 1, b"\xff\xfe")
    assert line["captureData"]["endpointInput"]["encoding"] == "BASE64"


def test_what_comes_faster_than_it_is_written_is_not_kept():
    capture = EndpointCapture(ID, specification(captures_input=False))
    assert len(lines_of(capture, 100, bytes(1_000_000))) == 67
    assert len(lines_of(capture, 1)) == 1


def test_of_an_endpoint_that_is_gone_the_last_is_written_and_nothing_kept():
    written = []

    class Buckets:
        async def answer(self, request):
            written.append(request.path)
            return ApiReply(200, [])

    captures = DataCapture(Buckets())
    capture = captures.of(EndpointSpecification(ID, "c", (), capture=specification()))
    capture.add("v", {}, b"x", ContainerReply(200, {}, b""), b"id")
    captures.forget(ID)
    asyncio.run(captures.flush())
    assert len(written) == 1
    assert not captures._captures


def test_a_destination_that_does_not_exist_is_complained_of_and_used_once_it_does(service):
    service.put("a.tar.gz", service.echo_archive())
    service.describe_models("lost")
    sagemaker = service.client("sagemaker")
    described = sagemaker.describe_endpoint_config(EndpointConfigName="lost")
    sagemaker.create_endpoint_config(
        EndpointConfigName="lost-data",
        ProductionVariants=described["ProductionVariants"],
        DataCaptureConfig={
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://nowhere/at-all",
            "CaptureOptions": [{"CaptureMode": "Input"}],
        },
    )
    sagemaker.create_endpoint(EndpointName="lost", EndpointConfigName="lost-data")
    service.wait_for("endpoint_in_service", "lost")
    service.invoke("lost", "a.tar.gz")
    complaint = "endpoint lost: data cannot be captured"
    service.wait_until(lambda: complaint in service.log, what="a complaint")
    assert "NoSuchBucket" in service.log
    s3 = service.client("s3")
    s3.create_bucket(Bucket="nowhere")
    service.invoke("lost", "a.tar.gz")
    service.wait_until(lambda: s3.list_objects_v2(Bucket="nowhere")["KeyCount"], what="data")
    assert service.log.count(complaint) == 1
