"""What several commands are told in the same way."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Artifacts",
    "Containers",
    "Host",
    "Image",
    "Memory",
    "NoInstall",
    "PackageFolder",
    "Server",
    "not_empty",
]

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class Server(str, Enum):
    """The kinds of container that `mme serve` can be."""

    EMBEDDED = "embedded"
    DJL = "djl"
    MMS = "mms"


class Containers(str, Enum):
    """What the containers of `mme up` can be."""

    EMBEDDED = "embedded"
    DJL = "djl"
    DOCKER = "docker"


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; write it like 4GiB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def not_empty(text: str) -> str:
    """Refuse a value that is given and empty."""
    if not text:
        raise typer.BadParameter("it is empty")
    return text


Artifacts = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        exists=True,
        file_okay=False,
        help="The folder that training wrote, such as build/artifacts/extra_trees_classifier.",
    ),
]
Image = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="The image that will serve: a stock one, one that images.json declares, `none` for an "
        "unknown one, or one declared here: mine:1=python3.11,catboost==1.2.8. Otherwise "
        "djl-inference:0.36.0-cpu-full.",
    ),
]
PackageFolder = Annotated[
    Path,
    typer.Argument(
        metavar="PACKAGE",
        exists=True,
        file_okay=False,
        help="The folder with model.py and serving.properties.",
    ),
]
Host = Annotated[
    str,
    typer.Option(help="The address to listen on. Anything but loopback lets others run models."),
]
Memory = Annotated[
    int | None,
    typer.Option(
        parser=_bytes,
        metavar="SIZE",
        help="What models may use, such as 4GiB: beyond it a load is refused with 507. "
        "Otherwise the machine's, and with `up` that of the instance type.",
    ),
]
NoInstall = Annotated[
    bool,
    typer.Option(
        "--no-install",
        help="Refuse models whose requirements.txt asks for what is not installed here. Otherwise "
        "each set of requirements gets an environment of its own, made once by uv.",
    ),
]
