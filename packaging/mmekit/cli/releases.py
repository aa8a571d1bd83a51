"""Commands about releases: promote, rollback, releases."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import AsJson, Panel, app, deployment_file
from mmekit.cli.endpoints import (
    DEPLOYMENT_FILE,
    WOULD_CHANGE,
    DeploymentFile,
    OnlyPlan,
    OverRollback,
    PlanAsJson,
    Verbose,
    Yes,
    ask_for,
    expect_plan,
    keep_rollback,
    print_plan_json,
    show_plan,
    site_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.deploy import Plan, Site

_FEW = 5
"""Models of a release that are listed without being asked for."""


@app.command(rich_help_panel=Panel.OPERATE)
def promote(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FROM",
            callback=deployment_file,
            help="The deployment file, or its name without .yaml.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="TO", callback=deployment_file, help="The same of the other one."),
    ],
    *,
    prune: Annotated[
        bool, typer.Option("--prune", help="Models that only TO has stop being current.")
    ] = False,
    yes: Yes = False,
    only_plan: OnlyPlan = False,
    over_rollback: OverRollback = False,
    as_json: PlanAsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make the current models of one deployment current in another.

    Archives and layers are copied by their SHA-256, by S3 itself where it may, else through this
    machine; nothing is packed. They may be in different regions and accounts (`profile`). Whatever
    else of TO's file is not there yet is made, as by `mme deploy`.

    **Example:** mme promote staging production --plan
    """
    from mmekit.deploy import cost_of, plan_deployment
    from mmekit.deploy.promotion import read_promotion
    from mmekit.progress import under_way

    choices = _Choices(yes, only_plan, as_json, verbose, over_rollback)
    with site_of(source) as before:
        with under_way(f"looking at {before.name}"):
            promotion = read_promotion(before, prunes=prune)
        with site_of(target) as site:
            with under_way(f"planning {site.name}"):
                plan = plan_deployment(site, (), choices.report, promotion)
                cost = cost_of(
                    site.account.region,
                    site.deployment.instance_type,
                    instances=site.deployment.first_instances,
                    models=len(promotion.archives),
                    account=site.account,
                )
            _apply(plan, site, choices, cost.lines())
    if plan.changes:
        choices.report(f"{site.name} has what is current in {promotion}.")


@app.command(rich_help_panel=Panel.OPERATE)
def rollback(
    file: DeploymentFile = DEPLOYMENT_FILE,
    *,
    to: Annotated[
        int | None, typer.Option(metavar="RELEASE", min=1, help="Its number: mme releases.")
    ] = None,
    yes: Yes = False,
    only_plan: OnlyPlan = False,
    as_json: PlanAsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make the models of the release before current again.

    Nothing is packed and nothing uploaded, and no instance is replaced. Run it again to go further
    back. `mme deploy` makes what was taken back current again only with `--over-rollback`.

    **Examples:** mme rollback  ·  mme rollback production.yaml --to 12
    """
    from mmekit.deploy.rollback import plan_rollback
    from mmekit.progress import under_way

    choices = _Choices(yes, only_plan, as_json, verbose)
    with site_of(file) as site:
        with under_way(f"looking at {site.name}"):
            plan = plan_rollback(site, to)
        _apply(plan, site, choices)


@app.command(rich_help_panel=Panel.OPERATE)
def releases(
    file: DeploymentFile = DEPLOYMENT_FILE, *, as_json: AsJson = False, verbose: Verbose = False
) -> None:
    """List the releases that are remembered, the newest first.

    Each is a moment at which other versions of models became current; the first line is the one
    that is current. Of more than a few models that changed, --verbose lists all.

    **Example:** mme releases production.yaml
    """
    from mmekit.deploy.release_files import release_members
    from mmekit.deploy.rollback import own_releases
    from mmekit.progress import under_way

    with site_of(file) as site, under_way(f"looking at {site.name}"):
        found = own_releases(site).releases
    if as_json:
        typer.echo(json.dumps(release_members(found), indent=2, ensure_ascii=False))
        return
    for release in reversed(found.history):
        typer.echo(str(release))
        changed = sorted(release.changed.items())
        left_out = 0 if verbose or len(changed) <= _FEW else len(changed) - _FEW
        for name, change in changed[: len(changed) - left_out]:
            before, after = (
                "none" if one is None else one.key for one in (change.before, change.after)
            )
            typer.echo(f"      {name}: {before} -> {after}")
        if left_out:
            typer.echo(f"      and {left_out} more (--verbose lists them)")


@dataclass(frozen=True)
class _Choices:
    """What the options say."""

    yes: bool
    only_plan: bool
    as_json: bool
    verbose: bool
    over_rollback: bool = True

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        expect_plan(self.only_plan, self.as_json)

    def report(self, text: str) -> None:
        """Say what happens: beside what a program reads, where one does."""
        typer.echo(text, err=self.as_json)


def _apply(plan: Plan, site: Site, choices: _Choices, further: Sequence[str] = ()) -> None:
    """Show a plan; perform it where that is wanted."""
    from mmekit.progress import under_way

    if choices.as_json:
        print_plan_json(site, plan)
    else:
        heading = f"Plan for {site.name} on {site.account}:"
        show_plan(plan, heading, further, verbose=choices.verbose)
    if choices.only_plan:
        raise typer.Exit(WOULD_CHANGE if plan.changes else 0)
    if not plan.changes:
        choices.report("Nothing to do.")
        return
    keep_rollback(site, plan, choices.over_rollback)
    ask_for(site, choices.yes, "Apply this plan?")
    with under_way(f"changing {site.name}"):
        plan.perform(choices.report)
