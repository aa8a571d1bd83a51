"""Options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Artifacts", "Image", "PackageFolder", "not_empty"]


def not_empty(text: str) -> str:
    """Refuse a value that is given and empty."""
    if not text:
        raise typer.BadParameter("the value is empty")
    return text


Artifacts = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        exists=True,
        file_okay=False,
        help="The folder with the trained model's artefacts, such as "
        "build/artifacts/extra_trees_classifier.",
    ),
]
Image = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="The container image to compare libraries with: a stock DJL image, an entry of "
        "images.json, a declaration such as mine:1=python3.11,catboost==1.2.8, or `none` to skip "
        "it. Default: djl-inference:0.36.0-cpu-full.",
    ),
]
PackageFolder = Annotated[
    Path,
    typer.Argument(
        metavar="PACKAGE",
        exists=True,
        file_okay=False,
        help="The package folder: model.py, serving.properties.",
    ),
]
