"""Commands about releases: promote, rollback, releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmekit.cli.application import Panel, app
from mmekit.cli.endpoints import DeploymentFile, Yes, _ask, _site

if TYPE_CHECKING:
    from mmekit.deploy import Plan, Site
    from mmekit.deploy.releases import Releases

_WOULD_CHANGE = 2

OnlyPlan = Annotated[
    bool,
    typer.Option("--plan", help="Show the plan and exit: 2 when something would change, else 0."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(rich_help_panel=Panel.OPERATE)
def rollback(
    file: DeploymentFile = Path("mme.yaml"),
    *,
    to: Annotated[
        int | None, typer.Option(metavar="RELEASE", min=1, help="Its number: mme releases.")
    ] = None,
    yes: Yes = False,
    only_plan: OnlyPlan = False,
    as_json: AsJson = False,
) -> None:
    """Make the models of the release before current again.

    Nothing is packed and nothing uploaded, and no instance is replaced. Run it again to go further
    back. `mme deploy` makes the models of the file current again.

    **Examples:** mme rollback  ·  mme rollback production.yaml --to 12
    """
    from mmekit.deploy.rollback import plan_rollback

    with _site(file) as site:
        plan = plan_rollback(site, to)
        _apply(plan, site, f"Plan for {site.name} on {site.account}:", yes, only_plan, as_json)


@app.command(rich_help_panel=Panel.OPERATE)
def releases(file: DeploymentFile = Path("mme.yaml"), *, as_json: AsJson = False) -> None:
    """List the releases that are remembered, the newest first.

    Each is a moment at which other versions of models became current; the first line is the one
    that is current.

    **Example:** mme releases production.yaml
    """
    from mmekit.deploy.rollback import own_releases

    with _site(file) as site:
        found, _ = own_releases(site)
    if as_json:
        typer.echo(json.dumps(_members(found), indent=2, ensure_ascii=False))
        return
    for release in reversed(found.history):
        typer.echo(str(release))
        for name, change in sorted(release.changed.items()):
            before, after = (
                "none" if one is None else one.key for one in (change.before, change.after)
            )
            typer.echo(f"      {name}: {before} -> {after}")


def _apply(
    plan: Plan,
    site: Site,
    heading: str,
    yes: bool,
    only_plan: bool,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Show a plan; perform it where that is wanted."""
    if as_json:
        typer.echo(json.dumps(_content(plan), indent=2, ensure_ascii=False))
    else:
        typer.echo(heading)
        for line in plan.lines():
            typer.echo(line)
    if only_plan:
        raise typer.Exit(_WOULD_CHANGE if plan.changes else 0)
    if not plan.changes:
        typer.echo("Nothing to do.", err=as_json)
        return
    _ask(site, yes, "Apply this plan?")
    plan.perform(lambda text: typer.echo(text, err=as_json))


def _content(plan: Plan) -> dict[str, Any]:
    return {
        "changes": bool(plan.changes),
        "steps": [
            {
                "action": step.action.value,
                "kind": step.kind,
                "name": step.name,
                "differences": [vars(one) for one in step.differences],
                "note": step.note,
            }
            for step in plan.steps
        ],
    }


def _members(found: Releases) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(found.to_json())
    return content
