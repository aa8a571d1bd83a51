"""The artefact folders in a folder, whose names become keys of archives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.archive.contents import UNWANTED_NAMES
from mmekit.errors import PackageError

if TYPE_CHECKING:
    from pathlib import Path

# What deployment files take as a key, and a little less than the 255 bytes of a file's name, as an
# archive is written under a longer one first.
_NAME = re.compile(r"[A-Za-z0-9_!*'()-][A-Za-z0-9_!*'().-]*")
_LONGEST = 230
_SHOWN = 5


@dataclass(frozen=True)
class SubFolders:
    """What is in a folder of artefact folders.

    Attributes
    ----------
    folders
        The artefact folders by name, sorted.
    left_out
        Names of files, and of folders that begin with a dot, but for what caches leave behind.
    """

    folders: dict[str, Path]
    left_out: tuple[str, ...]


def sub_folders(folder: Path, output: Path) -> SubFolders:
    """Return a folder's sub-folders; links to folders are followed.

    Raises
    ------
    PackageError
        It has none, or one whose name no client could ask for, or ``output`` is one of them.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise PackageError(f"The folder {problem}", where=str(folder), remedy="check the path")
    folders: dict[str, Path] = {}
    left_out: list[str] = []
    broken: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name in UNWANTED_NAMES:
            continue
        if not path.is_dir():
            (broken if path.is_symlink() and not path.exists() else left_out).append(path.name)
        elif path.name.startswith("."):
            left_out.append(path.name)
        else:
            folders[path.name] = path
    if broken:
        raise PackageError(
            f"{_named(broken)}: a link that leads nowhere",
            where=str(folder),
            remedy="remove or repair it: it cannot be told which model it stood for",
        )
    _expect_folders(folder, folders)
    _expect_keys(folder, folders)
    place = output.resolve()
    for name, path in folders.items():
        if place.is_relative_to(path.resolve()):
            raise PackageError(
                f"The archives would be written into {name}, one of the folders to pack",
                where=str(output),
                remedy=f"choose a folder outside of {folder} for --output",
            )
    return SubFolders(folders, tuple(left_out))


def _expect_folders(folder: Path, folders: dict[str, Path]) -> None:
    if not folders:
        raise PackageError(
            "There is no sub-folder in it, and each is to be one model's artefacts",
            where=str(folder),
            remedy="name the folder above; the artefacts of one model are packed with --artifacts",
        )


def _expect_keys(folder: Path, folders: dict[str, Path]) -> None:
    wrong = [name for name in folders if not _NAME.fullmatch(name) or len(name) > _LONGEST]
    if wrong:
        raise PackageError(
            f"{_named(wrong)}: no name for an archive that clients ask for by its key",
            where=str(folder),
            remedy="rename it: a key is made of ASCII letters, digits and . _ - ! * ' ( ), and a "
            f"name has {_LONGEST} of them at most",
        )


def _named(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
