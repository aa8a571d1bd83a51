"""A notebook executed in a copy of the repository, beside an endpoint of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit.engine import engine_folder
from mmekit_local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).parents[1]


def copy_of_the_repository(folder: Path, *names: str) -> Path:
    """Copy what notebooks read; what they write must not meet the developer's own build."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    (folder / "pyproject.toml").touch()  # no .env above this folder is read
    return folder


def on_an_empty_machine(folder: Path) -> dict[str, str]:
    """Return the variables of a machine without network on which nothing has been made yet.

    DJL's engine alone is there.
    """
    return {
        "XDG_CACHE_HOME": str(folder),
        "UV_CACHE_DIR": str(folder / "uv"),
        "UV_OFFLINE": "1",
        "MMEKIT_DJL_PYTHON": str(engine_folder()),
    }


def execute(
    folder: Path, name: str, variables: Mapping[str, str], left_out: Iterable[str] = ()
) -> Any:
    """Execute a notebook in short, after the one that sets up, and return it.

    Parameters
    ----------
    folder
        The copy of the repository.
    variables
        What its environment has besides.
    left_out
        How variables begin that it does not inherit, besides those of mmekit's settings.
    """
    own = ("MME_", *left_out)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    up = [sys.executable, "-m", "mmekit.cli", "up", "--port", str(free_port()), "--"]
    convert = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"]
    notebooks = [f"notebooks/{one}.ipynb" for one in ("0_set_up", name)]
    run = subprocess.run(
        [*up, *convert, "--output-dir", "build/notebooks", *notebooks],
        cwd=folder,
        env={**kept, **variables, "PYTHONPATH": str(folder), "MME_QUICK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return read_notebook(folder / "build" / "notebooks" / f"{name}.ipynb")


def read_notebook(path: Path) -> Any:
    """Return a notebook."""
    import nbformat  # takes long in each process that collects the tests

    return nbformat.read(path, as_version=4)


def shown_by(notebook: Any) -> str:
    """Return all that a notebook prints and shows as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text", "") for output in outputs]
    return "\n".join(texts + [output.get("data", {}).get("text/plain", "") for output in outputs])
