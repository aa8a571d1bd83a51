"""The status of a deployment: endpoint, instances, models, layers, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.archive.files import size_text
from mmekit.deploy.alarms import own_alarms
from mmekit.deploy.bill import bill_of
from mmekit.deploy.cost import cost_of
from mmekit.deploy.current import stored_releases
from mmekit.deploy.endpoint import endpoint_state
from mmekit.deploy.hosting import published_metrics
from mmekit.deploy.layers import short_name, stored_layers
from mmekit.deploy.models import stored_archives
from mmekit.errors import DeployError
from mmekit.plural import counted

if TYPE_CHECKING:
    from mmekit.deploy.account import Site
    from mmekit.deploy.bill import Bill
    from mmekit.deploy.cost import Cost
    from mmekit.deploy.endpoint import EndpointState
    from mmekit.deploy.objects import StoredObject
    from mmekit.deploy.releases import Releases

__all__ = ["Status", "status_of"]

_FEW = 10  # models are told one by one


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
        Of the instances that run now; None without an endpoint.
    bill
        That, by the month, and what else there is to pay for.
    releases
        Which versions are current, and were; None without versions.
    fault
        Why that is not known, and what to do; empty where it is.
    """

    name: str
    place: str
    data_url: str
    endpoint: EndpointState | None
    models: tuple[StoredObject, ...]
    layers_url: str
    layers: tuple[StoredObject, ...]
    cost: Cost | None
    bill: Bill | None
    releases: Releases | None = None
    fault: str = ""

    def lines(self, *, verbose: bool = False) -> list[str]:
        """Return it as text: the models one by one when they are few, or `verbose` asks for it."""
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
        lines += self._of_models(verbose=verbose)
        lines += f"releases: not known. {self.fault}".splitlines() if self.fault else []
        if self.layers:
            lines.append(f"layers: {len(self.layers)} under {self.layers_url}")
        for layer in self.layers:
            named = sum(layer.key.startswith(name) for one in self.models for name in one.layers)
            lines.append(
                f"  {short_name(layer.key)}  {size_text(layer.size)}  of {counted(named, 'model')}"
                f"{self._whose(layer)}"
            )
        return lines + ([] if self.bill is None else self.bill.lines())

    def _of_models(self, *, verbose: bool) -> list[str]:
        if self.releases is not None:
            return self._of_versions(self.releases, verbose=verbose)
        lines = [f"models: {len(self.models)} under {self.data_url}"]
        told = self.models if verbose or len(self.models) <= _FEW else ()
        if not told and self.models:
            size = size_text(sum(model.size for model in self.models))
            foreign = sum(model.owner != self.name for model in self.models)
            whose = f", {foreign} of them not uploaded by this deployment" if foreign else ""
            first, last = self.models[0].key, self.models[-1].key
            lines.append(f"  {first} … {last}, {size}{whose} (--verbose lists them)")
        for model in told:
            digest = short_name(model.sha256 or "hash unknown")
            lines.append(f"  {model.key}  {size_text(model.size)}  {digest}{self._whose(model)}")
        return lines

    def _of_versions(self, releases: Releases, *, verbose: bool) -> list[str]:
        current, there = releases.models, {one.key: one for one in self.models}
        release = f"release {releases.current.number} of {releases.current.made:%Y-%m-%d %H:%M} UTC"
        lines = [f"models: {len(current)} under {self.data_url}, {release}"]
        for name, version in sorted(current.items()):
            found = there.get(version.key)
            if found is None:
                lines.append(f"  {name} -> {version.key}  MISSING: run `mme deploy`")
            elif verbose or len(current) <= _FEW:
                lines.append(
                    f"  {name} -> {version.key}  {size_text(found.size)}{self._whose(found)}"
                )
        if len(current) > _FEW and not verbose:
            lines.append("  (--verbose lists them)")
        keys = {one.key for one in current.values()}
        older = [one for one in self.models if one.key not in keys]
        if older:
            size = size_text(sum(one.size for one in older))
            lines.append(f"older versions and others: {len(older)}, {size}")
        return lines

    def _whose(self, one: StoredObject) -> str:
        return "" if one.owner == self.name else ", not uploaded by this deployment"


def status_of(site: Site) -> Status:
    """Look everything up."""
    endpoint, models, layers = endpoint_state(site), stored_archives(site), stored_layers(site)
    stored, fault = None, ""
    try:
        stored = stored_releases(site)
    except DeployError as error:
        fault = str(error)  # the endpoint goes on all the same
    releases = None if stored is None else stored.releases
    cost, bill = None, None
    if endpoint is not None and endpoint.instance_type is not None:
        cost = cost_of(
            site.account.region,
            endpoint.instance_type,
            # Those that run, whatever the file or a scaling that is under way wants.
            instances=endpoint.instances,
            models=len(models if releases is None else releases.models),
            account=site.account,
        )
        bill = bill_of(
            cost,
            stored_bytes=sum(one.size for one in (*models, *layers)),
            volume_gb=endpoint.volume_gb,
            alarms=len(own_alarms(site)),
            metrics=published_metrics(site, endpoint.config),
        )
    return Status(
        site.name,
        str(site.account),
        site.data_url,
        endpoint,
        models,
        site.layers_url,
        layers,
        cost,
        bill,
        releases,
        fault,
    )
