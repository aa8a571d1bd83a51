"""CloudWatch's percentiles, beside numpy's of the same values."""

import datetime as dt
from collections import Counter

import numpy as np
import pytest
from botocore.exceptions import ClientError
from moto.backends import get_backend

from mmekit_local.aws.moto.aws import Aws
from mmekit_local.aws.moto.cloudwatch import extended_statistic
from mmekit_local.sagemaker.observability.metrics import INVOCATIONS, Metrics
from mmekit_local.sagemaker.observability.observations import condensed
from mmekit_local.sagemaker.specification import EndpointId

NOW = dt.datetime.now(dt.timezone.utc)
SPAN = {"StartTime": NOW - dt.timedelta(hours=1), "EndTime": NOW + dt.timedelta(hours=1)}
ASKED = ["p0", "p10", "p50", "p90", "p99", "p99.9", "p100"]


def of_numpy(values, name):
    return np.percentile(values, float(name[1:]))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("name", ASKED)
def test_a_percentile_is_numpys(count, name):
    values = np.random.default_rng(count).lognormal(9, 1, count).round(1).tolist()
    values += values[: count // 3]  # some are there twice
    assert extended_statistic(name)(condensed(values)) == pytest.approx(of_numpy(values, name))


def test_a_hundred_thousand_values_take_little_room_and_are_right_to_a_thousandth():
    values = np.random.default_rng(1).lognormal(9, 1, 100_000)
    kept = condensed(values.tolist())
    assert len(kept) < 30_000
    assert sum(kept.values()) == len(values)
    for name in ASKED:
        assert extended_statistic(name)(kept) == pytest.approx(of_numpy(values, name), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tm90", 5.0),
        ("TM(10%:90%)", 5.5),
        ("tm(2:4)", 3.5),
        ("IQM", 5.5),
        ("tc(8:10)", 2.0),
        ("TC(80%:)", 2.0),
        ("ts(:3)", 6.0),
        ("PR(:3)", 30.0),
        ("PR(3:5)", 20.0),
        ("wm(3:8)", 5.5),
    ],
)
def test_trimmed_and_winsorised_statistics_look_between_their_bounds(name, value):
    values = Counter(float(one) for one in range(1, 11))
    assert extended_statistic(name)(values) == pytest.approx(value)


@pytest.mark.parametrize(
    "name", ["p", "p101", "p-1", "P99.x", "Median", "tm", "tm(1)", "pr90", "tm(5:1)", "", "tm(:)"]
)
def test_a_name_that_is_no_statistic_is_none(name):
    assert extended_statistic(name) is None


def request(name="ModelLatency", endpoint="measured", **more):
    dimensions = [
        {"Name": "EndpointName", "Value": endpoint},
        {"Name": "VariantName", "Value": "v"},
    ]
    return {"Namespace": INVOCATIONS, "MetricName": name, "Dimensions": dimensions, **more}


def test_the_percentiles_of_an_endpoint_are_those_of_its_invocations():
    """The values are chosen, and everything from the record of them on is the service's own."""
    metrics = Metrics(Aws())
    recorded = metrics.variant(EndpointId("123456789012", "us-east-1", "chosen"), "v")
    values = np.random.default_rng(2).lognormal(9, 1, 2000)
    for place, value in enumerate(values):
        recorded.invoked(200, value, value + 100, by_model=True)
        if place == 700:  # two batches of one minute
            metrics.flush()
    metrics.flush()
    backend = get_backend("cloudwatch")["123456789012"]["us-east-1"]
    asked = request(endpoint="chosen")
    points = backend.get_metric_statistics(
        asked["Namespace"],
        asked["MetricName"],
        SPAN["StartTime"].replace(tzinfo=None),
        SPAN["EndTime"].replace(tzinfo=None),
        7200,
        ["p50", "p99"],
        asked["Dimensions"],
    )
    found = points[0].extended_statistics
    assert found == {name: pytest.approx(of_numpy(values, name)) for name in ("p50", "p99")}


@pytest.fixture(scope="module")
def cloudwatch(service):
    """CloudWatch, after some invocations of an endpoint."""
    service.put("a.tar.gz", service.echo_archive())
    service.describe_models("measured")
    model = {"VariantName": "v", "ModelName": "measured", "InstanceType": "ml.m5.large"}
    service.client("sagemaker").create_endpoint_config(
        EndpointConfigName="v", ProductionVariants=[model | {"InitialInstanceCount": 1}]
    )
    service.client("sagemaker").create_endpoint(EndpointName="measured", EndpointConfigName="v")
    service.wait_for("endpoint_in_service", "measured")
    for _ in range(20):
        service.invoke("measured", "a.tar.gz")
    return service.client("cloudwatch")


def statistics(cloudwatch, **more):
    [point] = cloudwatch.get_metric_statistics(**request(**more), **SPAN, Period=7200)["Datapoints"]
    return point


