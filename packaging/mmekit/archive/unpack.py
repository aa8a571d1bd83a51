"""Unpacking an archive that nobody vouches for.

Nothing outside of the new folder is ever written: files are created exclusively, in a folder that
only this call knows; links are made last, when no file can be written through them any more, and
each must resolve to a place inside. Python's own data filter (PEP 706; Python 3.10.12, 3.11.4 and
newer) is asked as well, where it exists.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from mmekit.archive.tarball import open_tarball
from mmekit.errors import ArchiveError, UnsafeArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit.archive.budget import Limits
    from mmekit.archive.tar_members import Tarball

_COPY = 1 << 18
_PART_MAX_BYTES, _NAME_MAX_BYTES = 255, 1024
_KINDS = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}


class FoldersApart(Protocol):
    """Keeps folders of an archive elsewhere than the rest of it, and some of them already."""

    def folder_of(self, name: str, unpacked: Path) -> str | None:
        """Return the folder of the archive that a member lies in, if that is kept apart.

        Parameters
        ----------
        name
            The member's, or that of the folder itself.
        unpacked
            A folder that holds what the archive has before it.
        """

    def keep(self, folder: str, unpack_into: Callable[[Path], None]) -> None:
        """Take a folder of the archive; called once, at its first member.

        Parameters
        ----------
        unpack_into
            Unpacks the folder into an empty one. If that is not called, its members are passed
            over, which is much faster. Members that lie elsewhere in the archive than the first
            are passed over in any case.
        """


def unpack(
    archive: Path,
    destination: Path,
    limits: Limits | None = None,
    *,
    content: bytes | None = None,
    apart: FoldersApart | None = None,
) -> None:
    """Unpack a .tar.gz into a new folder: everything, or nothing.

    Files get mode 0644 (0755 when their owner may execute them) and folders 0755, whatever the
    umask. Times are those of unpacking: with the archive's (0 in ours), Python would take a stale
    .pyc for that of a newer source of equal size.

    Parameters
    ----------
    archive
        The .tar.gz.
    destination
        The folder to make; it may exist, but be empty.
    limits
        How much may come out, and what reading it may cost; the defaults of `Limits` when None.
    content
        The archive itself, where it is in memory already; ``archive`` is only its name then.
    apart
        Keeps folders of the archive that shall not be in the new one.

    Raises
    ------
    UnsafeArchiveError
        A member would leave the folder, or is neither file, folder nor harmless link. The message
        names the member.
    BudgetError
        A limit is passed. The message says which.
    ArchiveError
        The archive is missing, damaged or empty, or its files cannot be stored.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - links stay as they are
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ArchiveError(
            "The folder to unpack into exists already",
            where=str(destination),
            remedy="remove it, or choose another",
        )
    temporary = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name[:64]}.")
        )
        with open_tarball(archive, content, limits) as tar:
            unpacking = _Unpacking(archive, temporary, tar)
            _unpack_all(unpacking, apart)
        unpacking.finish()
        # One step, as it is beside; and an error when somebody has filled the folder meanwhile.
        temporary.replace(destination)
        temporary = None
    except OSError as error:
        raise ArchiveError(
            f"The archive cannot be unpacked: {error.strerror or error}",
            where=f"{archive} into {destination}",
            remedy="free space on that disk, or give access to the folder",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


class _Members:
    """The members of an archive, of which one may be put back."""

    def __init__(self, tar: Tarball) -> None:
        self._members = iter(tar)
        self._put_back: list[tarfile.TarInfo] = []

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while True:
            member = self._put_back.pop() if self._put_back else next(self._members, None)
            if member is None:
                return
            yield member

    def put_back(self, member: tarfile.TarInfo) -> None:
        """Have a member come next that was not looked into."""
        self._put_back.append(member)


def _unpack_all(unpacking: _Unpacking, apart: FoldersApart | None) -> None:
    members = _Members(unpacking.tar)
    kept: set[str] = set()
    for member in members:
        name = unpacking.name_of(member)
        folder = None if apart is None else apart.folder_of(name, unpacking.root)
        if apart is None or folder is None:
            unpacking.add(member, name)
        elif folder in kept:
            unpacking.tar.pass_over(folder)
        else:
            kept.add(folder)
            members.put_back(member)
            within = _FolderInArchive(unpacking, members, folder)
            apart.keep(folder, within.unpack_into)


@dataclass(frozen=True)
class _FolderInArchive:
    """A folder whose members come next."""

    around: _Unpacking
    members: _Members
    folder: str

    def unpack_into(self, root: Path) -> None:
        unpacking = _Unpacking(self.around.archive, root, self.around.tar, self.folder)
        for member in self.members:
            name = unpacking.name_of(member)
            if not _is_within(name, self.folder):
                self.members.put_back(member)
                break
            unpacking.add(member, name[len(self.folder) + 1 :])
        unpacking.finish()


def _is_within(name: str, folder: str) -> bool:
    """Say whether a name is that of a folder, or of what lies in it."""
    return f"{name}/".startswith(f"{folder}/")


@dataclass
class _Unpacking:
    """An archive, or a folder of it, on its way into one private folder."""

    archive: Path
    root: Path
    tar: Tarball
    folder: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def name_of(self, member: tarfile.TarInfo) -> str:
        """Return a member's name in the archive."""
        return self._name(member, member.name)

    def add(self, member: tarfile.TarInfo, name: str) -> None:
        """Create what a member stands for, under the name that it has in the folder."""
        if not name:
            if not member.isdir():
                self._refuse(member, "its name is that of the folder itself")
            return
        self._ask_data_filter(member)
        self._make_parents(member, name)
        if member.isdir():
            self._make_folder(member, name)
        elif member.isreg():
            self._make_file(member, name)
        elif member.issym():
            self._note_link(member, name)
        elif member.islnk():
            self._make_hard_link(member, name)
        else:
            kind = _KINDS.get(member.type, f"of the unknown type {member.type!r}")
            self._refuse(member, f"it is {kind}")

    def finish(self) -> None:
        """Create the links, and see that each stays inside."""
        if not self.kinds:
            raise ArchiveError(
                "The archive holds nothing", where=str(self.archive), remedy="pack the model again"
            )
        for name, target in self.links.items():
            (self.root / name).symlink_to(target)
        # The folder itself may lie behind a link, as macOS' temporary one does.
        real_root = os.path.realpath(self.root)
        for name in self.links:
            # Only now: a link may lead through other links.
            real = os.path.realpath(self.root / name)
            if os.path.commonpath([real_root, real]) != real_root:
                self._refuse_name(name, f"it links to {self.links[name]!r}, outside of the archive")
            if not os.path.exists(real):  # noqa: PTH110 - Path.exists raises for a circle
                self._refuse_name(name, f"it links to {self.links[name]!r}, which leads nowhere")
        self.root.chmod(0o755)

    def _name(self, member: tarfile.TarInfo, name: str) -> str:
        if "\0" in name:
            self._refuse(member, "its name holds a NUL")
        if name.startswith("/"):
            self._refuse(member, "its name is absolute")
        # `tar czf model.tar.gz .` writes every name as ./name.
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            self._refuse(member, "its name leads upwards")
        sizes = [len(os.fsencode(part)) for part in parts]
        if sum(sizes) + len(sizes) > _NAME_MAX_BYTES or max(sizes, default=0) > _PART_MAX_BYTES:
            self._refuse(member, "its name is too long")
        return "/".join(parts)

    def _ask_data_filter(self, member: tarfile.TarInfo) -> None:
        data_filter = getattr(tarfile, "data_filter", None)
        if data_filter is None:
            return
        try:
            data_filter(member, str(self.root))
        except tarfile.TarError as error:
            self._refuse(member, str(error))

    def _make_parents(self, member: tarfile.TarInfo, name: str) -> None:
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = "/".join(parents[:depth])
            kind = self.kinds.get(parent)
            if kind is None:
                # An archive may name thousands of folders in each member's own name.
                self.tar.budget.take_member(member.name)
                self._make_folder(member, parent)
            elif kind != "folder":
                self._refuse(member, f"it lies below {parent!r}, which is a {kind}")

    def _make_folder(self, member: tarfile.TarInfo, name: str) -> None:
        kind = self.kinds.get(name)
        if kind is None:
            path = self.root / name
            path.mkdir()
            path.chmod(0o755)
            self.kinds[name] = "folder"
        elif kind != "folder":
            self._refuse(member, f"there is already a {kind} of its name")

    def _make_file(self, member: tarfile.TarInfo, name: str) -> None:
        self._clear(member, name)
        source = self.tar.extractfile(member)
        if source is None:
            self._refuse(member, "it has no content")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self.root / name, flags, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            while chunk := source.read(_COPY):
                # A hole in a sparse file is nothing that is read.
                self.tar.budget.take_time()
                target.write(chunk)
            # The umask cuts what os.open is given, but not this.
            os.fchmod(target.fileno(), 0o755 if member.mode & 0o100 else 0o644)
        self.kinds[name] = "file"

    def _note_link(self, member: tarfile.TarInfo, name: str) -> None:
        self._clear(member, name)
        target = member.linkname
        if "\0" in target or target.startswith("/"):
            self._refuse(member, f"it links to {target!r}, outside of the archive")
        self.links[name] = target
        self.kinds[name] = "link"

    def _make_hard_link(self, member: tarfile.TarInfo, name: str) -> None:
        target = self._name(member, member.linkname)
        if self.folder and _is_within(target, self.folder):
            target = target[len(self.folder) + 1 :]
        elif self.folder:
            self._refuse(member, f"it leads out of {self.folder!r}")
        if self.kinds.get(target) != "file":
            self._refuse(member, f"it links to {member.linkname!r}, no file before it in here")
        if target != name:
            self._clear(member, name)
            os.link(self.root / target, self.root / name)
            self.kinds[name] = "file"

    def _clear(self, member: tarfile.TarInfo, name: str) -> None:
        """Make room for a member: a later file replaces an earlier one, and nothing else."""
        kind = self.kinds.get(name)
        if kind is None:
            return
        if kind != "file":
            self._refuse(member, f"there is already a {kind} of its name")
        (self.root / name).unlink()

    def _refuse(self, member: tarfile.TarInfo, reason: str) -> NoReturn:
        self._refuse_name(member.name, reason)

    def _refuse_name(self, name: str, reason: str) -> NoReturn:
        raise UnsafeArchiveError(
            f"{name!r} must not be unpacked: {reason}",
            where=str(self.archive),
            remedy="do not use this archive; pack it again from files that you trust",
        )
