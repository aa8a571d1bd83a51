"""`mme pack --artifacts-in`: many models of one package, one progress bar, failures at the end."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import typer

from mmekit.cli.application import INTERRUPTED
from mmekit.plural import counted
from mmekit.progress import ended_in_order, telling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mmekit.archive import PackedSeries, SeriesProgress
    from mmekit.findings import Finding

_SHOWN = 5


def expect_one_of(
    artifacts: Path | None, artifacts_in: Path | None, output: Path, *, measure_each: bool
) -> None:
    """Refuse options that do not go together."""
    hint = "--artifacts or --artifacts-in"
    if artifacts is None and artifacts_in is None:
        raise typer.BadParameter("one of the two is needed", param_hint=hint)
    if artifacts is not None and artifacts_in is not None:
        raise typer.BadParameter("only one of the two can be given", param_hint=hint)
    if measure_each and artifacts_in is None:
        raise typer.BadParameter(
            "a single model is measured by itself anyway", param_hint="--measure-each"
        )
    if artifacts is not None and output.is_dir():
        raise typer.BadParameter(
            f"{output} is a folder, and an archive is a file: NAME.tar.gz", param_hint="--output"
        )
    if artifacts_in is not None and output.exists() and not output.is_dir():
        raise typer.BadParameter(
            f"{output} is a file, and many archives need a folder", param_hint="--output"
        )


def pack_series(
    package: Path, artifacts_in: Path, output: Path, *, as_json: bool, **options: Any
) -> None:
    """Pack all of them, and print what became of them; exit 1 if one failed."""
    from mmekit import archive

    last: list[SeriesProgress] = []
    try:
        with ended_in_order(), _following(f"packing {package.name}", last) as (say, watch):
            result = archive.pack_all(
                package, artifacts_in, output, say=say, watch=watch, **options
            )
    except KeyboardInterrupt:
        done = last[-1].packed + last[-1].unchanged if last else 0
        typer.echo(
            f"mme: interrupted. {done} of {last[-1].total if last else 0} archives are complete "
            "and stay; run the command again to go on.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    (_print_json if as_json else _print_result)(result, output)
    if result.failures:
        raise typer.Exit(1)


@contextlib.contextmanager
def _following(
    what: str, last: list[SeriesProgress]
) -> Iterator[tuple[Callable[[str], Any], Callable[[SeriesProgress], None]]]:
    """Yield what is told a line, and what is told how far it is: a bar, or lines in a pipe."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if not console.is_terminal:

        def said() -> str:
            return what + (
                "".join(f": {p.done} of {p.total} done{_counts(p)}" for p in last) or " …"
            )

        with telling(said):
            yield say, lambda progress: last.__setitem__(slice(None), [progress])
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TextColumn("{task.fields[counts]}")),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, counts="")

        def move(progress: SeriesProgress) -> None:
            last[:] = [progress]
            counts = _counts(progress).removeprefix(", ")
            bar.update(task, total=progress.total, completed=progress.done, counts=counts)

        yield say, move


def _counts(progress: SeriesProgress) -> str:
    counts = (
        (progress.measured, "measured"),
        (progress.reused, "reused"),
        (progress.unchanged, "unchanged"),
        (progress.failed, "failed"),
    )
    return "".join(f", {count} {what}" for count, what in counts if count)


def _print_result(result: PackedSeries, output: Path) -> None:
    from mmekit.printing import print_findings

    print_findings(_merged(result))
    if result.left_out:
        typer.echo(f"Left out, as no folders of artefacts: {_named(result.left_out)}")
    for name, error in result.failures.items():
        typer.echo(f"{name} failed: {error}", err=True)
    total = len(result.packed) + len(result.unchanged) + len(result.failures)
    typer.echo(
        f"{output}: {counted(total, 'model')}: {len(result.packed)} packed, "
        f"{len(result.unchanged)} unchanged, {len(result.failures)} failed"
    )
    if result.measured:
        typer.echo(f"Measured: {len(result.measured)} ({_named(result.measured)})")
    if result.reused:
        like = tuple(dict.fromkeys(result.reused.values()))
        typer.echo(
            f"Reused: memory and libraries of {_named(like)} for "
            f"{counted(len(result.reused), 'model')} that differ in numbers only; each was loaded "
            "and answered the sample. --measure-each measures each."
        )


def _merged(result: PackedSeries) -> list[Finding]:
    """Return each finding once, with how many further models it is about."""
    from dataclasses import replace

    from mmekit.findings import ordered

    about: dict[tuple[str, ...], list[tuple[str, Finding]]] = {}
    for name, packed in result.packed.items():
        for one in packed.findings:
            key = (one.severity, one.rule, one.message, one.remedy)
            about.setdefault(key, []).append((name, one))
    merged = []
    for found in about.values():
        names = list(dict.fromkeys(name for name, _ in found))
        first = found[0][1]
        merged.append(replace(first, where=f"{first.where} ({_named(names)})"))
    return list(ordered(merged))


def _named(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _print_json(result: PackedSeries, output: Path) -> None:
    import json
    from dataclasses import asdict

    content = {
        "output": str(output),
        "packed": {
            name: {
                "path": str(one.path),
                "size": one.size,
                "sha256": one.sha256,
                "findings": [asdict(finding) for finding in one.findings],
            }
            for name, one in result.packed.items()
        },
        "unchanged": result.unchanged,
        "failures": {
            name: {"what": one.what, "where": one.where, "remedy": one.remedy}
            for name, one in result.failures.items()
        },
        "measured": result.measured,
        "reused": result.reused,
        "left_out": list(result.left_out),
    }
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
