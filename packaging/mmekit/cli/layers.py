"""Commands about the layers of archives: push, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmekit.cli.application import AsJson, Panel, app
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from mmekit.deploy.layer_files import NamedLayer

layers = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    layers,
    name="layers",
    help="List what archives have in common, and upload it once.",
    rich_help_panel=Panel.PACKAGE,
)

Archives = Annotated[
    list[Path],
    typer.Argument(
        metavar="ARCHIVE", exists=True, dir_okay=False, help="Archives of `mme pack` (.tar.gz)."
    ),
]


@layers.command("list")
def show(archives: Archives, *, as_json: AsJson = False) -> None:
    """List the layers of archives, each once.

    Where is `inline` for a layer that is in the archives, `beside` for one that thin archives name
    and that lies in the folder layers/ beside them, and `missing` for one that does not.

    **Example:** mme layers list build/archives/*.tar.gz
    """
    from mmekit.deploy.layer_files import named_layers
    from mmekit.plural import counted
    from mmekit.progress import under_way

    with under_way(f"reading {counted(len(archives), 'archive')}"):
        found = {archive: named_layers(archive) for archive in archives}
    if as_json:
        content = [
            {"archive": str(archive), "layers": [_members(layer) for layer in named]}
            for archive, named in found.items()
        ]
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    _print([layer for named in found.values() for layer in named])
    plain = [archive.name for archive, named in found.items() if not named]
    if plain:
        typer.echo(f"without layers: {', '.join(plain)}")


@layers.command("push")
def push(
    archives: Archives,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="s3://BUCKET/PREFIX/",
            help="Where to: beside the prefix of the models, not under it.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Upload the layers that thin archives name, each once.

    `mme deploy` does this by itself. Use it for endpoints that something else makes: give their
    models the variable MMEKIT_LAYERS=s3://BUCKET/PREFIX/, and let their role read it. MME_TARGET
    says whether S3 is the local service's or AWS's.

    **Example:** mme layers push build/archives/*.tar.gz --to s3://my-bucket/models-layers/
    """
    from mmekit.deploy.layer_files import named_layers, thin_layers
    from mmekit.deploy.layer_push import LayerPlace, push_layers

    place = LayerPlace.of(to)
    named = thin_layers((archive, named_layers(archive)) for archive in archives)
    if not named:
        raise DeployError(
            "None of the archives names a layer that it does not bring along.",
            where=", ".join(archive.name for archive in archives),
            remedy="Pack with `mme pack --thin`; other archives need no layers elsewhere.",
        )
    pushed = push_layers(named, place, lambda text: typer.echo(text, err=True))
    if as_json:
        typer.echo(json.dumps([vars(one) for one in pushed], indent=2, ensure_ascii=False))
        return
    for one in pushed:
        typer.echo(str(one))
    typer.echo(f"Containers find them with MMEKIT_LAYERS={place}")


def _members(layer: NamedLayer) -> dict[str, Any]:
    file = None if layer.is_inline else str(layer.file)
    return {**vars(layer.entry), "where": layer.place, "file": file}


def _print(named: list[NamedLayer]) -> None:
    from mmekit.deploy.layers import short_name
    from mmekit.printing import TextTable, show

    same: dict[tuple[str, str], list[NamedLayer]] = {}
    for layer in named:
        same.setdefault((layer.entry.sha256, layer.place), []).append(layer)
    rows = []
    for (sha256, place), alike in same.items():
        entry = alike[0].entry
        cells = (entry.kind, f"{entry.bytes / 1e6:.1f}", place, str(len(alike)), entry.says)
        rows.append((short_name(sha256), *cells))
    if rows:
        heads = ("Layer", "Kind", "MB", "Where", "Uses", "What is in it")
        show(TextTable(heads, tuple(rows), numbers=("MB", "Uses")))
