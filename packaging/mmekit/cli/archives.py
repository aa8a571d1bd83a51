"""Commands about packages and archives: check, describe, measure, pack, environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmekit.cli.application import Artifacts, AsJson, Image, PackageFolder, Panel, app
from mmekit.cli.registration import (
    Register,
    ask_to_register,
    expect_registrable,
    registered_archive,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit import archive as room
    from mmekit.archive import Description, Measured, MeasuredMemory, Packed
    from mmekit.deploy.registry import RegisteredModel
    from mmekit_runtime.signature import Column

_VALUES = 8
_BODY = 400


@app.command(rich_help_panel=Panel.PACKAGE)
def check(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A package folder, or an archive (.tar.gz).")
    ],
    *,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="The folder with the artefacts of PATH, to check them together.",
        ),
    ] = None,
    image: Image = None,
    as_json: AsJson = False,
) -> None:
    """Find what would fail on an endpoint; exit 1 on errors.

    The model is not run.

    **Example:** mme check model_packages/extra_trees_classifier --artifacts
    build/artifacts/extra_trees_classifier
    """
    from mmekit import archive
    from mmekit.printing import print_findings
    from mmekit.progress import under_way

    if artifacts is not None and not path.is_dir():
        raise typer.BadParameter(
            "only a package folder has its artefacts elsewhere",
            param_hint="--artifacts",
        )
    with under_way(f"checking {path.name}"):
        findings = archive.check(path, artifacts=artifacts, image=_image(image))
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif findings:
        print_findings(findings)
    else:
        typer.echo(f"{path}: no findings")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=Panel.PACKAGE)
def describe(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A package folder, or an archive (.tar.gz).")
    ],
    *,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            "--artifacts",
            exists=True,
            file_okay=False,
            help="The folder with the artefacts of PATH: their signature and measurement.",
        ),
    ] = None,
    as_openapi: Annotated[bool, typer.Option("--openapi", help="Print OpenAPI 3.1.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a model's inputs, outputs, memory and libraries.

    The model is not run. What is missing for a complete description is listed, too.

    **Example:** mme describe build/archives/extra_trees_classifier.tar.gz
    """
    import json

    from mmekit import archive
    from mmekit.progress import under_way

    with under_way(f"reading {path.name}"):
        described = archive.describe(path, artifacts=artifacts)
    if as_openapi:
        typer.echo(json.dumps(archive.openapi(described), indent=2, ensure_ascii=False))
    elif as_json:
        typer.echo(json.dumps(_members(described), indent=2, ensure_ascii=False))
    else:
        _print(described)


@app.command(rich_help_panel=Panel.PACKAGE)
def measure(package: PackageFolder, *, artifacts: Artifacts, as_json: AsJson = False) -> None:
    """Measure the memory and libraries of a model by loading it.

    It is loaded once, in a worker process of its own. The sample request is answered alone and in
    batches: a response that depends on the other requests of its batch is an error. The result is
    written to measured.json beside the artefacts. `mme pack` reads it, and measures again if the
    artefacts or the code have changed. Run this after updating libraries.

    **Example:** mme measure model_packages/setfit_classifier --artifacts
    build/artifacts/setfit_classifier
    """
    from mmekit import archive
    from mmekit.progress import under_way

    with under_way(f"measuring {package.name}: loading it in processes of its own"):
        measured = archive.measure(package, artifacts)
    if as_json:
        typer.echo(measured.to_json().decode().rstrip())
        return
    typer.echo(
        f"{package.name}: {_described(measured.memory)}, Python {measured.python}, "
        + ", ".join(f"{name} {measured.libraries[name]}" for name in measured.required)
    )
    if measured.unshared is not None:
        typer.echo(f"Each model loads its shared files by itself: {measured.unshared}.")
    if measured.unproven is not None:
        typer.echo(f"Whether batches change responses is unknown: {measured.unproven}.")
    if measured.answers_nothing:
        from mmekit.archive.rules.files import ANSWERS_NOTHING, NUMBERS_AGAIN

        typer.echo(f"warning: {ANSWERS_NOTHING} {NUMBERS_AGAIN}")


