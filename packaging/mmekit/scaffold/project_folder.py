"""A new project: a folder with a model, its tests and its workflow, which owes nothing to ours.

What it is made of is in the folder ``project`` beside this module, as files that are what they will
be but for the project's name and mmekit's version. They are no modules of this package, and nothing
here imports them.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmekit import __version__
from mmekit.errors import ProjectError

__all__ = ["new_project"]

_TEMPLATE = Path(__file__).parent / "project"
_NAME_IN_TEMPLATE = "my-project"
_VERSION_IN_TEMPLATE = "mmekit[local]==0.0.0"
# An endpoint's and a bucket's name begin with it: as `mme deploy` has it, without capitals.
_NAME = re.compile(r"(?=.{1,32}$)[a-z0-9]+(-[a-z0-9]+)*")
# Under their own names they would mean something to git in this repository.
_HIDDEN = {"gitignore": ".gitignore", "github": ".github"}
_NOT_OURS = {"__pycache__", ".ipynb_checkpoints"}  # what a tool has left among the files


def new_project(folder: Path | str) -> tuple[Path, ...]:
    """Write a project into a folder that is new or empty.

    Parameters
    ----------
    folder
        Its last part is the project's and the endpoint's name: 1 to 32 lower-case letters, digits
        and single hyphens.

    Returns
    -------
    tuple[Path, ...]
        The files, below the folder.

    Raises
    ------
    ProjectError
        The name is not possible, or something is there already: nothing is overwritten.
    """
    folder = Path(folder)
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise ProjectError(
            f"{name!r} is no name for a project: the endpoint and its bucket are named after it.",
            where=str(folder),
            remedy="Use 1 to 32 lower-case letters, digits and single hyphens, no hyphen at "
            "either end.",
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ProjectError(
            "There is something of that name already, and nothing is overwritten.",
            where=str(folder),
            remedy="Choose another name, or an empty folder.",
        )
    written = []
    for source in sorted(_TEMPLATE.rglob("*")):
        parts = source.relative_to(_TEMPLATE).parts
        if source.is_dir() or _NOT_OURS & {*parts}:
            continue
        path = Path(*(_HIDDEN.get(part, part) for part in parts))
        text = source.read_text(encoding="utf-8").replace(_NAME_IN_TEMPLATE, name)
        # What is promoted are digests: the laptop and CI have to pack with one version.
        text = text.replace(_VERSION_IN_TEMPLATE, f"mmekit[local]=={__version__}")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        written.append(path)
    return tuple(written)
