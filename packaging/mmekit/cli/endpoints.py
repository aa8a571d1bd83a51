"""Commands that make an endpoint, ask it and remove it: deploy, status, destroy, cdk, invoke."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from mmekit.cli.application import app
from mmekit.cli.options import not_empty
from mmekit.errors import DeployError, EndpointError

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
cdk = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    cdk, name="cdk", help="Put what `cdk synth` wrote on the local service; AWS has cdk for it."
)

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", exists=True, file_okay=False, help="What cdk synth wrote: cdk.out."
    ),
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
        with contextlib.closing(account), room.deploy_errors(account.settings):
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


@cdk.command("publish")
def publish_assets(folder: Folder) -> None:
    """Upload the assets that stacks refer to: archives, functions, templates.

    An image that `cdk deploy` would build stands for DJL Serving here, unless images.json says
    otherwise: mme images add.

    **Example:** mme cdk publish infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    published = Assembly(folder, Settings()).publish()
    for url in published.files:
        typer.echo(url)
    typer.echo(f"{len(published.files)} uploaded, {published.there} there already")
    for uri in published.images:
        typer.echo(f"image {uri}: choose what runs for it with mme images add '{uri}' -- COMMAND")


@cdk.command("deploy")
def deploy_stacks(folder: Folder) -> None:
    """Publish the assets, create or update the stacks, wait and print their outputs.

    **Example:** mme cdk deploy infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    for stack, outputs in Assembly(folder, Settings()).deploy(typer.echo).items():
        for name, value in outputs.items():
            typer.echo(f"{stack}.{name} = {value}")


@cdk.command("destroy")
def destroy_stacks(folder: Folder) -> None:
    """Delete the stacks, the last first, and wait.

    **Example:** mme cdk destroy infrastructure/cdk/cdk.out
    """
    from mmekit.deploy.cloud_assembly import Assembly
    from mmekit.settings import Settings

    Assembly(folder, Settings()).destroy(typer.echo)


@app.command()
def invoke(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.", callback=not_empty)],
    *,
    target_model: Annotated[
        str,
        typer.Option(
            help="The archive's key under the prefix, such as ridge.tar.gz.", callback=not_empty
        ),
    ],
    data: Annotated[typer.FileBinaryRead, typer.Option(help="The request's body; - is stdin.")],
    content_type: Annotated[
        str | None, typer.Option(help="Otherwise what the suffix of --data stands for.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="What the answer shall be, such as text/csv.")
    ] = None,
    custom_attributes: Annotated[
        str | None, typer.Option(help="Such as probabilities=true.")
    ] = None,
) -> None:
    """Ask a model for predictions and print its answer, on the target that MME_TARGET names.

    **Example:** mme invoke mmekit --target-model extra_trees_classifier.tar.gz --data
    model_packages/extra_trees_classifier/sample_request.json
    """
    from mmekit.settings import Settings

    settings = Settings()
    request = {
        "EndpointName": endpoint,
        "TargetModel": target_model,
        "Body": data.read(),
        "ContentType": content_type or _content_type(data),
        "Accept": accept,
        "CustomAttributes": custom_attributes,
    }
    answer, answered = _invoke(settings, {name: value for name, value in request.items() if value})
    sys.stdout.buffer.write(answer)
    is_text = answered.startswith("text/") or "json" in answered
    if answer and answer[-1:] != b"\n" and (is_text or sys.stdout.isatty()):
        typer.echo()


def _content_type(data: BinaryIO) -> str:
    from mmekit.archive.package import CONTENT_TYPES

    suffix = Path(data.name).suffix if isinstance(data.name, str) else ""
    return CONTENT_TYPES.get(suffix, "application/json")


def _invoke(settings: Any, request: dict[str, Any]) -> tuple[bytes, str]:
    """Return the answer's body and content type."""
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"{request['EndpointName']}, {request['TargetModel']}"
    try:
        answer = settings.client("sagemaker-runtime").invoke_endpoint(**request)
        return bytes(answer["Body"].read()), answer.get("ContentType") or ""
    except ClientError as error:
        raise EndpointError(str(error), where=where) from error
    except BotoCoreError as error:
        remedy = "Start the local endpoint: mme up." if settings.target == "local" else None
        raise EndpointError(str(error), where=where, remedy=remedy) from error
