"""Invocations through boto3, against a real service and real (small) containers."""

import concurrent.futures
import datetime as dt
import http.client
import json
import re
import socket
from urllib.parse import urlsplit

import pytest


def error_of(raised):
    response = raised.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_the_first_call_loads_and_the_second_only_invokes(service, echo):
    first = service.seen(echo, "a.tar.gz")
    second = service.seen(echo, "a.tar.gz")
    assert (first["loads"], second["loads"]) == (1, 1)
    assert first["files"] == ["model.json"]
    assert first["environment"] == {"SAGEMAKER_MULTI_MODEL": "true", "COLOUR": "blue"}


def test_models_of_one_name_in_different_folders_are_different_models(service, echo):
    assert service.seen(echo, "a.tar.gz")["name"] != service.seen(echo, "team/a.tar.gz")["name"]


def test_an_answer_carries_what_sagemaker_adds(service, echo):
    answer = service.invoke(
        echo, "a.tar.gz", ContentType="text/csv", Accept="text/x", CustomAttributes="c=1"
    )
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert answer["ContentType"] == "application/json"
    assert answer["CustomAttributes"] == "saw c=1"
    assert len(answer["ResponseMetadata"]["RequestId"]) == 36
    headers = json.loads(answer["Body"].read())["headers"]
    assert headers.pop("host").startswith("127.0.0.1:")
    assert headers == {
        "content-type": "text/csv",
        "accept": "text/x",
        "x-amzn-sagemaker-custom-attributes": "c=1",
        "x-amzn-sagemaker-target-model": "a.tar.gz",
        "content-length": "1",
    }


def test_a_container_gets_the_inference_id_and_an_accept_of_anything_where_none_is_asked(
    service, echo
):
    headers = service.seen(echo, "a.tar.gz", InferenceId="call-7")["headers"]
    assert headers["x-amzn-sagemaker-inference-id"] == "call-7"
    assert headers["accept"] == "*/*"


@pytest.mark.parametrize("size", [0, 1, 70_000, 6 * 1024 * 1024])
def test_bodies_up_to_the_limit_arrive_whole(service, echo, size):
    assert service.seen(echo, "a.tar.gz", body=b"x" * size)["length"] == size


def test_a_body_beyond_the_limit_is_a_validation_error(service, echo):
    with pytest.raises(service.client("sagemaker-runtime").exceptions.ClientError) as raised:
        service.invoke(echo, "a.tar.gz", body=b"x" * (6 * 1024 * 1024 + 1))
    assert error_of(raised) == ("ValidationError", 400)
    assert service.seen(echo, "a.tar.gz")["length"] == 1


def test_many_first_calls_share_one_download_and_one_load(service, echo):
    service.put("shared.tar.gz", service.echo_archive(load_seconds=0.3))
    with concurrent.futures.ThreadPoolExecutor(64) as threads:
        calls = [threads.submit(service.seen, echo, "shared.tar.gz") for _ in range(64)]
        answers = [call.result() for call in calls]
    assert {answer["loads"] for answer in answers} == {1}
    assert service.log.count("shared.tar.gz: fetched") == 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, "missing a target model header"),
        ("", "greater than or equal to 1"),
        ("m" * 1025, "less than or equal to 1024"),
        ("../a.tar.gz", "must not contain '..'"),
        ("team/../a.tar.gz", "must not contain '..'"),
        ("absent.tar.gz", "Failed to download model data(bucket: models, key: absent.tar.gz)"),
    ],
)
def test_a_target_model_that_cannot_be_is_a_validation_error(service, echo, target, words):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match=re.escape(words)) as raised:
        service.invoke(echo, target)
    assert error_of(raised) == ("ValidationError", 400)


def test_an_unknown_endpoint_is_a_validation_error(service):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError) as raised:
        service.invoke("nobody", "a.tar.gz")
    message = raised.value.response["Error"]["Message"]
    assert message == "Endpoint nobody of account 123456789012 not found."


def test_an_endpoint_of_another_region_is_not_found(service, echo):
    runtime = service.client("sagemaker-runtime", "eu-west-1")
    with pytest.raises(runtime.exceptions.ValidationError, match="not found"):
        runtime.invoke_endpoint(EndpointName=echo, TargetModel="a.tar.gz", Body=b"")


def test_an_unknown_variant_is_a_validation_error(service, echo):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match="Variant Blue not found"):
        service.invoke(echo, "a.tar.gz", TargetVariant="Blue")


@pytest.mark.parametrize(("status", "side"), [(400, "client"), (415, "client"), (500, "server")])
def test_an_error_of_the_container_is_a_model_error(service, echo, status, side):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        service.invoke(echo, "a.tar.gz", body=json.dumps({"status": status}).encode())
    response = raised.value.response
    assert error_of(raised) == ("ModelError", 424)
    assert response["OriginalStatusCode"] == status
    assert json.loads(response["OriginalMessage"])["name"]
    group = "/aws/sagemaker/Endpoints/echo"
    assert response["LogStreamArn"] == f"arn:aws:logs:us-east-1:123456789012:log-group:{group}"
    message = response["Error"]["Message"]
    assert message.startswith(f'Received {side} error ({status}) from model with message "')
    assert message.endswith(f"group={group} in account 123456789012 for more information.")


def test_a_model_that_does_not_load_is_a_model_error_and_is_tried_again(service, echo):
    service.put("broken.tar.gz", service.echo_archive(load_status=500))
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    for _ in range(2):
        with pytest.raises(runtime.exceptions.ModelError, match="could not import nonsense") as r:
            service.invoke(echo, "broken.tar.gz")
        assert r.value.response["OriginalStatusCode"] == 500