@app.command(rich_help_panel=Panel.PACKAGE)
def pack(  # noqa: PLR0913 - what can be chosen about an archive
    package: PackageFolder,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The archive, NAME.tar.gz; with --artifacts-in the folder for the archives.",
        ),
    ],
    artifacts: Annotated[
        Path | None,
        typer.Option(
            "--artifacts",
            exists=True,
            file_okay=False,
            help="The folder with the trained model's artefacts, such as "
            "build/artifacts/extra_trees_classifier.",
        ),
    ] = None,
    artifacts_in: Annotated[
        Path | None,
        typer.Option(
            "--artifacts-in",
            exists=True,
            file_okay=False,
            help="A folder of such folders, one for each model: each becomes an archive of its "
            "name. One model is measured, and those that differ in numbers only reuse that.",
        ),
    ] = None,
    measure_each: Annotated[
        bool, typer.Option("--measure-each", help="With --artifacts-in: measure every model.")
    ] = False,
    worker_slots: Annotated[
        bool,
        typer.Option(
            help="Load by forking a template process, and serve all workers from one process, "
            "also in the stock image."
        ),
    ] = True,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Make a layer of what requirements.txt asks for and the image lacks, so that "
            "nothing is installed at a load. The wheels are those of requirements.lock, which is "
            "written beside it.",
        ),
    ] = False,
    thin: Annotated[
        bool,
        typer.Option(
            "--thin",
            help="Only name the layers: they are written to layers/<SHA-256>.tar.gz beside the "
            "archive, the runtime among them, for `mme deploy` or `mme layers push` to upload.",
        ),
    ] = False,
    register: Register = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --register: do not ask before a real account.")
    ] = False,
    image: Image = None,
    as_json: AsJson = False,
) -> None:
    """Build a reproducible model.tar.gz, or one for each of many.

    With --artifacts-in, models are loaded and packed in parallel; an archive whose inputs have not
    changed stays as it is. Exit 1 if one fails; the others are packed.

    **Examples:** mme pack model_packages/extra_trees_classifier --artifacts
    build/artifacts/extra_trees_classifier -o build/archives/extra_trees_classifier.tar.gz  ·  mme
    pack shop --artifacts-in shops -o build/shops
    """
    from mmekit import archive
    from mmekit.cli.series import expect_one_of, pack_series
    from mmekit.progress import under_way

    expect_one_of(artifacts, artifacts_in, output, measure_each=measure_each)
    expect_registrable(register, is_series=artifacts_in is not None, thin=thin)
    ask_to_register(register, yes=yes)
    if artifacts_in is not None:
        pack_series(
            *(package, artifacts_in, output),
            as_json=as_json,
            worker_slots=worker_slots,
            layers=layers,
            thin=thin,
            image=_image(image),
            measure_each=measure_each,
        )
        return
    assert artifacts is not None  # noqa: S101 - one of the two is there
    with under_way(f"packing {package.name}") as say:
        packed = archive.pack(
            package,
            artifacts,
            output,
            worker_slots=worker_slots,
            layers=layers,
            thin=thin,
            image=_image(image),
            say=say,
        )
    registered = None if register is None else registered_archive(packed.path, register)
    if as_json:
        _print_json(packed, registered)
        return
    _print_packed(packed)
    if registered is not None:
        typer.echo(f"{packed.path}: {registered}")


def _print_json(packed: Packed, registered: RegisteredModel | None) -> None:
    import json
    from dataclasses import asdict

    from mmekit.archive import layer_file

    layers = []
    for layer in packed.layers:
        file = None if layer.inline else str(layer_file(packed.path, layer.sha256))
        layers.append({**asdict(layer), "file": file})
    content = {
        "path": str(packed.path),
        "size": packed.size,
        "sha256": packed.sha256,
        "layers": layers,
        "findings": [asdict(finding) for finding in packed.findings],
        "registered": None if registered is None else asdict(registered),
    }
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _print_packed(packed: Packed) -> None:
    from mmekit.archive import layer_file
    from mmekit.archive.files import size_text
    from mmekit.printing import print_findings

    if packed.findings:
        print_findings(packed.findings)
    typer.echo(f"{packed.path}: {size_text(packed.size)}, SHA-256 {packed.sha256}")
    for layer in packed.layers:
        where = "in it" if layer.inline else layer_file(packed.path, layer.sha256)
        typer.echo(f"  {layer}: {where}")


