"""CloudWatch's alarms, as a deployment looks at them."""

import datetime as dt
import types

import pytest
from moto.backends import get_backend

from mmekit_local.sagemaker.control.alarms import (
    DeploymentAlarms,
    unknown_alarms,
    unsupported_reason,
)

ACCOUNT, REGION = "123456789012", "us-east-1"


@pytest.fixture
def cloudwatch():
    """moto's records, with nothing in them."""
    backend = get_backend("cloudwatch")[ACCOUNT][REGION]
    backend.reset()
    return backend


def put_alarm(backend, **more):
    described = {
        "name": "a",
        "namespace": "N",
        "metric_name": "M",
        "metric_data_queries": None,
        "comparison_operator": "GreaterThanThreshold",
        "evaluation_periods": 3,
        "datapoints_to_alarm": None,
        "period": 60,
        "threshold": 10.0,
        "statistic": "Sum",
        "extended_statistic": None,
        "description": "",
        "dimensions": [{"Name": "D", "Value": "1"}],
        "alarm_actions": [],
        "ok_actions": [],
        "insufficient_data_actions": [],
        "unit": None,
        "actions_enabled": True,
        "treat_missing_data": None,
        "evaluate_low_sample_count_percentile": None,
        "threshold_metric_id": None,
        "rule": None,
        "tags": [],
    }
    return backend.put_metric_alarm(**described | more)


def put(backend, *values, dimension="1"):
    """Put a value for each of the last minutes, the latest first; None for a minute without."""
    now = dt.datetime.now(dt.timezone.utc)
    for minute, value in enumerate(values):
        if value is not None:
            datum = {
                "MetricName": "M",
                "Value": value,
                "Dimensions": [{"Name": "D", "Value": dimension}],
                "Timestamp": now - dt.timedelta(minutes=minute, seconds=5),
            }
            backend.put_metric_data("N", [datum])


def in_alarm(minute=60.0):
    return DeploymentAlarms(ACCOUNT, REGION, ["a", "gone"], minute).in_alarm()


@pytest.mark.parametrize(
    ("alarm", "values", "state"),
    [
        ({}, [11, 11, 11], "ALARM"),
        ({}, [11, 10, 11], "OK"),
        ({"datapoints_to_alarm": 2}, [11, 10, 11], "ALARM"),
        ({"datapoints_to_alarm": 2}, [11, None, None], "OK"),
        ({"datapoints_to_alarm": 2, "treat_missing_data": "breaching"}, [11, 1, None], "ALARM"),
        ({}, [], "INSUFFICIENT_DATA"),
        ({"treat_missing_data": "notBreaching"}, [], "OK"),
        ({"treat_missing_data": "breaching"}, [], "ALARM"),
        ({"comparison_operator": "LessThanOrEqualToThreshold"}, [10, 9, 8], "ALARM"),
        ({"statistic": "SampleCount", "threshold": 0.0}, [1, 1, 1], "ALARM"),
    ],
)
def test_a_metric_that_breaches_in_enough_periods_sets_it_off(cloudwatch, alarm, values, state):
    record = put_alarm(cloudwatch, **alarm)
    put(cloudwatch, *values)
    put(cloudwatch, 1000, 1000, 1000, dimension="another")
    assert in_alarm() == (["a"] if state == "ALARM" else [])
    assert record.state_value == state


def test_several_values_of_a_period_are_one(cloudwatch):
    put_alarm(cloudwatch, evaluation_periods=1, statistic="Average", threshold=4.0)
    put(cloudwatch, 1)
    statistics = {"SampleCount": 3, "Sum": 20, "Minimum": 1, "Maximum": 9}
    datum = {"MetricName": "M", "StatisticValues": statistics}
    cloudwatch.put_metric_data("N", [datum | {"Dimensions": [{"Name": "D", "Value": "1"}]}])
    assert in_alarm() == ["a"]  # 21 in 4


def test_a_percentile_is_that_of_the_values_and_a_clients_own_sets_have_none(cloudwatch):
    extended = {"statistic": None, "extended_statistic": "p50", "evaluation_periods": 1}
    put_alarm(cloudwatch, **extended)
    for value in (11, 12, 1):
        put(cloudwatch, value)
    statistics = {"SampleCount": 99, "Sum": 99, "Minimum": 0, "Maximum": 2}
    datum = {"MetricName": "M", "StatisticValues": statistics}
    cloudwatch.put_metric_data("N", [datum | {"Dimensions": [{"Name": "D", "Value": "1"}]}])
    assert in_alarm() == ["a"]
    put(cloudwatch, 1, dimension="1")
    put(cloudwatch, 1, dimension="1")
    assert in_alarm() == []


def test_it_is_over_when_the_metric_is_well_again_unless_it_was_set_by_hand(cloudwatch):
    record = put_alarm(cloudwatch, evaluation_periods=1)
    put(cloudwatch, 11)
    assert in_alarm() == ["a"]
    assert in_alarm(minute=0.001) == []  # a moment later, as it were
    record.update_state("by hand", "", "ALARM")
    assert in_alarm(minute=0.001) == ["a"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ""),
        ({"rule": "ALARM(b)"}, "composite"),
        ({"comparison_operator": "GreaterThanUpperThreshold"}, "comparison"),
        ({"statistic": None, "extended_statistic": "p99"}, ""),
        ({"metric_data_queries": [types.SimpleNamespace()]}, "several metrics"),
    ],
)
def test_what_is_not_evaluated_is_told(cloudwatch, more, words):
    put_alarm(cloudwatch, **more)
    assert unknown_alarms(ACCOUNT, REGION, ["a", "b"]) == ["b"]
    reason = unsupported_reason(ACCOUNT, REGION, "a")
    assert words in reason
    assert bool(words) == bool(reason)
