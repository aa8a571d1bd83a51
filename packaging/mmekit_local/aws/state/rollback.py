"""What a refused request has left behind in moto's S3, put back.

moto makes some changes in steps and may refuse, or run out of disk, between them: it completes an
upload by forgetting it first, and looks at an object's tags once the object is there.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from moto.s3.models import FakeBucket, FakeKey, s3_backends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit_local.sagemaker.api import ApiRequest

__all__ = ["rolled_back_on_failure"]

_ORIGINAL = "_mmekit_dispose"


class _ThreadState(threading.local):
    """Objects that moto has thrown away in this thread and that may be needed again."""

    disposed: list[FakeKey] | None = None


_thread = _ThreadState()


@contextlib.contextmanager
def rolled_back_on_failure(request: ApiRequest, service: str) -> Iterator[None]:
    """Put back what a request is about, should the block raise; nobody else changes it meanwhile.

    Parameters
    ----------
    request
        The request.
    service
        moto's name of the service that answers it.
    """
    if service != "s3":
        yield
        return
    _defer_disposal()
    restorers = [_mapping_restorer(s3_backends.bucket_accounts)]
    restorers += [restore for backend in _backends() for restore in _restorers(backend, request)]
    disposed: list[FakeKey] = []
    _thread.disposed = disposed
    try:
        yield
    except BaseException:
        for restore in restorers:
            restore()
        raise
    else:
        # First: each of these would put itself off once more, on this very list.
        _thread.disposed = None
        for one in disposed:
            one.dispose()
    finally:
        _thread.disposed = None


def _defer_disposal() -> None:
    if not hasattr(FakeKey, _ORIGINAL):
        # dispose closes the file that has the bytes: an object that is put back would have none.
        setattr(FakeKey, _ORIGINAL, FakeKey.dispose)
        setattr(FakeKey, "dispose", _dispose)  # noqa: B010


def _dispose(key: FakeKey, garbage: bool = False) -> None:  # noqa: FBT001, FBT002 - as moto has it
    # moto's __del__ says garbage: nobody is left who could put that one back.
    if garbage or _thread.disposed is None:
        getattr(key, _ORIGINAL)(garbage)
    else:
        _thread.disposed.append(key)


def _backends() -> list[Any]:
    accounts = tuple(s3_backends.values())
    return [backend for account in accounts for backend in tuple(account.values())]


def _restorers(backend: Any, request: ApiRequest) -> Iterator[Callable[[], object]]:
    """Go through what puts a backend's buckets back."""
    yield _mapping_restorer(backend.buckets)
    name, key = _bucket_and_key(request)
    bucket = backend.buckets.get(name)
    if bucket is None:
        return
    yield _mapping_restorer(vars(bucket))
    yield _mapping_restorer(bucket.multiparts)
    for upload in bucket.multiparts.values():
        if upload.key_name == key:
            yield _mapping_restorer(upload.parts)
            yield partial(upload.partlist.__setitem__, slice(None), list(upload.partlist))
    versions = list(bucket.keys.getlist(key, []))
    yield partial(_restore_item, bucket.keys, key, versions or None)
    for one in (bucket, *versions):
        yield _mapping_restorer(vars(one))
        if isinstance(one, (FakeBucket, FakeKey)):  # and no delete marker
            tags = backend.tagger.tags
            given = dict(tags[one.arn]) if one.arn in tags else None
            yield partial(_restore_item, tags, one.arn, given)


def _mapping_restorer(mapping: dict[Any, Any]) -> Callable[[], object]:
    return partial(_restore_mapping, mapping, dict(mapping))


def _restore_mapping(mapping: dict[Any, Any], before: dict[Any, Any]) -> None:
    # Only what is another: requests that read go on meanwhile, and most refusals change nothing.
    for name in mapping.keys() - before.keys():
        dict.pop(mapping, name)  # moto's own way would dispose of it
    for name, value in before.items():
        if name not in mapping or mapping[name] is not value:
            mapping[name] = value


def _restore_item(mapping: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        dict.__setitem__(mapping, name, value)  # moto's own would add a version
    elif name in mapping:
        dict.pop(mapping, name)


def _bucket_and_key(request: ApiRequest) -> tuple[str, str]:
    """Return the bucket that a request names, in its path or in its host, and the key."""
    path = unquote(request.path.decode("latin-1")).removeprefix("/")
    host = re.sub(r":\d+$", "", (request.header(b"host") or b"").decode("latin-1"))
    first = host.partition(".")[0]
    if first not in ("localhost", "s3", host) and not _is_address(host):
        return first, path
    bucket, _, key = path.partition("/")
    return bucket, key


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
