"""Commands that make an endpoint, ask it and remove it: deploy, status, destroy, cdk, invoke."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmekit.cli.application import INTERRUPTED, AsJson, Panel, app, deployment_file
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmekit.deploy import Bill, Plan, Report, Site

WOULD_CHANGE = 2
DEPLOYMENT_FILE = Path("mme.yaml")

DeploymentFile = Annotated[
    Path,
    typer.Argument(
        metavar="[FILE]",
        callback=deployment_file,
        help="The deployment file (docs/deploying.md), or its name without .yaml.",
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation, as on the local target.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="A line for each resource, also where many are alike."),
]
OnlyPlan = Annotated[
    bool,
    typer.Option("--plan", help="Show the plan and exit: 2 when something would change, else 0."),
]
PlanAsJson = Annotated[bool, typer.Option("--json", help="With --plan: print it as JSON.")]
OverRollback = Annotated[
    bool,
    typer.Option("--over-rollback", help="Make current again what `mme rollback` took back, too."),
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
    file: DeploymentFile = DEPLOYMENT_FILE,
    *,
    yes: Yes = False,
    only_plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Show the plan (archives are packed) and exit: 2 when it would change something.",
        ),
    ] = False,
    over_rollback: OverRollback = False,
    verbose: Verbose = False,
    as_json: PlanAsJson = False,
) -> None:
    """Create or update an endpoint and its resources from one file.

    The resources are a bucket, archives in it, a role, model, endpoint, scaling and alarms.
    Shows a plan first, and changes only what differs. An endpoint keeps serving while it is
    updated. Run the command again to resume an interrupted deployment.

    **Exit codes:** 0, 1 for an error; of --plan also 2 when something would change.

    **Examples:** mme deploy  ·  MME_TARGET=aws mme deploy production.yaml --plan
    """
    from mmekit import deploy as room
    from mmekit.deploy.registry import fetch_registered
    from mmekit.progress import under_way

    report = _reporter(only_plan, as_json)
    with site_of(file) as site:
        image = site.image  # a region without one is told before anything is looked up
        with under_way(f"packing and planning {site.name}"):
            fetch_registered(site, report)
            models = room.packed_models(site.deployment, report)
            plan = room.plan_deployment(site, models, report)
            forecast = room.forecast_of(
                site, models, kept_bytes=plan.kept_bytes, current=plan.models
            )
        if as_json:
            print_plan_json(site, plan, image=image, bill=forecast.bill)
        else:
            lines = [f"image: {image}", *forecast.lines()]
            show_plan(plan, f"Plan for {site.name} on {site.account}:", lines, verbose=verbose)
        if only_plan:
            raise typer.Exit(WOULD_CHANGE if plan.changes else 0)
        if not plan.changes:
            typer.echo("Nothing to do.")
            return
        keep_rollback(site, plan, over_rollback)
        ask_for(site, yes, "Apply this plan?")
        with under_way(f"deploying {site.name}"):
            plan.perform(report)
    typer.echo(
        # By the file it is found in the region and account that this says, too.
        f"{site.name} is InService. Invoke it: mme invoke {shlex.quote(str(file))} --target-model "
        f"{models[0].name if models else 'NAME.tar.gz'} --data FILE"
    )


@app.command(rich_help_panel=Panel.OPERATE)
def status(
    file: DeploymentFile = DEPLOYMENT_FILE,
    *,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show a deployment: endpoint, instances, models, cost now.

    **Example:** mme status production.yaml
    """
    from mmekit import deploy as room
    from mmekit.deploy.outline import folded
    from mmekit.progress import under_way

    with site_of(file) as site, under_way(f"looking at {site.name}"):
        found = room.status_of(site)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(found), indent=2, default=str))
        return
    for line in folded(found.lines(verbose=verbose)):
        typer.echo(line)


