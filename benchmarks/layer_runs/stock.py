"""A stand-in for the stock image: a Python environment with what the image's table has.

Without torch, XGBoost and the AWS CLI, which are large and which CatBoost does not ask for. Docker
would isolate no more of what is measured here, and wants a base image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import parse_wheel_filename
from slot_runs.servers import ServerFailure

from mmekit.archive import STOCK_IMAGE
from mmekit.uv import find_uv, uv_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LEFT_OUT = frozenset(
    {
        "awscli",
        "botocore",
        "mpmath",
        "networkx",
        "s3transfer",
        "sympy",
        "torch",
        "torchvision",
        "xgboost",
    }
)
_TAIL = 2000


@dataclass(frozen=True)
class Container:
    """An environment that nothing has been installed into since it was made."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    def variables(self, wheels: Path | None = None) -> dict[str, str]:
        """Return what DJL Serving is started with, to run its workers in here.

        Parameters
        ----------
        wheels
            Where pip finds all that it installs; None where it asks an index, as on a new instance.
        """
        path = os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", os.defpath)])
        found = {"PYTHON_EXECUTABLE": str(self.python), "PATH": path, "PIP_NO_CACHE_DIR": "1"}
        # Of the shell that started this, where it is set; the image does not.
        found["PYTHONDONTWRITEBYTECODE"] = ""
        if wheels is not None:
            found |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        return found


class StockImage:
    """What containers are made of.

    Parameters
    ----------
    work
        An empty folder.

    Raises
    ------
    ServerFailure
        It cannot be made: no network, or no Python of the image's version.
    """

    def __init__(self, work: Path) -> None:
        self._image = work / "image"
        self._container = work / "container"
        # Of that Python, whichever runs this.
        python = STOCK_IMAGE.python
        if sys.version.split(" ")[0].startswith(f"{python}."):
            python = sys.executable
        _run([find_uv(), "venv", "--python", python, str(self._image)])
        # Compiled, as in an image that pip has filled.
        _run(
            [
                *(find_uv(), "pip", "install", "--compile-bytecode", "--no-deps"),
                *("--python", str(self._image / "bin" / "python")),
                *wanted(),
            ]
        )

    def container(self) -> Container:
        """Return a new container; there is one at a time."""
        shutil.rmtree(self._container, ignore_errors=True)
        shutil.copytree(self._image, self._container, symlinks=True)
        return Container(self._container)


def wanted() -> list[str]:
    """Return what is installed, as in a requirements.txt."""
    versions = {**STOCK_IMAGE.resolved, **STOCK_IMAGE.pinned}
    return [f"{name}=={one}" for name, one in sorted(versions.items()) if name not in _LEFT_OUT]


def download(container: Container, requirements: Path, wheels: Path) -> list[str]:
    """Download what pip would install into a container; return what the image lacks of it."""
    variables = {**_kept(), **container.variables()}
    pip = [str(container.python), "-m", "pip", "-q"]
    _run([*pip, "download", "-d", str(wheels), "-r", str(requirements)], variables)
    names = (parse_wheel_filename(one.name)[:2] for one in sorted(wheels.glob("*.whl")))
    return [f"{name}=={version}" for name, version in names if not STOCK_IMAGE.has(name)]


def _run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    finished = subprocess.run(
        command,
        env=uv_variables() if variables is None else variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise ServerFailure(f"the stand-in of the stock image: {finished.stderr[-_TAIL:]}")


def _kept() -> dict[str, str]:
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in dropped}
