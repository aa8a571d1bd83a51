"""The models that the entries of a deployment file stand for: globs and folders, opened."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.archive.sub_folders import sub_folders
from mmekit.deploy.parts import is_key
from mmekit.errors import DeployError
from mmekit_runtime.layers.listing import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.deploy.deployment import Deployment
    from mmekit.deploy.parts import ModelEntry

__all__ = ["single_entries"]

_SUFFIX = ".tar.gz"
_LAYER = re.compile(r"[0-9a-f]{64}\.tar\.gz")


def single_entries(deployment: Deployment) -> tuple[ModelEntry, ...]:
    """Return an entry for each model, in the file's order; those of one entry by their names.

    Raises
    ------
    DeployError
        An entry stands for nothing, for what is no archive, or two models have the same key.
    PackageError
        A folder of artefacts has a name that cannot be a key.
    """
    found = [
        (number, entry)
        for number, given in enumerate(deployment.packages)
        for entry in _opened(number, given)
    ]
    seen: dict[str, tuple[int, ModelEntry]] = {}
    for number, entry in found:
        if entry.key in seen:
            first, other = seen[entry.key]
            raise DeployError(
                f"Two archives have the key {entry.key}: {other.archive} of packages.{first} and "
                f"{entry.archive} of packages.{number}.",
                where=deployment.name,
                remedy="Name each archive once; where two models are meant, give one of them "
                "another `key` in an entry of its own.",
            )
        seen[entry.key] = (number, entry)
    return tuple(entry for _, entry in found)


def _opened(number: int, given: ModelEntry) -> Iterator[ModelEntry]:
    if given.artifacts_in is not None and given.archives is not None:
        for folder in _folders(number, given.artifacts_in, given.archives):
            file = Path(given.archives, f"{folder.name}{_SUFFIX}")
            yield _entry(number, given, file, folder)
        return
    if not given.is_many:
        yield given
        return
    files = [file for file in _files(given) if file.is_file() and not _is_layer(file)]
    if not files:
        raise DeployError(
            "There is no archive of this entry: nothing matches it.",
            where=f"packages.{number}: {given.archive}",
            remedy="Pack the models (mme pack), correct the path, which is relative to the file, "
            "or remove the entry.",
        )
    for file in files:
        yield _entry(number, given, file, None)


def _files(given: ModelEntry) -> list[Path]:
    if given.pattern is None:
        folder = given.archive or Path()
        return sorted(file for file in folder.glob(f"*{_SUFFIX}") if not file.name.startswith("."))
    folder, pattern = given.pattern
    # Not by the Path: the pattern may be an absolute one, and hidden files are nobody's models.
    names = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
    return sorted(Path(folder, name) for name in names)


def _is_layer(file: Path) -> bool:
    """Say whether a file is one that packing has left beside thin archives, and no model."""
    return file.parent.name == FOLDER and _LAYER.fullmatch(file.name) is not None


def _folders(number: int, parent: Path, output: Path) -> list[Path]:
    if not parent.is_dir() or not any(one.is_dir() for one in parent.iterdir()):
        raise DeployError(
            "No folder is in artifacts_in: each would become an archive.",
            where=f"packages.{number}: {parent}",
            remedy="Train the models, one folder of artefacts each, or correct the path, which is "
            "relative to the file.",
        )
    return list(sub_folders(parent, output).folders.values())


def _entry(number: int, given: ModelEntry, file: Path, artifacts: Path | None) -> ModelEntry:
    """Return the entry of one of many, whose name has to be a key."""
    if not is_key(file.name):
        raise DeployError(
            "A file's name cannot be a key: ASCII letters, digits and !.*'()_-, and .tar.gz at its "
            "end.",
            where=f"packages.{number}: {file}",
            remedy="Rename it, or narrow the pattern, such as build/archives/*.tar.gz.",
        )
    # What it is one of stays: it is packed together with the others.
    single = {"archive": file, "key": file.name, "artifacts": artifacts}
    return given.model_copy(update=single)
