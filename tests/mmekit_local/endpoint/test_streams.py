"""Response streams: a single model's answer reaches the client piece by piece."""

import asyncio
import contextlib
import json

import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import EventStreamError

from mmekit_local.sagemaker.api import Caller
from mmekit_local.sagemaker.specification import EndpointId

CALLER = Caller(account="123456789012", region="us-east-1", service="sagemaker")
ENDPOINT = EndpointId("123456789012", "us-east-1", "rehearsal")


@pytest.fixture(scope="module")
def endpoint(service):
    service.put("only.tar.gz", service.echo_archive())
    return service.create_endpoint(
        "streaming", data_url="s3://models/only.tar.gz", mode="SingleModel"
    )


def ask(service, endpoint, *pieces, **more):
    runtime = service.client("sagemaker-runtime")
    body = json.dumps({"pieces": pieces}).encode() if pieces else more.pop("Body", b"x")
    return runtime.invoke_endpoint_with_response_stream(EndpointName=endpoint, Body=body, **more)


def parts(answer):
    with contextlib.closing(answer["Body"]) as events:
        for event in events:
            yield event["PayloadPart"]["Bytes"]


def test_pieces_come_as_the_container_makes_them(service, endpoint, tmp_path):
    gate = tmp_path / "gate"
    answer = ask(service, endpoint, "one", f"hold {gate}", "two", ContentType="application/json")
    assert answer["ContentType"] == "text/plain"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert answer["CustomAttributes"] == "one"
    pieces = parts(answer)
    assert next(pieces) == b"one"
    gate.touch()
    assert b"".join(pieces) == b"two"


def test_a_stream_may_be_large_and_its_reader_slow(service, endpoint):
    large = ["x" * (1 << 20)] * 5
    answer = ask(service, endpoint, *large)
    assert sum(map(len, parts(answer))) == 5 << 20


def test_the_container_gets_what_the_client_accepts_of_the_content(service, endpoint):
    answer = ask(service, endpoint, Accept="text/csv", ContentType="text/plain")
    seen = json.loads(b"".join(parts(answer)))
    assert seen["headers"]["accept"] == "text/csv"
    assert seen["headers"]["content-type"] == "text/plain"


def test_a_model_that_refuses_is_a_model_error_and_no_stream(service, endpoint):
    runtime = service.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ModelError) as refused:
        ask(service, endpoint, Body=b'{"status": 422}')
    assert refused.value.response["OriginalStatusCode"] == 422


def test_a_stream_without_an_end_is_ended(rehearse, tmp_path):
    async def story(on):
        body = json.dumps({"pieces": ["one", f"hold {tmp_path / 'never'}"]}).encode()
        reply = await on.plane.stream(CALLER, ENDPOINT.name, {}, body)
        first, last = [event async for event in reply.stream]
        assert b"PayloadPart" in first
        assert b"ModelStreamError" in last
        assert b"ModelInvocationTimeExceeded" in last
        assert on.only_instance().in_flight == 0

    rehearse(story, data_url="s3://models/only.tar.gz", stream_seconds=2.0)


def test_instances_that_leave_finish_their_streams(rehearse, tmp_path):
    async def story(on):
        gate = tmp_path / "gate"
        body = json.dumps({"pieces": ["one", f"hold {gate}", "two"]}).encode()
        reply = await on.plane.stream(CALLER, ENDPOINT.name, {}, body)
        assert b"one" in await anext(reply.stream)
        leaving = asyncio.ensure_future(on.fleet.stop(drain=True))
        await asyncio.wait([leaving], timeout=1.5)  # longer than a call without a stream may take
        gate.touch()
        assert b"two" in await anext(reply.stream)
        assert [event async for event in reply.stream] == []
        await leaving

    rehearse(story, data_url="s3://models/only.tar.gz", invoke_seconds=0.5)


def test_a_client_that_leaves_frees_the_instance(service, endpoint, tmp_path):
    gate = tmp_path / "gate"
    pieces = parts(ask(service, endpoint, "one", f"hold {gate}"))
    assert next(pieces) == b"one"
    pieces.close()
    gate.touch()
    assert service.seen(endpoint)["length"] == 1


def test_a_container_that_dies_breaks_the_stream_and_is_replaced(service, endpoint):
    pieces = parts(ask(service, endpoint, "one", "exit"))
    with pytest.raises(EventStreamError, match="broke off"):
        list(pieces)

    def answers():
        try:
            return service.seen(endpoint)
        except service.client("sagemaker-runtime").exceptions.ClientError:
            return None

    service.wait_until(answers, what="another instance")
    found = service.client("cloudwatch").list_metrics(Namespace="AWS/SageMaker")["Metrics"]
    names = {metric["MetricName"] for metric in found}
    assert {"FirstChunkLatency", "FirstChunkModelLatency", "MidStreamErrors"} <= names


def test_a_multi_model_endpoint_has_no_streams(service, echo):
    runtime = service.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ValidationError, match="missing a target model"):
        ask(service, echo)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Inference-Component", "Inference Component Name header is not allowed"),
        ("Target-Container-Hostname", "not rehearsed on this machine"),
        ("Session-Id", "not rehearsed on this machine"),
        ("Target-Model", "does not support target model header"),
    ],
)
def test_a_stream_that_asks_for_what_is_not_there_is_refused(service, endpoint, header, words):
    runtime = service.client("sagemaker-runtime")

    def add(request, **_):
        request.headers[f"X-Amzn-SageMaker-{header}"] = "one"

    signing = ("before-sign.sagemaker-runtime.*", add)
    runtime.meta.events.register(*signing)
    try:
        with pytest.raises(runtime.exceptions.ValidationError, match=words):
            runtime.invoke_endpoint_with_response_stream(EndpointName=endpoint, Body=b"x")
    finally:
        runtime.meta.events.unregister(*signing)


def test_a_serverless_endpoint_streams_too(service, endpoint):
    config = {"MemorySizeInMB": 1024, "MaxConcurrency": 1}
    service.create_endpoint(
        "on-demand",
        data_url="s3://models/only.tar.gz",
        mode="SingleModel",
        variants=[
            {"VariantName": "AllTraffic", "ModelName": "on-demand", "ServerlessConfig": config}
        ],
    )
    for _ in range(2):  # one after the other: the first has given back its place
        assert b"".join(parts(ask(service, "on-demand", "one", "two"))) == b"onetwo"


HANDLER = b"""
from djl_python import Input, Output

def pieces():
    for number in range(3):
        yield f"{number},"

def handle(inputs):
    return None if inputs.is_empty() else Output().add_stream_content(pieces(), None)
"""


def test_the_embedded_server_streams_what_a_handler_yields(rehearse):
    async def story(on):
        fields = {b"content-type": b"text/plain"}
        reply = await on.plane.stream(CALLER, ENDPOINT.name, fields, b"x")
        assert reply.status == 200
        buffer = EventStreamBuffer()
        async for event in reply.stream:
            buffer.add_data(event)
        assert b"".join(event.payload for event in buffer) == b"0,1,2,"

    def prepare(on):
        files = {"model.py": HANDLER, "serving.properties": b"engine=Python\nmaxWorkers=1\n"}
        on.objects["models/only.tar.gz"] = rehearse.archive(files)

    rehearse(story, data_url="s3://models/only.tar.gz", prepare=prepare, container="embedded")
