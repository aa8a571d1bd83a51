"""A function, as moto's record of it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moto.awslambda.exceptions import UnknownFunctionException
from moto.backends import get_backend

from mmekit_local.sagemaker.errors import AwsError

if TYPE_CHECKING:
    from mmekit_local.sagemaker.api import Caller

__all__ = ["Function", "find_function", "function_of"]

_DEFAULT_MEMORY_MB = 128
_DEFAULT_SECONDS = 3


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
