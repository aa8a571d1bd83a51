"""Commands that make an endpoint, ask it and remove it: deploy, status, destroy, cdk, invoke."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from mmekit.cli.application import Panel, app, not_empty
from mmekit.errors import DeployError, EndpointError

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


@app.command(rich_help_panel=Panel.DEPLOY)
def invoke(
    endpoint: Annotated[str, typer.Argument(help="The name of the endpoint.", callback=not_empty)],
    *,
    target_model: Annotated[
        str,
        typer.Option(
            help="The archive's key under the prefix, such as ridge.tar.gz.",
            callback=not_empty,
        ),
    ],
    data: Annotated[typer.FileBinaryRead, typer.Option(help="The request body; - is stdin.")],
    content_type: Annotated[
        str | None, typer.Option(help="Default: by the suffix of --data.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="The content type of the response, such as text/csv.")
    ] = None,
    custom_attributes: Annotated[
        str | None, typer.Option(help="Parameters of the model, such as probabilities=true.")
    ] = None,
) -> None:
    """Invoke a model of an endpoint and print the response.

    **Example:** mme invoke mmekit --target-model extra_trees_classifier.tar.gz --data
    model_packages/extra_trees_classifier/sample_request.json
    """
    from mmekit.settings import Settings

    settings = Settings()
    request = {
        "EndpointName": endpoint,
        "TargetModel": _target(settings, endpoint, target_model),
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


def _target(settings: Any, endpoint: str, name: str) -> str:
    """Return the key of a model's current version; say on standard error which it is."""
    from botocore.exceptions import BotoCoreError, ClientError

    from mmekit.deploy.target import current_target

    try:
        found = current_target(settings, endpoint, name)
    except (BotoCoreError, ClientError):  # the invocation meets the same, and says it
        return name
    if found.note:
        typer.echo(f"mme: {found.note}", err=True)
    return found.key


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
