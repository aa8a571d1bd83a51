"""The status of a deployment: endpoint, instances, models, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.deploy.cost import cost_of
from mmekit.deploy.endpoint import endpoint_state
from mmekit.deploy.models import stored_archives

if TYPE_CHECKING:
    from mmekit.deploy.account import Site
    from mmekit.deploy.cost import Cost
    from mmekit.deploy.endpoint import EndpointState
    from mmekit.deploy.models import StoredArchive

__all__ = ["Status", "status_of"]


@dataclass(frozen=True)
class Status:
    """A deployment as it is now.

    Attributes
    ----------
    name
        The endpoint's.
    place
        The account and region.
    data_url
        Where the models are.
    endpoint
        None when there is none.
    models
        What is under the prefix, whoever uploaded it.
    cost
        None without an endpoint.
    """

    name: str
    place: str
    data_url: str
    endpoint: EndpointState | None
    models: tuple[StoredArchive, ...]
    cost: Cost | None

    def lines(self) -> list[str]:
        """Return it as text."""
        lines = [f"{self.name} on {self.place}"]
        if self.endpoint is None:
            lines.append("endpoint: none")
        else:
            one = self.endpoint
            made = "" if one.owner == self.name else ", not made by this deployment"
            lines.append(f"endpoint: {one.status}{made}")
            if one.failure:
                lines.append(f"  {one.failure}")
            lines.append(f"  endpoint config {one.config}")
            lines.append(
                f"instances: {one.instances} of {one.desired_instances} "
                f"({one.instance_type or 'type unknown'})"
            )
        lines.append(f"models: {len(self.models)} under {self.data_url}")
        for model in self.models:
            uploaded = "" if model.owner == self.name else ", not uploaded by this deployment"
            digest = (model.sha256 or "hash unknown")[:12]
            lines.append(f"  {model.key}  {model.size / 2**20:.1f} MiB  {digest}{uploaded}")
        return lines + ([] if self.cost is None else self.cost.lines())


def status_of(site: Site) -> Status:
    """Look everything up."""
    endpoint, models = endpoint_state(site), stored_archives(site)
    cost = None
    if endpoint is not None and endpoint.instance_type is not None:
        cost = cost_of(
            site.account.region,
            endpoint.instance_type,
            instances=endpoint.desired_instances,
            models=len(models),
            account=site.account,
        )
    return Status(site.name, str(site.account), site.data_url, endpoint, models, cost)
