"""The layers on an instance's disk: each once, beside the models that have it in common.

What an archive brings of them goes here and not into the model's folder, and what is here already
is passed over when the next archive is unpacked. Containers put here what they fetch themselves;
those of Docker, which can only read it, have a folder of their own for that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING

from mmekit.archive.tarball import open_tarball
from mmekit_runtime.layers.holding import LISTING_BYTES
from mmekit_runtime.layers.listing import FOLDER, LISTING, LayerError, parse_layers, read_layers
from mmekit_runtime.layers.store import LayerStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mmekit_runtime.layers.listing import LayerEntry

__all__ = ["ArchiveLayers", "DiskLayers", "LayerGoneError"]


class LayerGoneError(Exception):
    """A layer was deleted in the moment in which it was there: whoever needs it tries again."""


class DiskLayers:
    """The layers of an instance.

    Parameters
    ----------
    store
        Where they are: what containers see beside their models.
    apart
        Whether they are taken out of archives at all.
    """

    def __init__(self, store: Path, *, apart: bool = True) -> None:
        # Whoever has the models decides how much there may be, of both.
        self._store = LayerStore(store, budget=sys.maxsize)
        self._locks: dict[str, int] = {}
        self._holders: dict[str, int] = {}
        self._is_closed = False
        self._apart = apart

    @property
    def used(self) -> int:
        """The bytes of all."""
        return sum(self._store.sizes().values())

    def of_archive(self) -> ArchiveLayers:
        """Return what takes the layers of one archive that is being unpacked."""
        return ArchiveLayers(self._store if self._apart else None)

    def bytes_here(self, content: bytes, name: Path) -> int:
        """Return how many bytes of an archive are layers that are here already.

        Raises
        ------
        ArchiveError
            It is damaged, before it says which layers it has.
        """
        sizes = self._store.sizes()
        found = _layers_of(content, name) if sizes else ()
        return sum(sizes.get(one.sha256, 0) for one in found)

    def hold(self, taken: ArchiveLayers) -> tuple[str, ...]:
        """Keep the layers of an archive until they are released; return their names."""
        if self._is_closed:
            taken.close()
        names = tuple(taken.locks)
        for name, lock in taken.locks.items():
            if self._locks.setdefault(name, lock) != lock:
                os.close(lock)  # one is enough, however many models hold it
            self._holders[name] = self._holders.get(name, 0) + 1
        taken.locks.clear()
        return names

    def release(self, names: Iterable[str]) -> None:
        """Let go of layers that were held; they stay until space is wanted."""
        for name in names:
            left = self._holders.pop(name, 0) - 1
            if left > 0:
                self._holders[name] = left
            elif name in self._locks:
                os.close(self._locks.pop(name))

    def evict(self, size: int) -> None:
        """Delete layers that nobody holds, least recently used first, until so many bytes are free.

        It blocks.
        """
        self._store.evict(size)

    def close(self) -> None:
        """Let go of all."""
        self._is_closed = True
        self._holders.clear()
        while self._locks:
            os.close(self._locks.popitem()[1])


class ArchiveLayers:
    """Takes the layers of one archive while it is unpacked.

    Parameters
    ----------
    store
        Where they go; None leaves them in the archive.

    Attributes
    ----------
    locks
        By layer: what holds it.
    """

    def __init__(self, store: LayerStore | None) -> None:
        self.locks: dict[str, int] = {}
        self._store = store
        self._named: frozenset[str] | None = None

    def folder_of(self, name: str, unpacked: Path) -> str | None:
        """Return the folder of the layer that a member of the archive lies in."""
        if self._store is None or not name.startswith(f"{FOLDER}/"):
            return None
        sha256 = name.split("/", 2)[1]
        return f"{FOLDER}/{sha256}" if sha256 in self._names(unpacked) else None

    def keep(self, folder: str, unpack_into: Callable[[Path], None]) -> None:
        """Hold a layer, which is unpacked first when it is not here.

        Raises
        ------
        LayerError
            It is not what its name says.
        """
        self._take(folder.partition("/")[2], unpack_into)

    def take_rest(self, unpacked: Path) -> None:
        """Take what came in an unusual order, before the archive said which layers it has.

        Raises
        ------
        LayerError
            A layer is not what its name says.
        """
        layers = unpacked / FOLDER
        if self._store is None or not layers.is_dir():
            return
        self._named = None
        for sha256 in self._names(unpacked):
            folder = layers / sha256
            if not folder.is_dir():
                continue
            if sha256 not in self.locks and any(one.is_file() for one in folder.rglob("*")):
                self._take(sha256, partial(_move, folder))
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # a model may have a folder of that name
            layers.rmdir()

    def close(self) -> None:
        """Let go of what was held."""
        self._named = None
        while self.locks:
            os.close(self.locks.popitem()[1])

    def _take(self, sha256: str, fill: Callable[[Path], None]) -> None:
        assert self._store is not None  # noqa: S101 - nothing is to be taken otherwise
        lock = self._store.hold(sha256)
        if lock is None:
            folder = self._store.folder
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)  # others may read it; where they may write, nobody trusts it
            # Whoever else unpacks it just now is waited for.
            self._store.add(sha256, fill)
            lock = self._store.hold(sha256)
        if lock is None:
            raise LayerGoneError
        # No process that this one starts is to hold it, too.
        os.set_inheritable(lock, False)  # noqa: FBT003
        self.locks[sha256] = lock

    def _names(self, unpacked: Path) -> frozenset[str]:
        """Return the layers that the archive names; none before it does."""
        if self._named is None:
            try:
                found = read_layers(str(unpacked))
            except LayerError:
                found = ()  # not ours, or broken: the container says which
            if not found and not (unpacked / LISTING).exists():
                return frozenset()
            self._named = frozenset(one.sha256 for one in found)
        return self._named


def _move(folder: Path, place: Path) -> None:
    for path in folder.iterdir():
        path.rename(place / path.name)


class _Seen(Exception):  # noqa: N818
    """As much of an archive was read as is wanted."""


def _layers_of(content: bytes, name: Path) -> tuple[LayerEntry, ...]:
    """Return the layers that an archive names, reading no more of it than need be."""
    text = b""
    with contextlib.suppress(_Seen), open_tarball(name, content) as tar:
        for member in tar:
            if member.name.removeprefix("./") == LISTING and member.size <= LISTING_BYTES:
                text = tar.read_whole(member)
                raise _Seen
    try:
        return parse_layers(text) if text else ()
    except LayerError:
        return ()