@app.command(rich_help_panel=Panel.PACKAGE)
def environment(
    *,
    as_json: AsJson = False,
) -> None:
    """Print the recommended Environment of a SageMaker model.

    NAME=value lines as for `docker run --env-file`, or with --json the Environment of create_model.

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
    from mmekit.archive.images import image_of

    return image_of(text)


def _described(memory: MeasuredMemory) -> str:
    from mmekit.archive.files import size_text

    text = f"{memory.required_mb} MiB"
    if memory.forked_mb is not None:
        text += f", {memory.forked_mb} MiB forked"
    if memory.shared is not None:
        text += f" from a process with {size_text(memory.shared)} that models share"
    return text


def _print(described: Description) -> None:
    from rich.text import Text

    from mmekit.printing import TextTable, show

    show(TextTable(("", ""), tuple(_facts(described))))
    signature = described.signature
    for title, columns in (
        ("Inputs", () if signature is None else signature.inputs),
        ("Outputs", () if signature is None else signature.outputs),
    ):
        if columns:
            heads = ("Column", "Type", "Missing", "Values")
            show("", TextTable(heads, tuple(map(_column, columns)), title=title))
    example = described.example
    if example is not None:
        show("", Text(f"Sample request, {example.content_type}", style="bold"))
        show(_shortened(example.request))
        if example.answer is not None:
            show("", Text("Sample response", style="bold"), _shortened(example.answer))
    if described.lacks:
        show("", Text("Missing", style="bold"), *(f"- {lack}" for lack in described.lacks))


def _facts(described: Description) -> Iterator[tuple[str, str]]:
    from mmekit.archive.files import size_text

    yield "Model", described.name
    yield ("Archive" if described.is_archive else "Package"), described.where
    yield "Size", size_text(described.size)
    if described.is_archive:
        yield "Image", described.image or "unknown"
    slots = {None: "added by mme pack", True: "yes", False: "no"}[described.worker_slots]
    least, most = described.min_workers, described.max_workers
    if least is not None or most is not None:
        slots += f"; {least or 'default'} to {most or 'default'} workers"
    yield "Worker slots", slots
    if described.required_memory_mb is not None:
        yield "Memory", _memory(described.required_memory_mb, described.measured)
    for layer in described.layers:
        yield "Layer", f"{layer}, {'in it' if layer.inline else 'only named'}"
    if described.measured is not None:
        yield "Python", described.measured.python
        yield "Libraries", _libraries(described.measured)


def _memory(required: int, measured: Measured | None) -> str:
    text = f"{required} MiB are required to load it"
    if measured is not None:
        text += f"; a separate process takes {measured.memory.required_mb} MiB"
    return text


def _libraries(measured: Measured) -> str:
    return ", ".join(f"{name} {measured.libraries[name]}" for name in measured.required) or "none"


def _column(column: Column) -> tuple[str, str, str, str]:
    among = column.known if column.known is not None else column.categories
    values = ""
    if among is not None:
        values = ", ".join(map(str, among[:_VALUES]))
        if len(among) > _VALUES:
            values += f" and {len(among) - _VALUES} more"
    kind = column.type if column.dtype in (None, column.type) else f"{column.type} ({column.dtype})"
    missing = "yes" if column.missing else "no"
    return column.name, kind, missing if column.required else "optional", values


def _shortened(text: str) -> str:
    text = text.strip()
    if len(text) <= _BODY:
        return text
    # Never in the middle of a number.
    shown = text[:_BODY].rpartition(" ")[0] or text[:_BODY]
    return f"{shown}\nand {len(text) - len(shown)} characters more: --json has them all"


def _members(described: Description) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    members = {name: getattr(described, name) for name in described.__dataclass_fields__}
    for name in ("measured", "signature"):
        if members[name] is not None:
            members[name] = json.loads(members[name].to_json())
    members["layers"] = [asdict(layer) for layer in described.layers]
    if described.example is not None:
        members["example"] = asdict(described.example)
    return members
