"""The status of a deployment: endpoint, instances, models, layers, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.deploy.cost import cost_of
from mmekit.deploy.endpoint import endpoint_state
from mmekit.deploy.layers import short_name, stored_layers
from mmekit.deploy.models import stored_archives
from mmekit.deploy.objects import mib

if TYPE_CHECKING:
    from mmekit.deploy.account import Site
    from mmekit.deploy.cost import Cost
    from mmekit.deploy.endpoint import EndpointState
    from mmekit.deploy.objects import StoredObject

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
    layers_url, layers
        The same of layers that archives name and do not bring along.
    cost
        None without an endpoint.
    """

    name: str
    place: str
    data_url: str
    endpoint: EndpointState | None
    models: tuple[StoredObject, ...]
    layers_url: str
    layers: tuple[StoredObject, ...]
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
            digest = short_name(model.sha256 or "hash unknown")
            lines.append(f"  {model.key}  {mib(model.size)}  {digest}{self._whose(model)}")
        if self.layers:
            lines.append(f"layers: {len(self.layers)} under {self.layers_url}")
        for layer in self.layers:
            named = sum(layer.key.startswith(name) for one in self.models for name in one.layers)
            lines.append(
                f"  {short_name(layer.key)}  {mib(layer.size)}  of {named} models"
                f"{self._whose(layer)}"
            )
        return lines + ([] if self.cost is None else self.cost.lines())

    def _whose(self, one: StoredObject) -> str:
        return "" if one.owner == self.name else ", not uploaded by this deployment"


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
    return Status(
        site.name,
        str(site.account),
        site.data_url,
        endpoint,
        models,
        site.layers_url,
        stored_layers(site),
        cost,
    )
