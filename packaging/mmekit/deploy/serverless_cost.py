"""What serverless inference costs, and from how many requests on an instance costs less.

A serverless endpoint costs its memory times the time that it works, and nothing while nobody asks;
an instance costs the same whether anybody asks or not. Source of the model: AWS's "Amazon SageMaker
AI pricing", on-demand serverless inference. Data that comes and goes costs the same for both and is
left out, as is the Lambda function in between, of which `lambda_price_of` knows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["LambdaPrice", "ServerlessPrice", "lambda_price_of", "serverless_price_of"]

_HOUR_S = 3600
_MIB_PER_GIB = 1024


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
