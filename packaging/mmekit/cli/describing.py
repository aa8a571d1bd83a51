"""The command `mme describe`: what a model takes and gives, for people and for machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmekit.cli.application import app

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from mmekit.archive import Description, Measured
    from mmekit_runtime.signature import Column

_MIB = 1 << 20
_VALUES = 8
_BODY = 400


@app.command()
def describe(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A package folder, or a packed archive.")
    ],
    *,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            "--artifacts",
            exists=True,
            file_okay=False,
            help="The package's artefacts, where signature and measurement are.",
        ),
    ] = None,
    as_openapi: Annotated[
        bool, typer.Option("--openapi", help="Print an OpenAPI 3.1 document.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a model takes and gives, what it needs, and what nobody has said of it.

    Nothing of it is run.

    **Example:** mme describe build/archives/extra_trees_classifier.tar.gz
    """
    import json

    from mmekit import archive

    described = archive.describe(path, artifacts=artifacts)
    if as_openapi:
        typer.echo(json.dumps(archive.openapi(described), indent=2, ensure_ascii=False))
    elif as_json:
        typer.echo(json.dumps(_members(described), indent=2, ensure_ascii=False))
    else:
        _print(described)


def _print(described: Description) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(_table(("", ""), _facts(described), headed=False))
    signature = described.signature
    for title, columns in (
        ("takes", () if signature is None else signature.inputs),
        ("gives", () if signature is None else signature.outputs),
    ):
        if columns:
            console.print(Text(f"\nIt {title}", style="bold"))
            heads = ("Column", "Type", "Missing", "Values")
            console.print(_table(heads, [_column(column) for column in columns]))
    example = described.example
    if example is not None:
        console.print(Text(f"\nA request, {example.content_type}", style="bold"))
        console.print(Text(_shortened(example.request)))
        if example.answer is not None:
            console.print(Text("\nIts answer", style="bold"))
            console.print(Text(_shortened(example.answer)))
    if described.lacks:
        console.print(Text("\nIt does not say", style="bold"))
        for lack in described.lacks:
            console.print(Text(f"- {lack}"))


def _facts(described: Description) -> Iterator[tuple[str, str]]:
    yield "Model", described.name
    yield ("Archive" if described.is_archive else "Package"), described.where
    in_mib = described.size >= _MIB
    yield "Size", f"{described.size / (_MIB if in_mib else 1024):.1f} {'MiB' if in_mib else 'KiB'}"
    if described.is_archive:
        yield "Image", described.image or "unknown"
    slots = {None: "added by mme pack", True: "yes", False: "no"}[described.worker_slots]
    least, most = described.min_workers, described.max_workers
    if least is not None or most is not None:
        slots += f"; {least or 'default'} to {most or 'default'} workers"
    yield "Worker slots", slots
    if described.required_memory_mb is not None:
        yield "Memory", _memory(described.required_memory_mb, described.measured)
    if described.measured is not None:
        yield "Python", described.measured.python
        yield "Libraries", _libraries(described.measured)


def _memory(required: int, measured: Measured | None) -> str:
    text = f"{required} MiB are asked for at a load"
    if measured is not None:
        text += f"; a process of its own takes {measured.memory.required_mb} MiB"
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
    return column.name, kind, missing if column.required else "or left out", values


def _table(heads: Sequence[str], rows: Any, *, headed: bool = True) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=headed)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _BODY else f"{text[:_BODY]} … ({len(text)} characters)"


def _members(described: Description) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    members = {name: getattr(described, name) for name in described.__dataclass_fields__}
    for name in ("measured", "signature"):
        if members[name] is not None:
            members[name] = json.loads(members[name].to_json())
    if described.example is not None:
        members["example"] = asdict(described.example)
    return members
