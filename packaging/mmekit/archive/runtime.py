"""mmekit_runtime as it travels inside an archive, or as a layer beside it.

It is found and read, never imported here: an archive holds files, and a process that packs has no
use for the code.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.archive.contents import Contents, Member, read_contents
from mmekit.archive.package import LAYERS_ROOM_FOLDER, RUNTIME_FOLDER
from mmekit.errors import PackageError

if TYPE_CHECKING:
    from collections.abc import Iterable

HOOK_FILE = "sitecustomize.py"
"""Python imports it when a worker starts, as the model's folder is on PYTHONPATH."""

SLOTS_FOLDER = f"{RUNTIME_FOLDER}/slots"
_LAYERS_ROOM = f"{RUNTIME_FOLDER}/layers/"
_NEEDED_OF_LAYERS = (f"{_LAYERS_ROOM}__init__.py", f"{_LAYERS_ROOM}provided.py")
_HOOK_SOURCE = f"{RUNTIME_FOLDER}/site_hook.py"
_BUILD_FILE = f"{SLOTS_FOLDER}/build.py"
_BUILD_DIGITS = 16
_BUILD = re.compile(r'^BUILD = "(\w+)"$', re.MULTILINE)


def runtime_members() -> tuple[Member, ...]:
    """Return the files of mmekit_runtime, as they are installed.

    Raises
    ------
    PackageError
        It is not installed.
    """
    spec = find_spec(RUNTIME_FOLDER)
    if spec is None or spec.origin is None:
        raise PackageError(f"{RUNTIME_FOLDER} is not installed", remedy="install mmekit again")
    return tuple(
        Member(f"{RUNTIME_FOLDER}/{member.name}", member.size, member.path)
        for member in read_contents(Path(spec.origin).parent)
        if member.name.endswith(".py")
    )


def packed_runtime(*, worker_slots: bool, layers: bool = False) -> tuple[Member, ...]:
    """Return what packing adds to a model's own files.

    With worker slots that is mmekit_runtime, the hook that turns a worker into a slot, and the
    build's name: processes of two different runtimes never share a fork server. Without them,
    nothing of it is there; but the hook is, where a model has layers. What gets layers ready is
    left out where there are none.
    """
    members = _built_runtime() if worker_slots else _without(runtime_members(), SLOTS_FOLDER)
    if not layers:
        members = _without(members, _LAYERS_ROOM.rstrip("/"), *_NEEDED_OF_LAYERS)
    return (*members, runtime_hook()) if worker_slots or layers else members


def _without(members: Iterable[Member], folder: str, *but: str) -> tuple[Member, ...]:
    return tuple(one for one in members if one.name in but or not one.name.startswith(f"{folder}/"))


def _built_runtime() -> tuple[Member, ...]:
    """Return the runtime with the name of its build, which is that of all its files."""
    members = runtime_members()
    # The file that will hold the hash cannot be a part of it.
    kept = Contents.of(RUNTIME_FOLDER, [one for one in members if one.name != _BUILD_FILE])
    digest = hashlib.sha256()
    for member in kept:
        digest.update(f"{member.name}\0{member.sha256()}\n".encode())
    build = digest.hexdigest()[:_BUILD_DIGITS]
    text = f'"""Which build of the runtime this is: a hash of its files."""\n\nBUILD = "{build}"\n'
    return (*kept, Member.made_of(_BUILD_FILE, text.encode()))


def runtime_hook() -> Member:
    """Return what Python imports first in a worker of an archive with layers or worker slots."""
    (source,) = (one for one in runtime_members() if one.name == _HOOK_SOURCE)
    return replace(source, name=HOOK_FILE)


def layers_room() -> tuple[Member, ...]:
    """Return what a thin archive has in place of mmekit_runtime: what gets layers, that included.

    It has a top-level name of its own, as mmekit_runtime is imported from its layer afterwards.
    """
    room = (one for one in runtime_members() if one.name.startswith(_LAYERS_ROOM))
    renamed = {one: f"{LAYERS_ROOM_FOLDER}/{one.name.removeprefix(_LAYERS_ROOM)}" for one in room}
    return tuple(replace(one, name=name) for one, name in renamed.items())


def build_of(contents: Contents) -> str | None:
    """Return the build of an archive's worker slots; None when it has none, or they never run."""
    text, hook = contents.text(_BUILD_FILE), contents.text(HOOK_FILE)
    if text is None or hook is None or hook != contents.text(_HOOK_SOURCE):
        return None
    match = _BUILD.search(text)
    return None if match is None else match[1]