def test_an_object_that_is_no_archive_is_a_validation_error_and_harms_nobody(service, echo):
    service.put("text.tar.gz", b"hello")
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match="Failed to extract model data"):
        service.invoke(echo, "text.tar.gz")
    assert service.seen(echo, "a.tar.gz")["loads"] == 1


def test_a_hostile_archive_is_a_validation_error_and_writes_nothing(service, echo):
    service.put("hostile.tar.gz", service.archive({"../../../../escaped": b"x"}))
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ValidationError, match="Failed to extract"):
        service.invoke(echo, "hostile.tar.gz")
    assert not list(service.folder.rglob("escaped"))


def test_a_model_that_the_container_lost_is_loaded_again(service, echo):
    service.put("lost.tar.gz", service.echo_archive())
    assert service.seen(echo, "lost.tar.gz", body=b'{"forget": true}')["loads"] == 1
    assert service.seen(echo, "lost.tar.gz")["loads"] == 2


def test_a_model_that_answers_404_is_not_taken_for_a_lost_one(service, echo):
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        service.invoke(echo, "a.tar.gz", body=b'{"status": 404}')
    assert raised.value.response["OriginalStatusCode"] == 404
    assert service.seen(echo, "a.tar.gz")["loads"] == 1


def test_an_overwritten_key_goes_on_serving_what_is_cached(service, echo):
    service.put("kept.tar.gz", service.echo_archive())
    service.seen(echo, "kept.tar.gz")
    service.put("kept.tar.gz", service.echo_archive(load_status=500))
    assert service.seen(echo, "kept.tar.gz")["loads"] == 1


def test_metrics_reach_cloudwatch(service, echo):
    service.put("measured.tar.gz", service.echo_archive())
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    now = dt.datetime.now(dt.timezone.utc)
    day = dt.timedelta(days=1)
    dimensions = [
        {"Name": "EndpointName", "Value": echo},
        {"Name": "VariantName", "Value": "AllTraffic"},
    ]

    def read(name, statistic, namespace="AWS/SageMaker"):
        points = service.client("cloudwatch").get_metric_statistics(
            Namespace=namespace,
            MetricName=name,
            Dimensions=dimensions,
            StartTime=now - day,
            EndTime=now + day,
            Period=int(day.total_seconds()) * 2,
            Statistics=[statistic],
        )["Datapoints"]
        return points[0][statistic] if points else 0

    before = {name: read(name, "Sum") for name in ("Invocations", "Invocation4XXErrors")}
    for _ in range(3):
        service.invoke(echo, "measured.tar.gz")
    with pytest.raises(runtime.exceptions.ModelError):
        service.invoke(echo, "measured.tar.gz", body=b'{"status": 400}')
    assert read("Invocations", "Sum") - before["Invocations"] == 4
    assert read("Invocation4XXErrors", "Sum") - before["Invocation4XXErrors"] == 1
    for name in ("ModelLatency", "OverheadLatency", "ModelLoadingWaitTime", "ModelLoadingTime"):
        assert read(name, "Average") > 0, name
    assert read("ModelDownloadingTime", "Average") > 0
    assert 0 < read("ModelCacheHit", "Average") < 1
    assert read("LoadedModelCount", "Maximum", "/aws/sagemaker/Endpoints") >= 1
    query = {
        "Id": "m1",
        "MetricStat": {
            "Metric": {
                "Namespace": "AWS/SageMaker",
                "MetricName": "Invocations",
                "Dimensions": dimensions,
            },
            "Period": 3600,
            "Stat": "Sum",
        },
    }
    found = service.client("cloudwatch").get_metric_data(
        MetricDataQueries=[query], StartTime=now - day, EndTime=now + day
    )
    assert sum(found["MetricDataResults"][0]["Values"]) == before["Invocations"] + 4


def test_an_unsigned_invocation_is_refused(service, echo):
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    connection.request("POST", f"/endpoints/{echo}/invocations", body=b"x")
    answer = connection.getresponse()
    assert answer.status == 403
    assert answer.getheader("x-amzn-errortype") == "MissingAuthenticationTokenException"
    connection.close()


def test_pipelined_invocations_are_answered_in_order(service, echo):
    address = urlsplit(service.url)
    head = (
        f"POST /endpoints/{echo}/invocations HTTP/1.1\r\nhost: localhost\r\n"
        "authorization: AWS4-HMAC-SHA256 Credential=k/20250101/us-east-1/sagemaker/aws4_request\r\n"
        "x-amzn-sagemaker-target-model: a.tar.gz\r\ncontent-length: {}\r\n\r\n{}"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall("".join(head.format(n, "x" * n) for n in (3, 1, 2)).encode())
        received = b""
        while received.count(b'"length": ') < 3:
            received += connection.recv(65536)
    lengths = [int(part[: part.index(b",")]) for part in received.split(b'"length": ')[1:]]
    assert lengths == [3, 1, 2]


def test_an_endpoint_name_may_be_percent_encoded(service, echo):
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    scope = "AWS4-HMAC-SHA256 Credential=k/20250101/us-east-1/sagemaker/aws4_request, x"
    headers = {"Authorization": scope, "X-Amzn-SageMaker-Target-Model": "a.tar.gz"}
    connection.request("POST", "/endpoints/%65cho/invocations", body=b"x", headers=headers)
    assert connection.getresponse().status == 200
    connection.close()