@app.command(rich_help_panel=Panel.DEPLOY)
def destroy(
    file: DeploymentFile = DEPLOYMENT_FILE,
    *,
    yes: Yes = False,
    only_plan: OnlyPlan = False,
    verbose: Verbose = False,
    as_json: PlanAsJson = False,
) -> None:
    """Delete the resources that `mme deploy` created, and no others.

    **Exit codes:** 0, 1 for an error; of --plan also 2 when something would be removed.

    **Example:** MME_TARGET=aws mme destroy production.yaml
    """
    from mmekit import deploy as room
    from mmekit.progress import under_way

    report = _reporter(only_plan, as_json)
    with site_of(file) as site:
        with under_way(f"planning to remove {site.name}"):
            plan = room.plan_removal(site, report)
        if as_json:
            print_plan_json(site, plan)
        elif plan.changes:
            show_plan(plan, f"Plan to remove {site.name} from {site.account}:", verbose=verbose)
        else:
            heading = f"No resources of {site.name} are left on {site.account}."
            show_plan(plan, heading, verbose=verbose)
        if only_plan:
            raise typer.Exit(WOULD_CHANGE if plan.changes else 0)
        if not plan.changes:
            return
        ask_for(site, yes, "Apply this plan?")
        with under_way(f"removing {site.name}"):
            plan.perform(report)
    typer.echo(f"{site.name} is removed.")


@contextlib.contextmanager
def site_of(file: Path) -> Iterator[Site]:
    """Read a deployment file, and look up the account that it is for."""
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
        raise typer.Exit(INTERRUPTED) from None


def _reporter(only_plan: bool, as_json: bool) -> Report:  # noqa: FBT001 - the options' values
    """Return where progress is told: beside the plan, or beside what a program reads."""
    expect_plan(only_plan, as_json)
    return lambda line: typer.echo(line, err=as_json)


def expect_plan(only_plan: bool, as_json: bool) -> None:  # noqa: FBT001 - the options' values
    """Refuse JSON of what is done: questions and progress would stand beside it."""
    if as_json and not only_plan:
        raise DeployError(
            "--json is for --plan: what is done is told as it happens.",
            where="mme",
            remedy="Add --plan, or leave --json out.",
        )


def show_plan(plan: Plan, heading: str, further: Sequence[str] = (), *, verbose: bool) -> None:
    """Print a plan as text."""
    from mmekit.deploy.outline import folded

    for line in folded([heading, *plan.lines(verbose=verbose), *further, plan.totals()]):
        typer.echo(line)


def print_plan_json(
    site: Site, plan: Plan, image: str | None = None, bill: Bill | None = None
) -> None:
    """Print a plan as JSON."""
    import json

    members: dict[str, Any] = {"deployment": site.name, "account": site.account.number}
    members |= {"region": site.account.region, "is_local": not site.account.is_real}
    members |= plan.members()
    if image is not None:
        members["image"] = image
    if bill is not None:
        for name, usd in (("usd_an_hour", bill.cost.hour), ("usd_a_month", bill.month)):
            members[name] = None if usd is None else float(usd)
    typer.echo(json.dumps(members, indent=2))


def keep_rollback(site: Site, plan: Plan, over: bool) -> None:  # noqa: FBT001 - the option's value
    """Refuse to take a rollback back by the way: a run that nobody watches would do just that."""
    if over or not plan.undone:
        return
    first, more = plan.undone[0], len(plan.undone) - 1
    others = f" and {more} more" if more else ""
    raise DeployError(
        f"This would make current again what a rollback took back: {first}{others}.",
        where=site.data_url,
        remedy="Put back what the models are made from, as it was; or run the command with "
        "--over-rollback.",
    )


def ask_for(site: Site, yes: bool, question: str) -> None:  # noqa: FBT001 - the option's value
    """Ask before a real account is changed."""
    if yes or not site.account.is_real:
        return
    if not sys.stdin.isatty():
        raise DeployError(
            "A plan for a real account needs confirmation, and standard input is no terminal.",
            where=str(site.account),
            remedy="Review the plan above, then run the command with --yes.",
        )
    typer.confirm(f"This is {site.account}. {question}", abort=True, err=True)


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
