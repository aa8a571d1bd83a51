"""The code of functions, unpacked once for each state of it."""

from __future__ import annotations

import asyncio
import io
import shutil
import stat
import zipfile
import zlib
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CodeFolders", "zip_error"]

_UNPACKED_BYTES = 262_144_000  # AWS Lambda's quota for a deployment package
_KEPT = 20  # states of code; functions that run now may still import from theirs


def zip_error(code: bytes) -> str | None:
    """Say in AWS's words why bytes cannot be the code of a function; None when they can be."""
    try:
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError):
        return "Could not unzip uploaded file. Please check your file, then try to upload again."
    if total > _UNPACKED_BYTES:
        return f"Unzipped size must be smaller than {_UNPACKED_BYTES} bytes"
    return None


class CodeFolders:
    """Folders with the unpacked code of functions.

    Parameters
    ----------
    folder
        Where they are; its owner removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unpacked: dict[str, asyncio.Task[Path]] = {}
        self._used: dict[Path, int] = {}

    async def take(self, digest: str, code: bytes) -> Path:
        """Return the folder with this code; it stays until `give_back`.

        Raises
        ------
        AwsError
            InvalidZipFileException.
        """
        task = self._unpacked.pop(digest, None)
        if task is None or (task.done() and task.exception() is not None):
            task = asyncio.ensure_future(asyncio.to_thread(self._unpack, digest, code))
        self._unpacked[digest] = task  # the latest is last
        root = await asyncio.shield(task)
        self._used[root] = self._used.get(root, 0) + 1
        return root

    def give_back(self, root: Path) -> None:
        """Let go of a folder that `take` returned."""
        self._used[root] -= 1
        idle = [name for name, task in self._unpacked.items() if self._is_idle(task)]
        for name in idle[: max(0, len(self._unpacked) - _KEPT)]:
            shutil.rmtree(self._unpacked.pop(name).result(), ignore_errors=True)

    def _is_idle(self, task: asyncio.Task[Path]) -> bool:
        return task.done() and task.exception() is None and not self._used.get(task.result())

    def _unpack(self, digest: str, code: bytes) -> Path:
        error = zip_error(code)
        if error is not None:
            message = f"Lambda could not unzip the deployment package: {error}"
            raise AwsError(502, "InvalidZipFileException", message)
        root = self._folder / f"code-{digest}"
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            for member in archive.infolist():
                try:
                    path = archive.extract(member, root)
                except (EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                    shutil.rmtree(root, ignore_errors=True)
                    message = f"Lambda could not unzip the deployment package: {error}"
                    raise AwsError(502, "InvalidZipFileException", message) from error
                mode = stat.S_IMODE(member.external_attr >> 16)
                if mode & stat.S_IXUSR and not member.is_dir():
                    (root / path).chmod(0o755)
        root.mkdir(exist_ok=True)  # an archive may be empty
        return root
