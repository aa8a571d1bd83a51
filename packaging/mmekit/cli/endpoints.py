"""Commands that make an endpoint, ask it and remove it: deploy, status, destroy, cdk, invoke."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import Panel, app
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.deploy import Plan, Site

_INTERRUPTED = 130

DeploymentFile = Annotated[
    Path,
    typer.Argument(
        metavar="[FILE]", dir_okay=False, help="The deployment file (docs/deploying.md)."
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation, as on the local target.")
]
cdk = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    cdk,
    name="cdk",
    help="Deploy what `cdk synth` wrote to the local service.",
    rich_help_panel=Panel.DEPLOY,
)

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", exists=True, file_okay=False, help="The cloud assembly: cdk.out."
    ),
]


@app.command(rich_help_panel=Panel.DEPLOY)
def deploy(
    file: DeploymentFile = Path("mme.yaml"),
    *,
    yes: Yes = False,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Show the plan (archives are packed) and exit.")
    ] = False,
) -> None:
    """Create or update an endpoint and its resources from one file.

    The resources are a bucket, archives in it, a role, model, endpoint, scaling and alarms.
    Shows a plan first, and changes only what differs. An endpoint keeps serving while it is
    updated. Run the command again to resume an interrupted deployment.

    **Examples:** mme deploy  ·  MME_TARGET=aws mme deploy production.yaml --plan
    """
    from mmekit import deploy as room

    with _site(file) as site:
        image = site.image  # a region without one is told before anything is looked up
        models = room.packed_models(site.deployment, typer.echo)
        capacity = room.capacity_of(
            site.deployment.instance_type, models, volume_gb=site.deployment.volume_gb
        )
        plan = room.plan_deployment(site, models, typer.echo)
        _show(plan, f"Plan for {site.name} on {site.account}:")
        typer.echo(f"image: {image}")
        for line in (*capacity.lines(), *room.storage_of(site, models).lines()):
            typer.echo(line)
        scaling = site.deployment.autoscaling
        cost = room.cost_of(
            site.account.region,
            site.deployment.instance_type,
            instances=site.deployment.instances,
            models=len(models),
            most=scaling.maximum if scaling else 0,
            account=site.account,
        )
        for line in cost.lines():
            typer.echo(line)
        if not site.account.is_real:
            typer.echo("  on the local service it is free")
        if only_plan:
            return
        if not plan.changes:
            typer.echo("Nothing to do.")
            return
        _ask(site, yes, "Apply this plan?")
        plan.perform(typer.echo)
    typer.echo(
        f"{site.name} is InService. Invoke it: mme invoke {site.name} --target-model "
        f"{models[0].name if models else 'NAME.tar.gz'} --data FILE"
    )


@app.command(rich_help_panel=Panel.DEPLOY)
def status(
    file: DeploymentFile = Path("mme.yaml"),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a deployment: endpoint, instances, models, cost.

    **Example:** mme status production.yaml
    """
    from mmekit import deploy as room

    with _site(file) as site:
        found = room.status_of(site)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(found), indent=2, default=str))
        return
    for line in found.lines():
        typer.echo(line)


@app.command(rich_help_panel=Panel.DEPLOY)
def destroy(
    file: DeploymentFile = Path("mme.yaml"),
    *,
    yes: Yes = False,
    only_plan: Annotated[bool, typer.Option("--plan", help="Show the plan and exit.")] = False,
) -> None:
    """Delete the resources that `mme deploy` created, and no others.

    **Example:** MME_TARGET=aws mme destroy production.yaml
    """
    from mmekit import deploy as room

    with _site(file) as site:
        plan = room.plan_removal(site, typer.echo)
        if not plan.changes:
            _show(plan, f"No resources of {site.name} are left on {site.account}.")
            return
        _show(plan, f"Plan to remove {site.name} from {site.account}:")
        if only_plan:
            return
        _ask(site, yes, "Apply this plan?")
        plan.perform(typer.echo)
    typer.echo(f"{site.name} is removed.")


@contextlib.contextmanager
def _site(file: Path) -> Iterator[Site]:
    from mmekit import deploy as room

    try:
        deployment = room.read_deployment(file)
        account = room.Account(deployment)
        with contextlib.closing(account), room.deploy_errors(account.settings):
            yield room.Site(account, deployment)
    except KeyboardInterrupt:
        typer.echo(
            "mme: interrupted. Completed steps are kept; run the command again to resume.", err=True
        )
        raise typer.Exit(_INTERRUPTED) from None


def _show(plan: Plan, heading: str) -> None:
    typer.echo(heading)
    for line in plan.lines():
        typer.echo(line)


def _ask(site: Site, yes: bool, question: str) -> None:  # noqa: FBT001 - the option's value
    if yes or not site.account.is_real:
        return
    if not sys.stdin.isatty():
        raise DeployError(
            "A plan for a real account needs confirmation, and standard input is no terminal.",
            where=str(site.account),
            remedy="Review the plan above, then run the command with --yes.",
        )
    typer.confirm(f"This is {site.account}. {question}", abort=True)


@cdk.command("publish")
def publish_assets(folder: Folder) -> None:
    """Upload the assets of the stacks: archives, functions, templates.

    Images are not built: for each, DJL Serving runs instead, or what `mme images add` declares.

    **Example:** mme cdk publish infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    published = Assembly(folder, Settings()).publish()
    for url in published.files:
        typer.echo(url)
    typer.echo(f"{len(published.files)} uploaded, {published.there} already there")
    for uri in published.images:
        typer.echo(f"image {uri}: declare what runs instead with mme images add '{uri}' -- COMMAND")


@cdk.command("deploy")
def deploy_stacks(folder: Folder) -> None:
    """Publish the assets, deploy the stacks and print their outputs.

    **Example:** mme cdk deploy infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    for stack, outputs in Assembly(folder, Settings()).deploy(typer.echo).items():
        for name, value in outputs.items():
            typer.echo(f"{stack}.{name} = {value}")


@cdk.command("destroy")
def destroy_stacks(folder: Folder) -> None:
    """Delete the stacks, in reverse order.

    **Example:** mme cdk destroy infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    Assembly(folder, Settings()).destroy(typer.echo)
