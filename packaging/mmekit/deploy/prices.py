"""What an endpoint costs an hour: the published prices that are known here, with their sources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files

__all__ = ["Cost", "Price", "cost_of", "price_of"]


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
