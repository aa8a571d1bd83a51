"""A function as moto's record says, and its code, unpacked once for each state of it."""

from __future__ import annotations

import asyncio
import io
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moto.awslambda.exceptions import UnknownFunctionException
from moto.backends import get_backend

from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit_local.sagemaker.api import Caller

__all__ = [
    "CodeFolders",
    "Function",
    "FunctionInvocation",
    "InvocationResult",
    "find_function",
    "function_of",
    "zip_error",
]

_DEFAULT_MEMORY_MB = 128
_DEFAULT_SECONDS = 3

_UNPACKED_BYTES = 262_144_000  # AWS Lambda's quota for a deployment package
_KEPT = 20  # states of code; functions that run now may still import from theirs


@dataclass(frozen=True)
class Function:
    """What an invocation needs to know of a function.

    Attributes
    ----------
    code
        The bytes of its zip.
    digest
        Their SHA-256, or another name that changes with them.
    seconds
        Its time limit.
    memory_mb
        Its memory, in MiB as AWS counts it.
    reserved
        How many invocations of it may run at a time; None for as many as the account may have.
    """

    account: str
    region: str
    name: str
    version: str
    arn: str
    handler: str
    runtime: str
    code: bytes = field(repr=False)
    digest: str
    seconds: float
    memory_mb: int
    environment: tuple[tuple[str, str], ...]
    reserved: int | None

    @property
    def log_group(self) -> str:
        """Where its log goes."""
        return f"/aws/lambda/{self.name}"


@dataclass(frozen=True)
class FunctionInvocation:
    """One call of a function.

    Parameters
    ----------
    event
        JSON.
    root
        The folder with the function's code.
    stream
        The name of its log stream.
    """

    function: Function
    request_id: str
    event: bytes = field(repr=False)
    root: Path
    stream: str


@dataclass(frozen=True)
class InvocationResult:
    """What came of an invocation.

    Attributes
    ----------
    payload
        The handler's answer, or the error in Lambda's shape; JSON.
    failed
        Whether it is an error.
    output
        Entries of its log: milliseconds since the epoch and a text, each.
    init_s, seconds
        How long the import of the handler took, and its run.
    memory_mb
        The most memory that it had.
    """

    payload: bytes
    failed: bool
    output: tuple[tuple[int, str], ...]
    init_s: float
    seconds: float
    memory_mb: int
    timed_out: bool = False


def find_function(caller: Caller, name: str, qualifier: str | None) -> Function:
    """Return a function by its name or ARN.

    Raises
    ------
    AwsError
        ResourceNotFoundException; InvalidRuntimeException for what is no Python function in a zip.
    """
    backend = get_backend("lambda")[caller.account][caller.region]
    try:
        record = backend.get_function(name, qualifier)
    except UnknownFunctionException as error:
        raise AwsError(404, "ResourceNotFoundException", error.message) from error
    return function_of(record, caller)


def function_of(record: Any, caller: Caller) -> Function:
    """Return a function by moto's record of it.

    Raises
    ------
    AwsError
        InvalidRuntimeException for what is no Python function in a zip.
    """
    runtime = str(record.run_time or "")
    if record.package_type != "Zip" or not runtime.startswith("python"):
        what = runtime or f"PackageType {record.package_type}"
        message = f"{record.function_name} has {what}: only Python functions in a zip run here."
        raise AwsError(502, "InvalidRuntimeException", message)
    reserved = record.reserved_concurrency
    # A template's numbers may be strings.
    return Function(
        account=caller.account,
        region=caller.region,
        name=str(record.function_name),
        version=str(record.version),
        arn=str(record.function_arn),
        handler=str(record.handler or ""),
        runtime=str(record.run_time),
        code=bytes(record.code_bytes),
        digest=str(record.code_digest),
        seconds=float(record.timeout or _DEFAULT_SECONDS),
        memory_mb=int(record.memory_size or _DEFAULT_MEMORY_MB),
        environment=tuple(
            (str(key), str(value)) for key, value in (record.environment_vars or {}).items()
        ),
        reserved=None if reserved is None else int(reserved),
    )


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
        # Others may wait for the same code: who is cancelled must not end their unpacking.
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
                # zipfile forgets modes, and a program in the archive could not be started.
                mode = stat.S_IMODE(member.external_attr >> 16)
                if mode & stat.S_IXUSR and not member.is_dir():
                    (root / path).chmod(0o755)
        root.mkdir(exist_ok=True)  # an archive may be empty
        return root
