"""The containers' output in CloudWatch Logs."""

import re

import pytest
from moto.backends import get_backend

from mmekit_local.sagemaker.observability.logs import LogShipper
from mmekit_local.sagemaker.specification import EndpointId


def messages(service, endpoint):
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    logs = service.client("logs")
    if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        return []
    return logs.filter_log_events(logGroupName=group)["events"]


def test_what_a_container_prints_is_in_the_log_stream_of_its_instance(service):
    service.put("a.tar.gz", service.echo_archive())
    endpoint = service.create_endpoint("talking", instances=2)
    found = service.wait_until(
        lambda: (
            [
                event
                for event in messages(service, endpoint)
                if event["message"] == "small container ready"
            ]
            if len(messages(service, endpoint)) >= 2
            else None
        ),
        what="two lines in CloudWatch Logs",
    )
    streams = {event["logStreamName"] for event in found}
    assert len(streams) == 2
    assert all(re.fullmatch(r"AllTraffic/i-[0-9a-f]{17}", name) for name in streams)
    assert found[0]["timestamp"] == pytest.approx(found[0]["ingestionTime"], abs=60_000)


def test_output_that_comes_too_fast_loses_its_oldest_lines_and_says_so():
    shipper = LogShipper()
    endpoint = EndpointId("123456789012", "eu-west-3", "noisy")
    take = shipper.sink(endpoint, "v")
    for number in range(25_000):
        take(f"line {number}")
    take("")  # CloudWatch Logs takes no empty messages
    shipper.flush()
    backend = get_backend("logs")["123456789012"]["eu-west-3"]
    (stream,) = backend.groups["/aws/sagemaker/Endpoints/noisy"].streams.values()
    texts = [event.message for event in stream.events]
    assert texts[0] == "15000 lines of output came too fast and were lost here"
    assert texts[-1] == "line 24999"
    assert len(texts) == 10_001
    for _ in range(2):
        for number in range(10_000):
            take(f"more {number}")
        shipper.flush()
    assert len(stream.events) == 20_000


def test_long_lines_are_bounded_in_all_and_not_by_their_number():
    shipper = LogShipper()
    take = shipper.sink(EndpointId("123456789012", "eu-west-3", "wordy"), "v")
    for _ in range(20):
        for number in range(30):
            take(f"{number} " + "z" * 100_000)
        shipper.flush()
    backend = get_backend("logs")["123456789012"]["eu-west-3"]
    (stream,) = backend.groups["/aws/sagemaker/Endpoints/wordy"].streams.values()
    assert sum(len(event.message) for event in stream.events) <= 16 << 20
    assert stream.events[-1].message.startswith("29 z")
