"""Services that are not there, and signatures that name none."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import botocore.session
import pytest

from mmekit_local.aws.moto.services import Services

CALLS = {  # services that moto lacks, one for each protocol
    "amplify": ("list_apps", {}),
    "cloudsearch": ("list_domain_names", {}),
    "translate": ("list_terminologies", {}),
    "frauddetector": ("get_labels", {}),
}
SCOPE = "AWS4-HMAC-SHA256 Credential=local/20250101/{}/aws4_request, Signature=0"


@pytest.fixture
def ask(service):
    """Send a request with an Authorization; return its status and its body."""
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)

    def send(authorization, method="GET", path="/x", body=b"", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            named["authorization"] = authorization
        connection.request(method, path, body=body, headers=named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    yield send
    connection.close()


@pytest.fixture(autouse=True)
def _no_traceback(service):
    before = service.log.count("Traceback")
    yield
    assert service.log.count("Traceback") == before


@pytest.mark.parametrize("name", CALLS)
def test_a_service_that_is_not_there_is_named(service, name):
    operation, members = CALLS[name]
    client = service.client(name)

    with pytest.raises(client.exceptions.ClientError) as raised:
        getattr(client, operation)(**members)

    answer = raised.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert answer["Error"]["Code"] == "NotImplemented"
    signed = client.meta.service_model.signing_name
    assert f"the service '{signed}', which is not there" in answer["Error"]["Message"]


def test_whatever_botocore_signs_for_is_there_or_named(ask):
    session, services = botocore.session.get_session(), Services()
    signed = {
        session.get_service_model(name).signing_name.lower()
        for name in session.get_available_services()
    }
    # Those that moto has are imported when they are asked.
    asked = sorted(
        name
        for name in signed
        if services.get_backend_for_host(f"{name}.us-east-1.amazonaws.com") is None
    )

    answers = {name: ask(SCOPE.format(f"us-east-1/{name}")) for name in asked}

    # A few have another name there.
    assert {status for status, _ in answers.values()} <= {400, 404, 501}
    absent = {name: told for name, (status, told) in answers.items() if status == 501}
    assert len(absent) > 0.8 * len(asked) > 50
    assert all(repr(name) in told for name, told in absent.items())


@pytest.mark.parametrize("scope", ["us-east-1/nonsense", "us-east-1/", "us-east-1/a b", "x/y"])
@pytest.mark.parametrize("path", ["/", "/x", "/models/key", "/a_b/c"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "HEAD"])
def test_a_signature_for_nothing_is_refused(ask, scope, path, method):
    status, told = ask(SCOPE.format(scope), method, path)

    assert status == (403 if scope == "x/y" else 501)
    assert method == "HEAD" or scope == "x/y" or repr(scope.partition("/")[2]) in told


@pytest.mark.parametrize("service_name", ["translate", "ec2"])
def test_a_region_that_is_none_is_refused(ask, service_name):
    body = b"Action=DescribeInstances&Version=2016-11-15"
    kind = "application/x-www-form-urlencoded"
    status, told = ask(SCOPE.format(f"mars-1/{service_name}"), "POST", "/", body, content_type=kind)

    assert status == 403
    assert "scoped to a valid region" in told


@pytest.mark.parametrize(
    "authorization", ["x", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b", "\xff"]
)
def test_a_signature_that_names_nothing_is_refused(ask, authorization):
    status, told = ask(authorization, path="/bucket/key")

    assert status in (403, 404)
    assert "Signature" in told or "NoSuchBucket" in told


def test_an_operation_that_nobody_knows_is_refused_in_the_protocol_of_the_request(ask):
    form = {"content_type": "application/x-www-form-urlencoded"}
    told = {
        "iam": ask(SCOPE.format("us-east-1/iam"), "POST", "/", b"Action=Dance", **form),
        "sagemaker": ask(
            SCOPE.format("us-east-1/sagemaker"), "POST", "/", b"{}", x_amz_target="SageMaker.Dance"
        ),
    }

    assert {status for status, _ in told.values()} == {400}
    assert "<Code>UnknownOperationException</Code>" in told["iam"][1]
    assert json.loads(told["sagemaker"][1])["__type"] == "UnknownOperationException"


def test_a_path_with_an_underscore_is_an_object_s(service, ask):
    status, told = ask(None, path="/my_bucket/key")

    assert status == 404
    assert "NoSuchBucket" in told
