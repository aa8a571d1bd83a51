"""Commands that bring an endpoint to AWS or to the local service: deploy, status, destroy."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import app
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.deploy import Plan, Site

_INTERRUPTED = 130

DeploymentFile = Annotated[
    Path,
    typer.Argument(
        metavar="[FILE]", dir_okay=False, help="The deployment file; docs/deploying.md has one."
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask. On the local service nobody is asked.")
]


@app.command()
def deploy(
    file: DeploymentFile = Path("deployment.yaml"),
    *,
    yes: Yes = False,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be done, and do nothing but pack.")
    ] = False,
) -> None:
    """Make bucket, role, model and endpoint as the file says, or change what differs.

    Shows a plan first. An endpoint is updated while it serves, never removed. Interrupted, it goes
    on when it is run again.

    **Examples:** mme deploy  ·  MME_TARGET=aws mme deploy production.yaml --plan
    """
    from mmekit import deploy as room

    with _site(file) as site:
        image = site.image  # a region without one is told before anything is looked up
        models = room.packed_models(site.deployment, typer.echo)
        capacity = room.capacity_of(site.deployment.instance_type, models)
        plan = room.plan_deployment(site, models, typer.echo)
        _show(plan, f"Plan for {site.name} on {site.account}:")
        typer.echo(f"image: {image}")
        for line in capacity.lines():
            typer.echo(line)
        scaling = site.deployment.autoscaling
        cost = room.cost_of(
            site.account.region,
            site.deployment.instance_type,
            instances=site.deployment.instances,
            models=len(models),
            most=scaling.maximum if scaling else 0,
        )
        for line in cost.lines():
            typer.echo(line)
        if not site.account.is_real:
            typer.echo("  on the local service it costs nothing")
        if only_plan:
            return
        if not plan.changes:
            typer.echo("Nothing to do.")
            return
        _ask(site, yes, "Make it so?")
        plan.perform(typer.echo)
    typer.echo(
        f"{site.name} is in service. Ask it: mme invoke {site.name} --target-model "
        f"{models[0].key} --data FILE"
    )


@app.command()
def status(
    file: DeploymentFile = Path("deployment.yaml"),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what there is of a deployment: endpoint, instances, models, cost.

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


@app.command()
def destroy(
    file: DeploymentFile = Path("deployment.yaml"),
    *,
    yes: Yes = False,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove what `mme deploy` made with this file, and nothing else.

    **Example:** MME_TARGET=aws mme destroy production.yaml
    """
    from mmekit import deploy as room

    with _site(file) as site:
        plan = room.plan_removal(site, typer.echo)
        if not plan.changes:
            _show(plan, f"Of {site.name} nothing is left on {site.account}.")
            return
        _show(plan, f"To be removed of {site.name} on {site.account}:")
        if only_plan:
            return
        _ask(site, yes, "Remove it?")
        plan.perform(typer.echo)
    typer.echo(f"{site.name} is removed.")


@contextlib.contextmanager
def _site(file: Path) -> Iterator[Site]:
    from mmekit import deploy as room

    try:
        deployment = room.read_deployment(file)
        account = room.Account(deployment)
        with contextlib.closing(account), room.saying_what_failed(account.settings):
            yield room.Site(account, deployment)
    except KeyboardInterrupt:
        typer.echo(
            "mme: interrupted. What is done stays; run the command again and it goes on.", err=True
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
            "This is a real account, and nobody is there to say yes.",
            where=str(site.account),
            remedy="Look at the plan above, then run the command with --yes.",
        )
    typer.confirm(f"This is {site.account}. {question}", abort=True)
