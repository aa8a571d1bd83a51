"""Which of moto's services answers a request, and what is said where none does.

moto picks one by path, scope or body. Its own controls, which read and reset everything, are a
service like the others to it, under several names; here whatever has their paths is nothing,
whatever way leads to it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import botocore.session
from botocore.model import OperationNotFoundError
from moto.backends import list_of_moto_modules
from moto.moto_server import werkzeug_app
from moto.moto_server.werkzeug_app import DomainDispatcherApplication

from mmekit_local.sagemaker.api import (
    ApiReply,
    caller_of,
    caller_of_request,
    new_request_id,
    operations_of,
)
from mmekit_local.sagemaker.errors import AwsError, control_reply, runtime_reply, unknown_region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mmekit_local.sagemaker.api import ApiRequest, Caller

__all__ = ["Services", "backend_named", "reply_as_asked"]

_SHOWN = 60  # characters of what a client sent
_FORM = b"application/x-www-form-urlencoded"
_CBOR = b"rpc-v2-cbor"
_TEXT, _MAP = 3 << 5, 5 << 5  # major types of CBOR (RFC 8949, 3.1)

_CONTROLS = "/moto-api"


class Services(DomainDispatcherApplication):
    """All of moto's services, as one WSGI application.

    What names no service raises `AwsError`, as does what names none of its operations: moto would
    fail in ways of its own.
    """

    def __init__(self) -> None:
        super().__init__(backend_named)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Have a request answered."""
        caller = _caller(environ)
        try:
            answer: Iterable[bytes] = super().__call__(environ, start_response)
        except OperationNotFoundError as error:
            raise _unknown_operation(caller, str(error)) from error
        except Exception as error:
            if isinstance(error, AwsError):
                raise
            if caller is None and "HTTP_AUTHORIZATION" in environ:
                raise _unknown_service(None) from error
            # moto looks for the records of a region without asking whether there is one.
            if caller is not None and caller.region not in _regions():
                raise unknown_region() from error
            raise
        return answer

    def get_application(self, environ: dict[str, Any]) -> Any:
        """Return the service that a request names."""
        caller = _caller(environ)
        try:
            return super().get_application(environ)
        except AwsError:
            raise
        except LookupError as error:
            if caller is None:
                raise _unknown_service(None) from error
            # It looks for the operation, where several services have one scope.
            raise _unknown_operation(caller, "it names none") from error
        except Exception as error:  # with no backend, or one whose libraries are not installed
            raise _unknown_service(caller) from error

    def get_backend_for_host(self, host: str | None) -> str | None:
        """Return moto's name of the service at a host, as AWS calls it."""
        # Not by moto's own, which prints to standard output when it finds none.
        if host is None or host == "moto_api" or host in list_of_moto_modules():
            return host
        url = f"http://{host}"
        found = (name for name, pattern in self.backend_url_patterns if pattern.match(url))
        return next(found, None)

    def infer_service_region_host(self, environ: dict[str, Any], path: str) -> str | None:
        """Return the host that a request is meant for; None is S3's."""
        caller = _caller(environ)
        # moto would take it for S3's: older signatures, which it cannot read either, mostly are.
        if caller is None and str(environ.get("HTTP_AUTHORIZATION", "")).startswith("AWS4-"):
            raise _unknown_service(None)
        host: str | None = super().infer_service_region_host(environ, path)
        if host is None and caller is not None:
            raise _unknown_service(caller)
        if "HTTP_AUTHORIZATION" not in environ and self.get_backend_for_host(host) is None:
            return None  # a path with an underscore, which moto takes for an address of its own
        return host


def reply_as_asked(error: AwsError, request: ApiRequest) -> ApiReply:
    """Return an error in the protocol of a request, as far as the request tells."""
    caller = caller_of_request(request)
    if request.header(b"smithy-protocol") == _CBOR:
        return _cbor_reply(error)
    if request.header(b"x-amz-target") is not None:
        return control_reply(error, new_request_id())
    code, message = escape(error.code), escape(error.message)
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    if operations_of(request) or (request.header(b"content-type") or b"").startswith(_FORM):
        body = f"<ErrorResponse>{body}</ErrorResponse>"
    elif caller is not None and caller.service != "s3":
        return runtime_reply(error, new_request_id())
    return ApiReply(error.status, [(b"content-type", b"application/xml")], body.encode())


def _cbor_reply(error: AwsError) -> ApiReply:
    pairs = {"__type": error.code, "message": error.message}
    body = bytes([_MAP | len(pairs)])
    for pair in pairs.items():
        body += b"".join(_cbor_text(text.encode()) for text in pair)
    headers = [
        (b"content-type", b"application/cbor"),
        (b"smithy-protocol", _CBOR),
        (b"x-amzn-requestid", new_request_id()),
    ]
    return ApiReply(error.status, headers, body)


def _cbor_text(raw: bytes) -> bytes:
    # 25: the length follows, in two bytes.
    return bytes([_TEXT | 25]) + len(raw).to_bytes(2, "big") + raw


def _caller(environ: dict[str, Any]) -> Caller | None:
    return caller_of(str(environ.get("HTTP_AUTHORIZATION", "")).encode("latin-1", "replace"))


def _unknown_service(caller: Caller | None) -> AwsError:
    if caller is None:
        return AwsError(
            403,
            "IncompleteSignatureException",
            "The Authorization header names no service: it has no credential scope.",
        )
    if caller.region not in _regions():
        return unknown_region()
    return AwsError(
        501,
        "NotImplemented",
        f"The request is signed for the service {_shown(caller.service)}, which is not there on "
        "this machine: SageMaker, S3, Lambda, CloudFormation and what moto plays are.",
    )


def _unknown_operation(caller: Caller | None, what: str) -> AwsError:
    service = "" if caller is None else f" of the service {_shown(caller.service)}"
    return AwsError(
        400,
        "UnknownOperationException",
        f"The request names no operation{service} that is known here: {json.dumps(what[:_SHOWN])}.",
    )


def _shown(name: str) -> str:
    return ascii(name[:_SHOWN])


@lru_cache(maxsize=1)
def _regions() -> frozenset[str]:
    """Return every region of AWS that botocore knows."""
    session = botocore.session.get_session()
    names: set[str] = {"aws-global"}
    for partition in session.get_available_partitions():
        names.update(session.get_available_regions("s3", partition, allow_non_regional=True))
    return frozenset(names)


def backend_named(service: Any) -> Any:
    """Return the WSGI application that is a service."""
    # Else flask-cors tells pages of every site that they may read the answers.
    setattr(werkzeug_app, "DISABLE_GLOBAL_CORS", True)  # noqa: B010
    application = werkzeug_app.create_backend_app(service)
    controls = any(_CONTROLS in rule.rule for rule in application.url_map.iter_rules())
    return _nothing if controls else application


def _nothing(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    headers = [
        ("Content-Type", "application/json"),
        ("x-amzn-errortype", "UnknownOperationException"),
    ]
    start_response("404 Not Found", headers)
    return [json.dumps({"message": "There is nothing at this path."}).encode()]
