"""The rest of AWS: moto, in this process, so that its state can be read and changed."""

from __future__ import annotations

import asyncio
import errno
import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from moto.backends import get_backend
from moto.s3.exceptions import MissingBucket
from moto.s3.models import FakeDeleteMarker
from moto.utilities.utils import get_partition

from mmekit_local.aws.moto.cloudwatch import put_observations
from mmekit_local.aws.moto.corrections import correct_moto
from mmekit_local.aws.moto.services import Services, reply_as_asked
from mmekit_local.aws.moto.wsgi import call_wsgi, decode_chunked, environ_of, is_chunked
from mmekit_local.sagemaker.api import (
    ApiReply,
    ApiRequest,
    caller_of_request,
    new_request_id,
    operations_of,
)
from mmekit_local.sagemaker.errors import AwsError, control_reply, unsigned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_local.aws.state.recorder import StateRecorder
    from mmekit_local.sagemaker.aws_client import ObjectAddress
    from mmekit_local.sagemaker.observability.observations import Observation

__all__ = ["Aws", "disk_failure"]

logger = logging.getLogger("mmekit.endpoint")

_THREADS = 8  # as many requests to moto at a time; an upload by boto3 uses ten connections
_NAMING = ("iam", "sagemaker", "applicationautoscaling")
"""Services whose requests name their operation, and are written down."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Aws:
    """S3, IAM, CloudFormation, CloudWatch and SageMaker's control plane, as moto plays them.

    Parameters
    ----------
    state
        Where changes are written down; None where they are not.
    """

    def __init__(self, state: StateRecorder | None = None) -> None:
        correct_moto()
        self._state = state
        self._application = Services()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="moto")

    def close(self) -> None:
        """End the threads; requests that still wait for one are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: ApiRequest) -> ApiReply:
        """Let moto answer a request, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._answer, request)

    async def keep(self, request: ApiRequest) -> None:
        """Write down a request that is answered elsewhere, where changes are written down.

        Raises
        ------
        AwsError
            There is no room for it.
        """
        if self._state is None:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._state.keep, request)
        except OSError as error:
            raise AwsError(500, "InternalFailure", disk_failure(error)) from error

    @property
    def is_replaying(self) -> bool:
        """Whether what a state folder holds is being played back."""
        return self._state is not None and self._state.is_replaying

    def read_object(self, account: str, region: str, bucket: str, key: str) -> bytes | None:
        """Return an S3 object's bytes, or None when there is no such object. Blocks."""
        backend = get_backend("s3")[account][get_partition(region)]
        try:
            found = backend.get_object(bucket, key)
        except MissingBucket:
            return None
        return None if found is None else bytes(found.value)

    def keys(self, account: str, region: str, place: ObjectAddress) -> list[str]:
        """Return the keys of a bucket's objects that begin with `place.key`."""
        try:
            bucket = get_backend("s3")[account][get_partition(region)].get_bucket(place.bucket)
        except MissingBucket:
            return []
        # A copy, at once: requests that change the bucket are answered in threads. Its `items`
        # would make one, too, and look each key up a second time.
        keys = dict(bucket.keys)
        return [
            key
            for key, versions in keys.items()
            if key.startswith(place.key) and not isinstance(versions[-1], FakeDeleteMarker)
        ]

    def put_metrics(
        self, account: str, region: str, namespace: str, observations: Sequence[Observation]
    ) -> None:
        """Add observations to CloudWatch."""
        backend = get_backend("cloudwatch")[account][region]
        put_observations(backend, namespace, observations)

    def _answer(self, request: ApiRequest) -> ApiReply:
        signed = (request.header(b"authorization") or b"").startswith(b"AWS4-")
        named = request.header(b"x-amz-target") is not None
        if (named or signed) and caller_of_request(request) is None:
            return control_reply(_no_caller(request), new_request_id())
        # Before it is written down: chunks have signatures, too.
        if is_chunked(request):
            try:
                request = decode_chunked(request)
            except ValueError:
                bad = AwsError(400, "IncompleteBody", "The body is not aws-chunked.")
                return reply_as_asked(bad, request)
        try:
            if self._state is None:
                return self._ask(request)
            service = self._service_of(request)
            # One may be harmless and the other have a password: what is written down would be
            # judged by the one, and moto might carry out the other.
            if service in _NAMING and len(operations_of(request)) > 1:
                return reply_as_asked(_ambiguous(request), request)
            return self._state.perform(request, service, self._ask)
        except OSError as error:  # of the state folder
            logger.warning("%s", disk_failure(error))
            return _failure_as_asked(request, disk_failure(error))

    def _service_of(self, request: ApiRequest) -> str:
        """Return moto's name of the service that will answer a request."""
        # Only of a request that nobody signed does moto look at the body.
        if request.header(b"authorization") is not None:
            request = replace(request, body=())
        try:
            found = self._application.get_application(environ_of(request))
        except Exception:  # noqa: BLE001 - moto will say it when it is asked
            return ""
        return str(getattr(found, "service", ""))

    def _ask(self, request: ApiRequest) -> ApiReply:
        try:
            return call_wsgi(self._application, request)
        except AwsError as error:
            return reply_as_asked(error, request)
        except NotImplementedError as error:
            unknown = AwsError(501, "NotImplemented", f"moto does not know this operation: {error}")
            return reply_as_asked(unknown, request)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                logger.warning("%s", disk_failure(error))
                return _failure_as_asked(request, disk_failure(error))
            logger.exception("moto failed at %s %s", request.method, request.path.decode())
            return _failure_as_asked(request, f"{type(error).__name__}: {error}")


def disk_failure(error: OSError) -> str:
    """Return what a client is told of a disk that is full, or fails."""
    where = error.filename or tempfile.gettempdir()
    return (
        f"There is no room on the disk of the endpoint service: {error.strerror} ({where}). "
        "Make room there, or set TMPDIR or --state to a folder on another disk."
    )


def _no_caller(request: ApiRequest) -> AwsError:
    if request.header(b"authorization") is None:
        return unsigned()
    return AwsError(
        403,
        "IncompleteSignatureException",
        "Authorization header requires 'Credential' parameter: access key, date, region, service "
        "and aws4_request, with slashes between.",
    )


def _ambiguous(request: ApiRequest) -> AwsError:
    named = " and ".join(operations_of(request))
    return AwsError(400, "MalformedQueryString", f"The request names several operations: {named}.")


def _failure_as_asked(request: ApiRequest, message: str) -> ApiReply:
    """Return an error of the server in the form of the service that was asked."""
    caller = caller_of_request(request)
    of_s3 = caller is None or caller.service == "s3"
    code = "InternalError" if of_s3 else "InternalFailure"
    return reply_as_asked(AwsError(500, code, message), request)