@pytest.mark.parametrize("name", ["ModelLatency", "OverheadLatency"])
def test_a_client_gets_percentiles_of_the_latencies_both_ways(cloudwatch, name):
    usual = statistics(cloudwatch, name=name, Statistics=["Minimum", "Maximum", "SampleCount"])
    asked = ["p0", "p50", "p99", "p99.9", "p100", "tm99"]
    point = statistics(cloudwatch, name=name, ExtendedStatistics=asked)
    assert usual["SampleCount"] == 20
    found = point["ExtendedStatistics"]
    assert list(found) == asked
    assert found["p0"] == pytest.approx(usual["Minimum"])
    assert found["p100"] == pytest.approx(usual["Maximum"])
    assert found["p0"] < found["p50"] < found["p99"] < found["p99.9"] < found["p100"]
    queries = [
        {
            "Id": f"q{place}",
            "MetricStat": {"Metric": request(name), "Period": 7200, "Stat": one},
        }
        for place, one in enumerate(asked)
    ]
    results = cloudwatch.get_metric_data(MetricDataQueries=queries, **SPAN)["MetricDataResults"]
    assert [one["Values"] for one in results] == [[pytest.approx(found[one])] for one in asked]


def test_a_metric_without_values_has_no_percentile(cloudwatch):
    query = {
        "Id": "q",
        "MetricStat": {"Metric": request("NothingAtAll"), "Period": 60, "Stat": "p99"},
    }
    [result] = cloudwatch.get_metric_data(MetricDataQueries=[query], **SPAN)["MetricDataResults"]
    assert (result["Values"], result["Timestamps"]) == ([], [])


def test_a_clients_own_values_have_percentiles_and_its_sums_have_none(cloudwatch):
    own = {"Namespace": "Own", "MetricName": "values"}
    for value in (1.0, 2.0, 3.0, 4.0):
        cloudwatch.put_metric_data(
            Namespace="Own", MetricData=[{"MetricName": "values", "Value": value}]
        )
    asked = {**SPAN, "Period": 7200, "ExtendedStatistics": ["p50"]}
    [point] = cloudwatch.get_metric_statistics(**own, **asked)["Datapoints"]
    assert point["ExtendedStatistics"] == {"p50": 2.5}
    sums = {"SampleCount": 2, "Sum": 5, "Minimum": 1, "Maximum": 4}
    cloudwatch.put_metric_data(
        Namespace="Own", MetricData=[{"MetricName": "sums", "StatisticValues": sums}]
    )
    own["MetricName"] = "sums"
    assert cloudwatch.get_metric_statistics(**own, **asked)["Datapoints"] == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"ExtendedStatistics": ["p101"]}, "InvalidParameterValue"),
        ({"ExtendedStatistics": ["p50"], "Statistics": ["Sum"]}, "InvalidParameterCombination"),
        ({}, "InvalidParameterCombination"),
    ],
)
def test_statistics_that_there_are_not_are_refused(cloudwatch, more, code):
    with pytest.raises(ClientError) as raised:
        statistics(cloudwatch, **more)
    assert raised.value.response["Error"]["Code"] == code


def test_a_query_of_a_statistic_that_there_is_not_is_refused(cloudwatch):
    query = {"Id": "q", "MetricStat": {"Metric": request(), "Period": 60, "Stat": "p101"}}
    with pytest.raises(ClientError, match="p101") as raised:
        cloudwatch.get_metric_data(MetricDataQueries=[query], **SPAN)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize("expression", ["q / 2", "SELECT SUM(Invocations) FROM SCHEMA(X)"])
def test_an_expression_that_nobody_computes_is_refused(cloudwatch, expression):
    stat = {"Metric": request(), "Period": 60, "Stat": "Sum"}
    queries = [
        {"Id": "q", "MetricStat": stat},
        {"Id": "e", "Expression": expression, "Period": 60},
    ]
    with pytest.raises(ClientError, match="is not computed on this machine") as raised:
        cloudwatch.get_metric_data(MetricDataQueries=queries, **SPAN)
    assert raised.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_a_metric_of_another_namespace_is_another_metric(cloudwatch):
    dimensions = request()["Dimensions"]
    for namespace, value in (("One", 1.0), ("Two", 2.0)):
        cloudwatch.put_metric_data(
            Namespace=namespace,
            MetricData=[{"MetricName": "m", "Value": value, "Dimensions": dimensions}],
        )
    metric = {"Namespace": "One", "MetricName": "m", "Dimensions": dimensions}
    query = {"Id": "q", "MetricStat": {"Metric": metric, "Period": 7200, "Stat": "Sum"}}
    [result] = cloudwatch.get_metric_data(MetricDataQueries=[query], **SPAN)["MetricDataResults"]
    assert result["Values"] == [1.0]
