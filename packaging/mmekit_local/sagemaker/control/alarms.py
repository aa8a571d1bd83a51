"""CloudWatch's alarms, as a deployment watches them: moto keeps them, this looks at their metrics.

moto changes an alarm's state only when SetAlarmState does; here a metric that breaches does it,
too. Source: CloudWatch's user guide, "Using Amazon CloudWatch alarms": M out of N periods, and how
missing data is treated. Periods are counted back from now, and last as long as the minutes of the
deployment do.
"""

from __future__ import annotations

import json
import operator
import re
import sys
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from moto.backends import get_backend

from mmekit_local.sagemaker.observability.observations import percentile_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmekit_local.sagemaker.observability.observations import Distribution

__all__ = ["DeploymentAlarms", "unknown_alarms", "unsupported_reason"]

_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_STATISTICS = ("Average", "Sum", "Minimum", "Maximum", "SampleCount")
_PERCENTILE = re.compile(r"p(100|\d{1,2}(?:\.\d+)?)")
_OURS = "_mmekit_alarmed"
_MINUTE_S = 60.0


def unknown_alarms(account: str, region: str, names: Sequence[str]) -> list[str]:
    """Return which alarms are not there."""
    known = _known(account, region)
    return [name for name in names if name not in known]


def unsupported_reason(account: str, region: str, name: str) -> str:
    """Return why an alarm, which exists, cannot be watched here; "" for one that can."""
    alarm = _known(account, region)[name]
    if getattr(alarm, "rule", None):
        return "it is a composite alarm, and those are not evaluated here"
    if alarm.metric_data_queries:
        return "it computes from several metrics, which is not done here"
    if alarm.comparison_operator not in _COMPARED:
        return f"its comparison, {alarm.comparison_operator}, is not evaluated here"
    statistic = alarm.extended_statistic or alarm.statistic
    if statistic not in _STATISTICS and not _PERCENTILE.fullmatch(statistic or ""):
        return f"its statistic, {statistic}, is not evaluated here"
    return ""


class DeploymentAlarms:
    """Some alarms of an account and region, while something is watched by them.

    Parameters
    ----------
    account, region
        Whose they are.
    names
        What they are called; one that is gone is not looked at.
    minute
        How many seconds a minute of their periods lasts.
    """

    def __init__(self, account: str, region: str, names: Sequence[str], minute: float) -> None:
        self._account = account
        self._region = region
        self._names = names
        self._scale = minute / _MINUTE_S

    def in_alarm(self) -> list[str]:
        """Bring the alarms up to date, and return the names of those in the state ALARM."""
        known = _known(self._account, self._region)
        alarms = [known[name] for name in self._names if name in known]
        for alarm in alarms:
            self._evaluate(alarm)
        return [alarm.name for alarm in alarms if alarm.state_value == "ALARM"]

    def _evaluate(self, alarm: Any) -> None:
        state = self._state(alarm)
        if state == "ALARM" and alarm.state_value != "ALARM":
            setattr(alarm, _OURS, True)
        elif state == "ALARM" or (alarm.state_value == "ALARM" and not hasattr(alarm, _OURS)):
            return  # nothing new; or whoever has set it by hand takes it back by hand
        elif hasattr(alarm, _OURS):
            delattr(alarm, _OURS)
        if state != alarm.state_value:
            reason = f"Threshold {alarm.threshold:g} is {alarm.comparison_operator} of the metric."
            statistic = alarm.extended_statistic or alarm.statistic
            data = json.dumps({"threshold": alarm.threshold, "statistic": statistic})
            alarm.update_state(reason, data, state)

    def _state(self, alarm: Any) -> str:
        periods = int(alarm.evaluation_periods or 1)
        needed = int(alarm.datapoints_to_alarm or periods)
        values = self._values(alarm, periods)
        if all(value is None for value in values):
            nothing = {"breaching": "ALARM", "notBreaching": "OK", "ignore": alarm.state_value}
            return str(nothing.get(alarm.treat_missing_data, "INSUFFICIENT_DATA"))
        breaches = _COMPARED[alarm.comparison_operator]
        found = sum(
            alarm.treat_missing_data == "breaching"
            if value is None
            else breaches(value, float(alarm.threshold))
            for value in values
        )
        return "ALARM" if found >= needed else "OK"

    def _values(self, alarm: Any, periods: int) -> list[float | None]:
        """Return the statistic of the last periods, the latest first; None where there is none."""
        backend = get_backend("cloudwatch")[self._account][self._region]
        period = timedelta(seconds=float(alarm.period or _MINUTE_S) * self._scale)
        now = datetime.now(timezone.utc)
        wanted = {(one.name, one.value) for one in alarm.dimensions}
        found: list[list[Any]] = [[] for _ in range(periods)]
        for datum in reversed(list(backend.metric_data)):
            if datum.name != alarm.metric_name or datum.namespace != alarm.namespace:
                continue
            place = int((now - _aware(datum.timestamp)) / period)
            if 0 <= place < periods:
                dimensions = {(one.name, one.value) for one in datum.dimensions}
                if dimensions == wanted:
                    found[place].append(datum)
        name = alarm.extended_statistic or alarm.statistic
        return [_statistic(name, data) for data in found]


def _known(account: str, region: str) -> dict[str, Any]:
    if "moto.cloudwatch.models" not in sys.modules:  # nobody has asked for it yet
        return {}
    alarms: dict[str, Any] = get_backend("cloudwatch")[account][region].alarms
    return alarms


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)  # moto is naive


def _statistic(name: str, data: Sequence[Any]) -> float | None:
    """Return a statistic of moto's data, each of which is a value or several summed up."""
    percentile = _PERCENTILE.fullmatch(name)
    if percentile:
        # As on AWS, a client's own statistic sets have none: nobody knows their values.
        known = [_distribution(one) for one in data]
        values = sum((one for one in known if one is not None), Counter[float]())
        return percentile_of(values, float(percentile[1])) if values else None
    summed = [
        (one.sample_count, one.sum, one.min, one.max)
        if hasattr(one, "sample_count")
        else (1.0, one.value, one.value, one.value)
        for one in data
    ]
    if not summed:
        return None
    count, total = sum(one[0] for one in summed), sum(one[1] for one in summed)
    found: dict[str, float] = {
        "SampleCount": count,
        "Sum": total,
        "Average": total / count if count else 0.0,
        "Minimum": min(one[2] for one in summed),
        "Maximum": max(one[3] for one in summed),
    }
    return found[name]


def _distribution(datum: Any) -> Distribution | None:
    """Return the single values of moto's datum; None of sums that nobody knows the values of."""
    if not hasattr(datum, "sample_count"):
        return Counter([float(datum.value)])
    values: Distribution | None = getattr(datum, "values", None)
    if values is None and datum.min == datum.max:
        return Counter({float(datum.min): int(datum.sample_count)})
    return values
