"""What a bill says beside the instances: storage, alarms, metrics; and what cannot be foretold."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from mmekit.archive.files import size_text
from mmekit.deploy.cost import HOURS_A_MONTH, monthly_price_of

if TYPE_CHECKING:
    from mmekit.deploy.cost import Cost

__all__ = ["Bill", "Charge", "bill_of"]

_GIB = 1 << 30
_CENT = Decimal("0.01")
# The families that the runtime publishes; those of inputs (drift) are as many as there are columns.
_FAMILIES = 11
_FIRST_METRICS = 10_000  # have the first price
_BESIDES = "logs by the GB, requests to S3, traffic, tax"


@dataclass(frozen=True)
class Charge:
    """A line of a bill.

    Attributes
    ----------
    what
        Such as 4 alarms.
    month
        US dollars; None where the price is not known.
    """

    what: str
    month: Decimal | None

    def __str__(self) -> str:
        """Say it."""
        if self.month is None:
            return f"{self.what}: price unknown"
        if 0 < self.month < _CENT:
            return f"{self.what}: less than 0.01 USD"
        return f"{self.what}: {self.month.quantize(_CENT)} USD"


@dataclass(frozen=True)
class Bill:
    """What a deployment costs.

    Attributes
    ----------
    cost
        Of the instances.
    charges
        Besides, by the month.
    besides
        What is in no figure.
    """

    cost: Cost
    charges: tuple[Charge, ...]
    besides: str = _BESIDES

    @property
    def month(self) -> Decimal | None:
        """Return US dollars a month of 730 hours; None while a price is not known."""
        hour = self.cost.hour
        charged = [charge.month for charge in self.charges]
        if hour is None or None in charged:
            return None
        return hour * HOURS_A_MONTH + sum((one for one in charged if one is not None), Decimal(0))

    def lines(self) -> list[str]:
        """Return it as text."""
        lines = self.cost.lines()
        if self.cost.hour is not None:
            month = (self.cost.hour * HOURS_A_MONTH).quantize(_CENT)
            lines.append(f"  a month of {HOURS_A_MONTH} hours: {month} USD for the instances")
        if self.charges:
            lines.append("besides, a month:")
            lines += [f"  {charge}" for charge in self.charges]
        if self.month is not None:
            lines.append(f"in all: {self.month.quantize(_CENT)} USD a month")
        lines.append(f"  in no figure: {self.besides}")
        return lines


def bill_of(
    cost: Cost,
    *,
    stored_bytes: int,
    volume_gb: int | None,
    alarms: int,
    metrics: str,
) -> Bill:
    """Add up what is paid for by the month.

    Parameters
    ----------
    cost
        Of the instances.
    stored_bytes
        What is in S3.
    volume_gb
        The size of each instance's disk; None for what SageMaker gives it.
    alarms
        How many there are.
    metrics
        none, endpoint or models: what the containers publish.

    Examples
    --------
    >>> from mmekit.deploy.cost import cost_of
    >>> cost = cost_of("us-east-1", "ml.m5.xlarge", instances=1, models=2)
    >>> bill = bill_of(cost, stored_bytes=0, volume_gb=None, alarms=4, metrics="none")
    >>> bill.month
    Decimal('168.30')
    """
    region = cost.region

    def charge(what: str, of: str, quantity: Decimal) -> Charge:
        price = monthly_price_of(region, of)
        return Charge(what, None if price is None else price * quantity)

    charges = []
    if stored_bytes:
        stored = Decimal(stored_bytes) / _GIB
        charges.append(charge(f"{size_text(stored_bytes)} in S3", "s3_gb", stored))
    if volume_gb is not None:
        size = Decimal(volume_gb * cost.instances)
        charges.append(charge(f"{size} GB of instances' disks", "volume_gb", size))
    if alarms:
        many = "alarm" if alarms == 1 else "alarms"
        charges.append(charge(f"{alarms} {many}", "alarm", Decimal(alarms)))
    if metrics != "none":
        # Those of the endpoint are there as well.
        charges.append(_of_metrics(region, 1 + (cost.models if metrics == "models" else 0)))
    besides = _BESIDES
    if metrics == "models":
        besides = f"metrics of columns (drift), {besides}"
    if volume_gb is None:
        besides = f"the disks that SageMaker gives instances, {besides}"
    return Bill(cost, tuple(charges), besides)


def _of_metrics(region: str, each: int) -> Charge:
    count = _FAMILIES * each
    what = f"{count:,} custom metrics, when every model is asked all month"
    price = monthly_price_of(region, "metric")
    # Beyond the first ten thousand they are cheaper: that is no price on file.
    known = price is not None and count <= _FIRST_METRICS
    return Charge(what, price * count if known and price is not None else None)
