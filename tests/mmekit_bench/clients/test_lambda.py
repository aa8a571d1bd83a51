"""The function of infrastructure/lambda, run by the local service."""

from __future__ import annotations

import base64
import importlib.util
import json

import pytest

from tests.mmekit_bench.clients.conftest import LAMBDA

pytestmark = pytest.mark.timeout(300)

IMAGE = b"\x89PNG\r\n\x1a\n and more"


@pytest.fixture(scope="module")
def endpoint(create_endpoint):
    return create_endpoint("asked", 5)


@pytest.fixture(scope="module")
def ask(service, create_function, endpoint):
    """A function that invokes the function."""
    name = create_function("asking", ENDPOINT_NAME=endpoint)

    def ask(event):
        answer = service.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))
        return answer.get("FunctionError"), json.loads(answer["Payload"].read())

    return ask


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_an_image_in_base64_reaches_the_model_as_it_is(ask, prefix):
    error, answer = ask({"image": prefix + base64.b64encode(IMAGE).decode()})
    assert error is None
    assert answer["prediction"]["length"] == len(IMAGE)
    assert answer["prediction"]["headers"]["content-type"] == "application/x-image"
    assert answer["retries"] == 0
    assert answer["content_type"] == "application/json"
    assert 0 < answer["elapsed_time"] < 60


@pytest.mark.parametrize(
    ("event", "sent", "content_type"),
    [
        ({"body": "1,2", "content_type": "text/csv"}, b"1,2", "text/csv"),
        ({"body": {"instances": [1]}}, b'{"instances": [1]}', "application/json"),
        (
            {"body": base64.b64encode(IMAGE).decode(), "isBase64Encoded": True},
            IMAGE,
            "application/json",
        ),
    ],
)
def test_any_other_body_reaches_it_too(ask, event, sent, content_type):
    error, answer = ask(event)
    assert error is None
    assert answer["prediction"]["length"] == len(sent)
    assert answer["prediction"]["headers"]["content-type"] == content_type


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "The event has neither `image` nor `body`."),
        ([], "The event has to be an object with `image` or `body`."),
        ({"image": "%"}, "The event's `image` is not base64"),
        ({"body": "x", "max_attempts": -1}, "max_attempts is -1; it has to be a whole number"),
        ({"body": "x", "retry_mode": "often"}, "retry_mode is 'often'; it may be standard"),
    ],
)
def test_an_event_that_makes_no_sense_says_why(ask, event, message):
    error, answer = ask(event)
    assert error == "Unhandled"
    assert answer["errorType"] == "ValueError"
    assert message in answer["errorMessage"]


def test_what_the_endpoint_refuses_is_raised(ask):
    error, answer = ask({"body": "x", "endpoint": "nobody"})
    assert error == "Unhandled"
    assert "Endpoint nobody of account 123456789012 not found." in answer["errorMessage"]
    assert answer["stackTrace"][0].startswith('  File "/var/task/app.py", line ')
    assert answer["stackTrace"][-1].startswith('  File "/var/runtime/botocore/client.py", line ')


def test_its_time_outs_are_lambdas_and_its_retries_as_they_are_set(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    spec = importlib.util.spec_from_file_location("function_under_test", LAMBDA)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module._retries({}) == (100, "standard")
    monkeypatch.setenv("MAX_ATTEMPTS", "3")
    monkeypatch.setenv("RETRY_MODE", "adaptive")
    assert module._retries({}) == (3, "adaptive")
    assert module._retries({"max_attempts": 0, "retry_mode": "legacy"}) == (0, "legacy")
    config = module._client(3, "standard").meta.config
    assert (config.read_timeout, config.connect_timeout) == (900, 900)
    assert config.retries == {"total_max_attempts": 4, "mode": "standard"}
