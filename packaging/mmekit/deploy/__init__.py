"""From one file to a running endpoint, on AWS or on the local service, and back.

A resource, a module (`bucket`, `role`, `layers`, `models`, `hosting`, `endpoint`, `scaling`,
`alarms`), which says by a `Step` what would become of it; `plan` puts them in order, and performs
them. What is in the bucket, `objects` lists and uploads; `layer_files` finds what archives name and
do not bring along. `parts` are those of the file, `entries` its models. `releases` are which
versions are and were current, `release_files` that as current.json and releases.json; `current`
reads and puts them, `coming` plans it, `content` plans what becomes of it all, `former` what of
places before. `promotion`, `rollback`, `registry` and `target` are where models come from, go back
to and are found. `rollout` is how traffic moves, `warm_up` what is asked then, by what
`loaded` and `samples` tell. `capacity`, `storage`, `cost` and `bill` reckon, `forecast` is all
that; `outline` is a plan as text. Apart from that is `cloud_assembly`: what `cdk synth` wrote, put
on the local service.

`read_deployment` reads the file, a `Site` is what it says in an `Account`. `plan_deployment` and
`plan_removal` say what would be done, `Plan.perform` does it, `status_of` says what there is. Each
of them can be interrupted and run again.
"""

from mmekit.deploy.account import Account, Site, deploy_errors
from mmekit.deploy.bill import Bill
from mmekit.deploy.capacity import Capacity, capacity_of
from mmekit.deploy.cost import Cost, cost_of
from mmekit.deploy.deployment import Deployment, read_deployment
from mmekit.deploy.entries import single_entries
from mmekit.deploy.forecast import Forecast, forecast_of
from mmekit.deploy.models import PackedModel, packed_models
from mmekit.deploy.plan import Plan, plan_deployment, plan_removal
from mmekit.deploy.status import Status, status_of
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.deploy.storage import Storage, storage_of
from mmekit.deploy.target import CurrentTarget, current_target

__all__ = [
    "Account",
    "Action",
    "Bill",
    "Capacity",
    "Cost",
    "CurrentTarget",
    "Deployment",
    "Difference",
    "Forecast",
    "PackedModel",
    "Plan",
    "Report",
    "Site",
    "Status",
    "Step",
    "Storage",
    "capacity_of",
    "cost_of",
    "current_target",
    "deploy_errors",
    "forecast_of",
    "packed_models",
    "plan_deployment",
    "plan_removal",
    "read_deployment",
    "single_entries",
    "status_of",
    "storage_of",
]
