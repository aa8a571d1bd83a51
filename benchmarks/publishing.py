"""What a benchmark leaves: its picture, and copies in docs/benchmarks where a reader finds them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "docs" / "benchmarks"
README = ROOT / "README.md"
_BEGIN, _END = "<!-- figures:", "<!-- end of figures -->"


def pyplot(name: str, font_size: int) -> Any:
    """Return matplotlib.pyplot, set up so that the same figures give the same SVG.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = name
    mpl.rcParams["font.size"] = font_size
    return plt


def save(figure: Any, folder: Path, name: str) -> None:
    """Write a figure as ``name.svg``, and close it."""
    from matplotlib import pyplot as plt

    figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def try_to_draw(draw: Callable[[], None], console: Console) -> None:
    """Draw a picture, or say why there is none: tables are worth having without one."""
    try:
        draw()
    except ImportError as error:
        console.print(f"no picture: {error}")


class IncompleteRunError(Exception):
    """A run lacks something that the README shows; the text says what."""


def publish(
    output: Path,
    name: str,
    console: Console,
    summary: Callable[[Mapping[str, Any]], str] | None = None,
) -> bool:
    """Copy a benchmark's JSON, tables and picture; False when they are not worth publishing.

    Parameters
    ----------
    summary
        Makes the README's table of what the JSON holds, or raises IncompleteRunError; None for a
        benchmark without one.
    """
    if summary is not None:
        try:
            text = summary(json.loads((output / f"{name}.json").read_text()))
        except IncompleteRunError as error:
            console.print(f"Not published: the README shows {error}, which this run lacks.")
            return False
        put_into_readme(name, text)
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    for suffix in ("json", "md", "svg"):
        file = output / f"{name}.{suffix}"
        if file.exists():
            shutil.copyfile(file, PUBLISHED / file.name)
    return True


def published_content(name: str) -> dict[str, Any] | None:
    """Return what the last published report of a benchmark holds; None when there is none."""
    try:
        content: dict[str, Any] = json.loads((PUBLISHED / f"{name}.json").read_text())
    except FileNotFoundError:
        return None
    return content


def put_into_readme(name: str, text: str) -> None:
    """Put a benchmark's table between its marks in the README."""
    begin = f"{_BEGIN} written by benchmarks/{name}.py --publish -->"
    before, found, rest = README.read_text().partition(begin)
    _, end, after = rest.partition(_END)
    if not (found and end) or _BEGIN in rest.partition(_END)[0]:
        raise RuntimeError(f"{README} lacks {begin} or the {_END} that belongs to it")
    README.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
