"""What CloudWatch has of an endpoint: lines of its log, and sums of its metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from mmekit.deploy.account import VARIANT
from mmekit.operate import LineReader
from mmekit.smoke.models import SAID
from mmekit.smoke.report import ServerTime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit.deploy import Site

__all__ = [
    "LoadLine",
    "MetricSum",
    "SmokeLog",
    "metric_sum",
    "read_log",
    "server_times",
]

_LOADED = re.compile(
    rf"{re.escape(SAID)} (?P<name>[\w-]+) in (?P<kind>a slot|a plain engine), "
    r"process (?P<process>\d+), (?:body (?P<body>\d+)|library)"
)
_SLOT = re.compile(r"INFO::mmekit: (?:worker slot: |the model's layers are here).*")
_COMPLAINT = re.compile(r"(?:(?:WARN|ERROR)::mmekit: |INFO::mmekit: plain engine).*")
_PERIOD_S = 60
_US_PER_MS = 1000.0
_INVOCATIONS = "AWS/SageMaker"
_INSTANCES = "/aws/sagemaker/Endpoints"
_TIMES = (
    "ModelDownloadingTime",
    "ModelLoadingTime",
    "ModelLoadingWaitTime",
    "ModelLatency",
    "OverheadLatency",
)


@dataclass(frozen=True)
class LoadLine:
    """What a model has said when it was loaded.

    Attributes
    ----------
    name
        The model's.
    in_slot
        Whether worker slots serve it.
    process
        Its process.
    body
        The process that loaded its body; None for a model without.
    """

    name: str
    in_slot: bool
    process: int
    body: int | None

    def __str__(self) -> str:
        """Say it as the model has."""
        kind = "a slot" if self.in_slot else "a plain engine"
        of_body = "" if self.body is None else f", body {self.body}"
        return f"{SAID} {self.name} in {kind}, process {self.process}{of_body}"


@dataclass(frozen=True)
class SmokeLog:
    """What the log of an endpoint says of its models.

    Attributes
    ----------
    loads
        The latest line of each model.
    slots
        What worker slots and layers say of themselves.
    complaints
        What mmekit says there that is not as it should be.
    """

    loads: tuple[LoadLine, ...] = ()
    slots: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return it as text."""
        return (*map(str, self.loads), *self.slots, *self.complaints)

    @classmethod
    def of(cls, messages: Iterable[str]) -> SmokeLog:
        """Read lines, in whatever the server has wrapped them.

        Examples
        --------
        >>> line = "INFO PyProcess W-1 stdout: mme smoke: one in a slot, process 12, body 9"
        >>> SmokeLog.of([line]).loads
        (LoadLine(name='one', in_slot=True, process=12, body=9),)
        """
        loads: dict[str, LoadLine] = {}
        slots: dict[str, None] = {}
        complaints: dict[str, None] = {}
        for message in messages:
            if found := _LOADED.search(message):
                body = found["body"]
                loads[found["name"]] = LoadLine(
                    found["name"],
                    found["kind"] == "a slot",
                    int(found["process"]),
                    None if body is None else int(body),
                )
            elif found := _SLOT.search(message):
                slots[found[0]] = None
            elif found := _COMPLAINT.search(message):
                complaints[found[0]] = None
        return cls(tuple(loads.values()), tuple(slots), tuple(complaints))


@dataclass(frozen=True)
class MetricSum:
    """What CloudWatch has of a metric: how many values, their sum, the largest."""

    count: float = 0.0
    sum: float = 0.0
    most: float = 0.0


def read_log(site: Site) -> SmokeLog:
    """Read all that there is of the endpoint's log; nothing where there is none yet."""
    lines = LineReader(site.account.settings, site.name, 0).read()
    return SmokeLog.of(line.text for line in lines)


def metric_sum(
    site: Site, metric: str, since: datetime, *, of_instances: bool = False
) -> MetricSum:
    """Return what CloudWatch has of a metric of the endpoint by now."""
    points = _points(site, metric, since, of_instances=of_instances)
    return MetricSum(
        sum(one["SampleCount"] for one in points),
        sum(one["Sum"] for one in points),
        max((one["Maximum"] for one in points), default=0.0),
    )


def server_times(site: Site, since: datetime) -> tuple[ServerTime, ...]:
    """Return the times that CloudWatch has of the endpoint's calls and loads."""
    found = ((name, metric_sum(site, name, since)) for name in _TIMES)
    return tuple(
        ServerTime(name, one.sum / one.count / _US_PER_MS, one.most / _US_PER_MS, round(one.count))
        for name, one in found
        if one.count
    )


def _points(
    site: Site, metric: str, since: datetime, *, of_instances: bool
) -> list[dict[str, Any]]:
    now = datetime.now(timezone.utc)
    answer = site.account.client("cloudwatch").get_metric_statistics(
        Namespace=_INSTANCES if of_instances else _INVOCATIONS,
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": site.name},
            {"Name": "VariantName", "Value": VARIANT},
        ],
        StartTime=since - timedelta(seconds=_PERIOD_S),
        EndTime=now + timedelta(seconds=_PERIOD_S),
        Period=_PERIOD_S,
        Statistics=["SampleCount", "Sum", "Maximum"],
    )
    points: list[dict[str, Any]] = answer["Datapoints"]
    return points
