"""Commands about packages and archives: check, measure, pack, environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import app, print_findings
from mmekit.cli.options import Artifacts, Image, PackageFolder

if TYPE_CHECKING:
    from mmekit import archive as room
    from mmekit.archive import Memory as MeasuredMemory


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A package folder, or a packed archive.")
    ],
    *,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="The folder that training wrote, to check package and artefacts together.",
        ),
    ] = None,
    image: Image = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what would go wrong on an endpoint, and the remedy; exit 1 when that is an error.

    **Example:** mme check model_packages/extra_trees_classifier --artifacts
    build/artifacts/extra_trees_classifier
    """
    from mmekit import archive

    if artifacts is not None and not path.is_dir():
        raise typer.BadParameter("an archive has its artefacts inside", param_hint="--artifacts")
    findings = archive.check(path, artifacts=artifacts, image=_image(image))
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif findings:
        print_findings(findings)
    else:
        typer.echo(f"{path}: nothing found")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def measure(package: PackageFolder, *, artifacts: Artifacts) -> None:
    """Load the model in a fresh worker and write down its memory and libraries.

    The sample request is asked for in batches, too: an answer that depends on the requests beside
    it is an error. The observation is kept in measured.json beside the artefacts, and every later
    `mme pack` reads it, which measures anew by itself when artefacts or code have changed. Measure
    again when libraries have.

    **Example:** mme measure model_packages/setfit_classifier --artifacts
    build/artifacts/setfit_classifier
    """
    from mmekit import archive

    measured = archive.measure(package, artifacts)
    typer.echo(
        f"{package.name}: {_described(measured.memory)}, Python {measured.python}, "
        + ", ".join(f"{name} {measured.libraries[name]}" for name in measured.required)
    )
    if measured.unproven is not None:
        typer.echo(f"Batches are not proven: {measured.unproven}.")


@app.command()
def pack(
    package: PackageFolder,
    *,
    artifacts: Artifacts,
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The archive: NAME.tar.gz.")
    ],
    worker_slots: Annotated[
        bool,
        typer.Option(help="Let stock DJL Serving load by forking, one process behind all workers."),
    ] = True,
    image: Image = None,
) -> None:
    """Join a package folder and its artefacts into an archive, the same bytes every time.

    **Example:** mme pack model_packages/extra_trees_classifier --artifacts
    build/artifacts/extra_trees_classifier -o build/archives/extra_trees_classifier.tar.gz
    """
    from mmekit import archive

    packed = archive.pack(
        package,
        artifacts,
        output,
        worker_slots=worker_slots,
        image=_image(image),
        say=lambda text: typer.echo(text, err=True),
    )
    if packed.findings:
        print_findings(packed.findings)
    typer.echo(f"{packed.path}: {packed.size / 2**20:.1f} MiB, SHA-256 {packed.sha256}")


@app.command()
def environment(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what belongs into the SageMaker model's Environment for the best throughput.

    Lines of NAME=value, as for `docker run --env-file`, or with --json the object for create_model.

    **Example:** mme environment --json
    """
    from mmekit import archive

    variables = archive.container_environment()
    if as_json:
        import json

        typer.echo(json.dumps(variables, indent=2))
    else:
        for name, value in variables.items():
            typer.echo(f"{name}={value}")


def _image(text: str | None) -> room.Image | None:
    if text is None:
        from mmekit.archive import STOCK_IMAGE

        return STOCK_IMAGE
    from mmekit_local.containers import image_of

    return image_of(text)


def _described(memory: MeasuredMemory) -> str:
    text = f"{memory.required_mb} MiB"
    return text if memory.forked_mb is None else f"{text}, {memory.forked_mb} MiB forked"
