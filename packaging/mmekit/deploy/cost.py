"""What an endpoint costs: instances by the hour, and serverless inference by the request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = [
    "Cost",
    "LambdaPrice",
    "Price",
    "ServerlessPrice",
    "cost_of",
    "lambda_price_of",
    "price_of",
    "serverless_price_of",
]

_HOUR_S = 3600
_MIB_PER_GIB = 1024


@dataclass(frozen=True)
class Price:
    """The published price of one instance of an endpoint.

    Attributes
    ----------
    hour
        US dollars an hour, on demand, without tax.
    source
        Who published it.
    seen
        The day on which it was so.
    """

    hour: Decimal
    source: str
    seen: date


@dataclass(frozen=True)
class Cost:
    """What an endpoint costs, and what single-model endpoints would.

    Attributes
    ----------
    region, instance_type, instances, models
        What the figures are for.
    most
        How many instances autoscaling makes of them at most.
    price
        Of one instance; None for one that is not known.
    """

    region: str
    instance_type: str
    instances: int
    models: int
    most: int
    price: Price | None

    @property
    def hour(self) -> Decimal | None:
        """Return US dollars an hour; None when the price is not known."""
        return None if self.price is None else self.price.hour * self.instances

    @property
    def hour_of_single_endpoints(self) -> Decimal | None:
        """Return the same for an endpoint a model, each on one such instance."""
        return None if self.price is None else self.price.hour * self.models

    def lines(self) -> list[str]:
        """Return it as text."""
        where = f"{self.instance_type} in {self.region}"
        if self.price is None:
            return [
                (
                    f"cost: unknown, no published price of {where} is on file; "
                    "https://aws.amazon.com/sagemaker/pricing/ has it"
                )
            ]
        many = "instance" if self.instances == 1 else "instances"
        singles = "endpoint" if self.models == 1 else "endpoints"
        scaled = ""
        if self.most > self.instances:
            scaled = f"; up to {self.price.hour * self.most} when scaled out to {self.most}"
        return [
            f"cost: {self.hour} USD an hour for {self.instances} {many} ({where}){scaled}",
            (
                f"  {self.models} single-model {singles} on one such instance each would cost "
                f"{self.hour_of_single_endpoints} USD an hour"
            ),
            f"  by {self.price.source}, seen on {self.price.seen}",
        ]


def price_of(region: str, instance_type: str) -> Price | None:
    """Return the price of an instance; None for one that is not on file.

    Examples
    --------
    >>> price_of("us-east-1", "ml.m5.xlarge").hour
    Decimal('0.23')
    >>> price_of("us-east-1", "ml.no.such") is None
    True
    """
    return _prices().get((region, instance_type))


def cost_of(region: str, instance_type: str, *, instances: int, models: int, most: int = 0) -> Cost:
    """Reckon what an endpoint costs; `most` is how many instances autoscaling makes at most.

    Examples
    --------
    >>> cost = cost_of("us-east-1", "ml.m5.xlarge", instances=2, models=10)
    >>> cost.hour, cost.hour_of_single_endpoints
    (Decimal('0.46'), Decimal('2.30'))
    """
    price = price_of(region, instance_type)
    return Cost(region, instance_type, instances, models, max(most, instances), price)


@cache
def _prices() -> dict[tuple[str, str], Price]:
    content = json.loads(
        files(__package__).joinpath("prices.json").read_text("utf-8"), parse_float=Decimal
    )
    return {
        (one["region"], one["instance_type"]): Price(
            one["hour"], content["sources"][one["source"]]["name"], date.fromisoformat(one["date"])
        )
        for one in content["prices"]
    }


@dataclass(frozen=True)
class ServerlessPrice:
    """The published price of serverless inference in a region.

    Attributes
    ----------
    gib_second
        US dollars for a gibibyte of memory, a second, on demand, without tax.
    source
        Who published it.
    seen
        The day on which it was so.
    """

    gib_second: Decimal
    source: str
    seen: date

    def request(self, seconds: float, memory_mb: int) -> Decimal:
        """Return US dollars for a request.

        Parameters
        ----------
        seconds
            That the endpoint works on it.
        memory_mb
            MemorySizeInMB of the endpoint, 1024 to 6144.

        Examples
        --------
        >>> serverless_price_of("us-east-1").request(1, 3072)
        Decimal('0.00006')
        """
        memory = Decimal(memory_mb) / _MIB_PER_GIB
        return (self.gib_second * memory * Decimal(str(seconds))).normalize()

    def break_even(self, instance_hour: Decimal, seconds: float, memory_mb: int) -> float:
        """Return from how many requests an hour on an instance costs less.

        Whether the instance can serve so many is another question.

        Examples
        --------
        >>> serverless_price_of("us-east-1").break_even(Decimal("0.23"), 0.1, 3072)
        38333.333333333336
        """
        return float(instance_hour / self.request(seconds, memory_mb))

    def busy_share(self, instance_hour: Decimal, memory_mb: int) -> float:
        """Return how many requests have to be worked on at any moment for an instance to cost less.

        Examples
        --------
        >>> round(serverless_price_of("us-east-1").busy_share(Decimal("0.23"), 3072), 2)
        1.06
        """
        return self.break_even(instance_hour, 1, memory_mb) / _HOUR_S


@dataclass(frozen=True)
class LambdaPrice:
    """The published price of Lambda functions (x86, without free tier) in a region.

    Attributes
    ----------
    call
        US dollars for an invocation.
    gib_second
        US dollars for a gibibyte of memory, a second.
    source, seen
        As of `ServerlessPrice`.
    """

    call: Decimal
    gib_second: Decimal
    source: str
    seen: date

    def request(self, seconds: float, memory_mb: int) -> Decimal:
        """Return US dollars for an invocation that takes so long, waiting included."""
        memory = Decimal(memory_mb) / _MIB_PER_GIB
        return self.call + self.gib_second * memory * Decimal(str(seconds))


def serverless_price_of(region: str) -> ServerlessPrice | None:
    """Return the price of serverless inference; None for a region that is not on file."""
    found = _entry("serverless", region)
    if found is None:
        return None
    return ServerlessPrice(found["gib_second"], found["source"], found["date"])


def lambda_price_of(region: str) -> LambdaPrice | None:
    """Return the price of Lambda functions; None for a region that is not on file.

    Examples
    --------
    >>> lambda_price_of("us-east-1").request(2, 512)
    Decimal('0.00001686670')
    """
    found = _entry("lambda", region)
    if found is None:
        return None
    return LambdaPrice(found["request"], found["gib_second"], found["source"], found["date"])


def _entry(kind: str, region: str) -> dict[str, Any] | None:
    content = _content()
    for one in content[kind]:
        if one["region"] == region:
            source = content["sources"][one["source"]]["name"]
            return {**one, "source": source, "date": date.fromisoformat(one["date"])}
    return None


@cache
def _content() -> dict[str, Any]:
    text = files(__package__).joinpath("prices.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return content
