"""What botocore does with each of the endpoint's errors, in each of its retry modes."""

import http.server
import threading

import boto3
import pytest
from botocore.config import Config

from mmekit_local.sagemaker import errors
from mmekit_local.sagemaker.specification import EndpointId

ENDPOINT = EndpointId("123456789012", "us-east-1", "team")
ERRORS = {
    "ThrottlingException": errors.AwsError(400, "ThrottlingException", "Rate exceeded"),
    "ServiceUnavailable": errors.service_unavailable("nobody is there"),
    "InternalFailure": errors.internal_failure("oh"),
    "InternalDependencyException": errors.AwsError(530, "InternalDependencyException", "oh"),
    "ModelNotReadyException": errors.model_not_ready(ENDPOINT, "AllTraffic"),
    "ModelError": errors.model_error(ENDPOINT, 500, "oh"),
    "ValidationError": errors.validation_error("no"),
}
ALWAYS = {"ThrottlingException", "ServiceUnavailable", "InternalFailure"}
RETRIED = {
    "legacy": ALWAYS | {"ModelNotReadyException"},  # any 429, botocore's data/_retry.json
    "standard": ALWAYS,
    "adaptive": ALWAYS,
}


@pytest.fixture
def answering():
    """A server that answers the first call with an error of the endpoint and then with 200."""
    replies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            status, headers, body = replies.pop(0) if replies else (200, [], b"done")
            self.send_response(status)
            for name, value in headers:
                self.send_header(name.decode(), value.decode())
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def answer_with(error):
            reply = errors.runtime_reply(error, b"5b3b6d2c-0000-4000-8000-000000000000")
            replies.append((reply.status, reply.headers, reply.body))
            return f"http://127.0.0.1:{server.server_port}"

        yield answer_with
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("code", sorted(ERRORS))
@pytest.mark.parametrize("mode", sorted(RETRIED))
def test_botocore_takes_every_error_for_what_it_is(aws, answering, mode, code):
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=answering(ERRORS[code]),
        config=Config(retries={"mode": mode}),
    )
    try:
        if code in RETRIED[mode]:
            answer = runtime.invoke_endpoint(EndpointName="team", Body=b"x")
            assert answer["ResponseMetadata"]["RetryAttempts"] == 1
            assert answer["Body"].read() == b"done"
            return
        with pytest.raises(getattr(runtime.exceptions, code)) as raised:
            runtime.invoke_endpoint(EndpointName="team", Body=b"x")
        response = raised.value.response
        assert response["Error"]["Code"] == code
        assert response["Error"]["Message"] == ERRORS[code].message
        assert response["ResponseMetadata"]["HTTPStatusCode"] == ERRORS[code].status
        assert response["ResponseMetadata"]["RetryAttempts"] == 0
    finally:
        runtime.close()


def test_the_default_mode_is_standard(aws, answering):
    runtime = boto3.client(
        "sagemaker-runtime", endpoint_url=answering(ERRORS["ModelNotReadyException"])
    )
    with pytest.raises(runtime.exceptions.ModelNotReadyException):
        runtime.invoke_endpoint(EndpointName="team", Body=b"x")
    runtime.close()


@pytest.fixture(scope="module")
def service_options():
    """Of the service with small containers: a model that loads for a second is soon not ready."""
    return ["--limits", "invoke_seconds=0.3", "load_seconds=60"]


@pytest.mark.parametrize("mode", sorted(RETRIED))
def test_a_cold_model_is_waited_for_in_legacy_mode_only(aws, service, echo, mode):
    service.put(f"slow-{mode}.tar.gz", service.echo_archive(load_seconds=1))
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=service.url,
        config=Config(retries={"mode": mode, "max_attempts": 20}),
    )
    call = {"EndpointName": echo, "TargetModel": f"slow-{mode}.tar.gz", "Body": b"x"}
    try:
        if mode == "legacy":
            assert runtime.invoke_endpoint(**call)["ResponseMetadata"]["RetryAttempts"] > 0
            return
        with pytest.raises(runtime.exceptions.ModelNotReadyException) as raised:
            runtime.invoke_endpoint(**call)
        assert raised.value.response["ResponseMetadata"]["RetryAttempts"] == 0
    finally:
        runtime.close()
