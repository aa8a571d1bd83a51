"""What a plan leads to, beside its steps: how many models fit, what is stored, what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.deploy.alarms import alarm_names
from mmekit.deploy.bill import bill_of
from mmekit.deploy.capacity import capacity_of
from mmekit.deploy.cost import cost_of
from mmekit.deploy.storage import storage_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.deploy.account import Site
    from mmekit.deploy.bill import Bill
    from mmekit.deploy.capacity import Capacity
    from mmekit.deploy.models import PackedModel
    from mmekit.deploy.storage import Storage

__all__ = ["Forecast", "forecast_of"]


@dataclass(frozen=True)
class Forecast:
    """What a deployment will be.

    Attributes
    ----------
    capacity, storage, bill
        How many of its models are in memory at once, what S3 has of them, what it costs.
    is_free
        Whether nobody asks for that, as on the local service.
    """

    capacity: Capacity
    storage: Storage
    bill: Bill
    is_free: bool

    def lines(self) -> list[str]:
        """Return it as text."""
        free = ["  on the local service it is free"] if self.is_free else []
        return [*self.capacity.lines(), *self.storage.lines(), *self.bill.lines(), *free]


def forecast_of(
    site: Site, models: Sequence[PackedModel], *, kept_bytes: int = 0, current: int = 0
) -> Forecast:
    """Reckon what the file will lead to.

    Parameters
    ----------
    models
        The file's.
    kept_bytes
        What is in S3 besides, such as older versions.
    current
        How many models are current by then, if they are more than those of the file.

    Raises
    ------
    DeployError
        A model does not fit even alone.
    """
    deployment = site.deployment
    scaling = deployment.autoscaling
    storage = storage_of(site, models)
    cost = cost_of(
        site.account.region,
        deployment.instance_type,
        instances=deployment.first_instances,
        models=max(len(models), current),
        most=scaling.maximum if scaling else 0,
        account=site.account,
    )
    bill = bill_of(
        cost,
        stored_bytes=storage.archive_bytes + storage.layer_bytes + kept_bytes,
        volume_gb=deployment.volume_gb,
        alarms=0 if deployment.alarms is None else len(alarm_names(site)),
        metrics=deployment.metrics,
    )
    capacity = capacity_of(deployment.instance_type, models, volume_gb=deployment.volume_gb)
    return Forecast(capacity, storage, bill, not site.account.is_real)
