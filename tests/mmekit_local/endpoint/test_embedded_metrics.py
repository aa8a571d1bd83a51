"""Metrics in log lines: what models tell of themselves is in CloudWatch and in Prometheus' text."""

import datetime as dt
import json
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mmekit_local.sagemaker.observability.embedded_metrics import EmbeddedMetrics
from mmekit_local.sagemaker.observability.logs import LogShipper
from mmekit_local.sagemaker.specification import EndpointId
from mmekit_runtime.signature import Column, Signature
from tests.server_process import RUNTIME

ENDPOINT = EndpointId("123456789012", "eu-west-3", "shop")

TABLE = b"""
from mmekit_runtime import TableHandler

class First(TableHandler):
    frame = False

    def load(self, folder):
        return "model"

    def predict(self, model, rows, parameters):
        return rows[:, 0]

handle = First()
"""


@pytest.fixture(scope="module")
def service_options():
    return ["--container", "embedded"]


def packed(name):
    """Return the files of a model that has worker slots."""
    signature = Signature((Column("age", "double", missing=True),))
    runtime = {
        f"mmekit_runtime/{path.relative_to(RUNTIME)}": path.read_bytes()
        for path in RUNTIME.rglob("*.py")
    }
    return {
        "model.py": TABLE,
        "serving.properties": f"engine=Python\noption.modelName={name}\n".encode(),
        "signature.json": signature.to_json(),
        "sitecustomize.py": (RUNTIME / "site_hook.py").read_bytes(),
        **runtime,
    }


def test_counts_of_each_model_are_in_cloudwatch_and_for_prometheus(service):
    for name in ("ridge", "forest"):
        service.put(f"{name}.tar.gz", service.archive(packed(name)))
    variables = {
        "MMEKIT_METRICS": "shop",
        "MMEKIT_METRICS_PER": "models",
        "MMEKIT_METRICS_SECONDS": "0.05",
    }
    endpoint = service.create_endpoint("shop", environment=variables)
    for body in (b'{"instances": [[1]]}', b'{"instances": [[null], [2]]}'):
        service.invoke(endpoint, "ridge.tar.gz", body)
    runtime = service.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ModelError):
        service.invoke(endpoint, "ridge.tar.gz", b'{"instances": [["old"]]}')
    service.invoke(endpoint, "forest.tar.gz", b'{"instances": [[1]]}')

    cloudwatch = service.client("cloudwatch")

    def total(metric, **dimensions):
        now = dt.datetime.now(dt.timezone.utc)
        found = cloudwatch.get_metric_statistics(
            Namespace="mmekit",
            MetricName=metric,
            Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
            StartTime=now - dt.timedelta(hours=1),
            EndTime=now + dt.timedelta(minutes=1),
            Period=3600,
            Statistics=["Sum"],
        )
        return sum(point["Sum"] for point in found["Datapoints"])

    requests = "mme_model_requests_total"
    service.wait_until(lambda: total(requests, Endpoint="shop") == 4, what="four requests")
    assert total(requests, Endpoint="shop", Model="ridge") == 3
    assert total(requests, Endpoint="shop", Model="forest") == 1
    assert total("mme_model_errors_total", Endpoint="shop", Model="ridge") == 1
    age = {"Endpoint": "shop", "Model": "ridge", "Column": "age"}
    assert total("mme_model_missing_values_total", **age) == 1
    assert total("mme_model_refused_columns_total", **age) == 1

    with urllib.request.urlopen(f"{service.url}/_mme/metrics") as answer:
        families = {one.name: one for one in text_string_to_metric_families(answer.read().decode())}
    of_models = {
        sample.labels["model"]: sample.value
        for sample in families["mme_model_requests"].samples
        if sample.labels["endpoint"] == endpoint
    }
    assert of_models == {"ridge": 3, "forest": 1}
    (missing,) = families["mme_model_missing_values"].samples
    assert (missing.labels["column"], missing.value) == ("age", 1)
    assert {one.name for one in families["mme_model_predict_seconds"].samples} == {
        "mme_model_predict_seconds_count",
        "mme_model_predict_seconds_sum",
    }


class Kept:
    """CloudWatch, as far as it is given metrics."""

    def __init__(self):
        self.found = []

    def put_metrics(self, _account, _region, namespace, observations):
        self.found += [(namespace, one) for one in observations]


def line(*, directive=None, at=None, **members):
    directive = {
        "Namespace": "own",
        "Dimensions": [["Shop"]],
        "Metrics": [{"Name": "sold", "Unit": "Count"}],
        **(directive or {}),
    }
    about = {"Timestamp": at or int(time.time() * 1000), "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": about, "Shop": "Oslo", "sold": 3, **members})


def taken(*lines):
    aws = Kept()
    shipper = LogShipper(EmbeddedMetrics(aws))
    take = shipper.sink(ENDPOINT, "v")
    for one in lines:
        take(one)
    shipper.flush()
    return aws.found


def test_a_line_of_a_model_s_own_becomes_a_metric_with_its_dimensions():
    ((namespace, found),) = taken("before", line(), "after")
    assert (namespace, found.name, found.unit) == ("own", "sold", "Count")
    assert found.dimensions == (("Shop", "Oslo"),)
    assert (found.count, found.total, found.least, found.most) == (1, 3, 3, 3)


def test_arrays_and_values_with_counts_are_distributions():
    counted = {"Values": [1, 5], "Counts": [2, 1], "Max": 5, "Min": 1, "Count": 3, "Sum": 7}
    (_, array), (_, object_) = taken(line(sold=[1, 1, 5]), line(sold=counted))
    assert (array.count, array.total, array.least, array.most) == (3, 7, 1, 5)
    assert array.values == object_.values
    assert (object_.count, object_.total) == (3, 7)


@pytest.mark.parametrize(
    "bad",
    [
        f"PyProcess model: {line()}",
        line()[:-1],
        line(directive={"Namespace": ""}),
        line(directive={"Dimensions": "Shop"}),
        line(directive={"Dimensions": [["Town"]]}),
        line(directive={"Metrics": [{"Name": "bought"}]}),
        line(directive={"Metrics": [{"Name": "sold", "Unit": "Pieces"}]}),
        line(Shop=7),
        line(sold="three"),
        line(sold=True),
        line(sold=10**400),
        line(directive={"Metrics": [{"Name": "sold", "Unit": ["Count"]}]}),
        line(sold=[]),
        line(sold={"Values": [1], "Counts": [1, 2]}),
        line(at=1),
        '{"_aws": 1}',
        "[" * 100_000 + '"_aws"',
    ],
)
def test_a_line_that_is_no_metric_stays_a_line(bad):
    assert taken(bad) == []
