"""What an endpoint costs: instances by the hour, and serverless inference by the request."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit.deploy.account import Account

__all__ = [
    "HOURS_A_MONTH",
    "Cost",
    "LambdaPrice",
    "Price",
    "ServerlessPrice",
    "cost_of",
    "current_price_of",
    "lambda_price_of",
    "monthly_price_of",
    "price_of",
    "serverless_price_of",
]

HOURS_A_MONTH = 730
"""As AWS's own calculator has it."""
_HOUR_S = 3600
_PRICE_LIST = "us-east-1"  # has the prices of all regions of its partition
# A plan must not wait for a price: the one on file will do.
_PATIENCE = {"connect_timeout": 2, "read_timeout": 5, "retries": {"total_max_attempts": 2}}
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
            f"  price of {self.price.seen} by {self.price.source}",
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


def current_price_of(account: Account, instance_type: str) -> Price | None:
    """Return the price of an instance by AWS's price list; where it cannot be asked, that on file.

    Only an account of AWS's is asked, which needs the permission ``pricing:GetProducts``.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    hour = None
    if account.is_real and account.partition == "aws":
        settings = account.settings.model_copy(update={"region": _PRICE_LIST})
        try:
            client = settings.client("pricing", **_PATIENCE)
            hour = _hosting_hour(client, account.region, instance_type)
        except (BotoCoreError, ClientError):  # no permission, or no network
            hour = None
    if hour is None:
        return price_of(account.region, instance_type)
    return Price(hour, "AWS Price List", datetime.now(timezone.utc).date())


def _hosting_hour(client: Any, region: str, instance_type: str) -> Decimal | None:
    """Return US dollars an hour of an endpoint's instance; None where the list does not tell."""
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value}
        for field, value in (("regionCode", region), ("instanceName", instance_type))
    ]
    pages = client.get_paginator("get_products").paginate(
        ServiceCode="AmazonSageMaker", Filters=filters
    )
    # The same instance has other prices for notebooks, training and so on. `component` says it
    # too, but has had several spellings; a usage type such as USE1-Host:ml.m5.xlarge has one.
    hosting = re.compile(rf"(?:^|-)Host:{re.escape(instance_type)}$")
    found = {
        Decimal(dimension["pricePerUnit"]["USD"])
        for page in pages
        for product in map(json.loads, page["PriceList"])
        if hosting.search(product["product"]["attributes"].get("usagetype", ""))
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if "USD" in dimension["pricePerUnit"] and dimension["unit"] in ("Hrs", "Hour", "Hours")
    }
    return found.pop().normalize() if len(found) == 1 else None  # of two, none is certain


def cost_of(
    region: str,
    instance_type: str,
    *,
    instances: int,
    models: int,
    most: int = 0,
    account: Account | None = None,
) -> Cost:
    """Compute what an endpoint costs.

    Parameters
    ----------
    region, instance_type, instances, models
        What it is for.
    most
        How many instances autoscaling makes at most.
    account
        Where the current price is asked for; None takes that on file.

    Examples
    --------
    >>> cost = cost_of("us-east-1", "ml.m5.xlarge", instances=2, models=10)
    >>> cost.hour, cost.hour_of_single_endpoints
    (Decimal('0.46'), Decimal('2.30'))
    """
    if account is None:
        price = price_of(region, instance_type)
    else:
        price = current_price_of(account, instance_type)
    return Cost(region, instance_type, instances, models, max(most, instances), price)


@cache
def _prices() -> dict[tuple[str, str], Price]:
    content = _content()
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


def monthly_price_of(region: str, of: str) -> Decimal | None:
    """Return US dollars a month for what is paid by the month; None where none is on file.

    Parameters
    ----------
    of
        s3_gb, volume_gb, alarm or metric.

    Examples
    --------
    >>> monthly_price_of("us-east-1", "alarm")
    Decimal('0.10')
    """
    months: list[dict[str, Any]] = _content()["monthly"]
    found = next((one for one in months if one["region"] == region), {})
    price: Decimal | None = found.get(of)
    return price


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
    # 0.23 has no binary fraction: as a float it would be another price.
    content: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return content
