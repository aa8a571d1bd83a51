"""The layers that an instance has: one copy of each, beside its models."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .contents import digest_of_folder, layer_files
from .holding import GONE_SUFFIX, LOCK_SUFFIX, hold, signature
from .listing import LayerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAKING_SUFFIX = ".making"
_NEW = ".new"
_FREE_SHARE = 10
"""Of the disk one part in so many stays free, where nobody has said how much layers may take."""


class LayerStore:
    """A folder with layers, each of which is there whole or not at all.

    Any number of processes use it at once. Whoever uses a layer holds it; whoever adds one has its
    ``.making`` file, so that a layer is made once.

    Parameters
    ----------
    folder
        It is made when the first layer is added.
    budget
        Bytes that all its layers may take; None leaves a tenth of the disk free.
    """

    def __init__(self, folder: str | os.PathLike[str], budget: int | None = None) -> None:
        self.folder = Path(folder)
        self.budget = budget

    def get(self, sha256: str) -> Path | None:
        """Return a layer's folder, None when it is not here."""
        found = self.folder / sha256
        return found if found.is_dir() else None

    def hold(self, sha256: str) -> int | None:
        """Return a descriptor; while it is open, the layer stays. None when it is not here."""
        return hold(str(self.folder), sha256)

    def add(self, sha256: str, fill: Callable[[Path], object], size: int = 0) -> Path:
        """Return a layer's folder, and have it made when it is not here.

        Parameters
        ----------
        fill
            Writes the files into the empty folder that it is given; whatever it raises, nothing of
            them stays.
        size
            Bytes for which room is made before; as far as layers can go that nobody uses.

        Raises
        ------
        LayerError
            What was written is another layer.
        OSError
            The store cannot be written.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._alone(sha256 + MAKING_SUFFIX):
            found = self.get(sha256)
            if found is not None:
                return found
            self.make_room(size)
            new = self.folder / f".{sha256}{_NEW}"
            # Of somebody who was killed: nobody else has the right to it now.
            _remove(new)
            new.mkdir(mode=0o700)
            try:
                fill(new)
                digest = digest_of_folder(new)
                if digest.sha256 != sha256:
                    raise LayerError(
                        f"what should be layer {sha256[:12]} is another, {digest.sha256[:12]}: its "
                        f"bytes were damaged or changed; put it there again"
                    )
                new.chmod(0o755)
                for _, path in layer_files(new):
                    # All models read them: none may write, as far as the system can see to that.
                    os.chmod(path, 0o555 if os.access(path, os.X_OK) else 0o444)
                with self._alone(sha256 + LOCK_SUFFIX) as lock:
                    # The umask cuts what it was made with, and others hold a layer by it, too.
                    os.fchmod(lock, 0o644)
                    os.ftruncate(lock, 0)
                    os.write(lock, b"%d %s\n" % (digest.bytes, signature(str(new))))
                return new.rename(self.folder / sha256)
            finally:
                _remove(new)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each layer's files, by its name."""
        return {one.name: self._size(one.name) for one in self._layers()}

    def make_room(self, size: int) -> None:
        """Evict what nobody uses, until so many bytes more are within the budget."""
        missing = sum(self.sizes().values()) + size - (self.budget or 0)
        if self.budget is None:
            disk = shutil.disk_usage(self.folder)
            missing = disk.total // _FREE_SHARE + size - disk.free
        if missing > 0:
            self.evict(missing)

    def evict(self, wanted: int) -> int:
        """Remove layers until so many bytes are free that were not; return how many there are.

        The one that was used the longest time ago goes first, and none that somebody holds.
        """
        freed = self._sweep()
        for name in sorted((one.name for one in self._layers()), key=self._used_at):
            if freed >= wanted:
                break
            size = self._size(name)
            if self._drop(name):
                freed += size
        return freed

    def _drop(self, sha256: str) -> bool:
        try:
            with self._alone(sha256 + LOCK_SUFFIX, wait=False):
                gone = self.folder / f".{sha256}.{os.getpid()}{GONE_SUFFIX}"
                (self.folder / sha256).rename(gone)
        except OSError:
            return False
        _remove(gone)
        return True

    def _sweep(self) -> int:
        """Remove what processes have left that were killed; return its bytes."""
        freed = 0
        for left in self.folder.glob(".*"):
            if left.suffix not in (_NEW, GONE_SUFFIX) or not left.is_dir():
                continue
            lock = left.name[1:].partition(".")[0]
            with (
                contextlib.suppress(OSError),
                self._alone(
                    lock + (MAKING_SUFFIX if left.suffix == _NEW else LOCK_SUFFIX), wait=False
                ),
            ):
                freed += sum(one.stat().st_size for one in left.rglob("*") if one.is_file())
                _remove(left)
        return freed

    def _layers(self) -> Iterator[Path]:
        for lock in self.folder.glob(f"*{LOCK_SUFFIX}"):
            layer = lock.with_suffix("")
            if layer.is_dir():
                yield layer

    def _size(self, sha256: str) -> int:
        try:
            return int((self.folder / (sha256 + LOCK_SUFFIX)).read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return 0

    def _used_at(self, sha256: str) -> int:
        try:
            return (self.folder / (sha256 + LOCK_SUFFIX)).stat().st_mtime_ns
        except OSError:
            return 0

    @contextlib.contextmanager
    def _alone(self, name: str, *, wait: bool = True) -> Iterator[int]:
        """Have a lock file for this process; BlockingIOError when another has it, and so waits not.

        The file stays, as one that was removed could be locked by one process and another made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = os.open(self.folder / name, flags, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield lock
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
