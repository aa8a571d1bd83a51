"""The errors of the container contract: a status, DJL Serving's type name, a message.

Sources: NettyUtils.sendError and InferenceRequestHandler.onException of DJL Serving 0.36.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from mmekit.errors import ServerError
from mmekit.plural import are, counted
from mmekit_local.server.limits import MAX_MODELS


class ApiError(ServerError):
    """A request that the server answers with an error.

    Attributes
    ----------
    status
        The HTTP status.
    kind
        The simple name of the Java exception that DJL Serving would name as the type.
    retry_after_s
        What the header Retry-After says; None for no such header.
    """

    def __init__(
        self, status: int, kind: str, message: str, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.retry_after_s = retry_after_s

    @property
    def reason(self) -> str:
        """The HTTP reason phrase: DJL Serving repeats the message of a BadRequestException."""
        return self.what if self.kind == "BadRequestException" else reason_phrase(self.status)

    @property
    def body(self) -> bytes:
        """The JSON body, as DJL Serving words it."""
        return pretty({"code": self.status, "type": self.kind, "message": self.what})


def pretty(content: object) -> bytes:
    """Return JSON as DJL Serving's Gson writes it."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return text.translate(_ESCAPED).encode("utf-8", "replace") + b"\n"


# Gson escapes what would be markup in HTML.
_ESCAPED = {ord(one): f"\\u{ord(one):04x}" for one in "'<>&=\u2028\u2029"}


def reason_phrase(status: int) -> str:
    """Return the standard reason phrase of a status, empty when it has none."""
    if status == 413:  # noqa: PLR2004  which Python has renamed
        return "Request Entity Too Large"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def already_loaded(name: str) -> ApiError:
    """409: a model of that name is loaded or loading."""
    return ApiError(409, "BadRequestException", f"Workflow {name} is already registered.")


def no_such_model(name: str) -> ApiError:
    """404: no model of that name is loaded."""
    return ApiError(404, "ModelNotFoundException", f"Model or workflow not found: {name}")


def no_such_resource() -> ApiError:
    """404: the path names nothing."""
    message = "Requested resource is not found, please refer to API document."
    return ApiError(404, "ResourceNotFoundException", message)


def method_not_allowed() -> ApiError:
    """405: the path is known and the method is not for it."""
    message = "Requested method is not allowed, please refer to API document."
    return ApiError(405, "MethodNotAllowedException", message)


def bad_request(message: str) -> ApiError:
    """400: the request itself makes no sense."""
    return ApiError(400, "BadRequestException", message)


def load_failed(message: str, kind: str = "EngineException") -> ApiError:
    """500: the model could not be loaded."""
    return ApiError(500, kind, message)


def misconfigured(message: str, kind: str = "IllegalArgumentException") -> ApiError:
    """409: DJL Serving answers so to any illegal argument, in serving.properties too."""
    return ApiError(409, kind, message)


def out_of_memory(message: str = "OOM", kind: str = "EngineException") -> ApiError:
    """507: the model did not fit; an endpoint unloads others and tries again."""
    return ApiError(507, kind, message)


def not_enough_memory() -> ApiError:
    """507: loading was not tried, as memory would run out."""
    return out_of_memory("No enough memory to load the model.", "WlmOutOfMemoryException")


def too_many_models(limit: int) -> ApiError:
    """507: so many models are loaded; an endpoint unloads others and tries again."""
    message = f"No more than {counted(limit, 'model')} {are(limit)} loaded at once ({MAX_MODELS})."
    return out_of_memory(message, "WlmOutOfMemoryException")


def no_descriptors() -> ApiError:
    """507: too many files are open; an endpoint unloads others and tries again."""
    message = "No file descriptors are left to load the model (ulimit -n)."
    return out_of_memory(message, "WlmOutOfMemoryException")


def no_capacity(name: str) -> ApiError:
    """503: the model's queue is full."""
    message = f"Worker queue capacity exceeded for model: {name}"
    return ApiError(503, "WlmCapacityException", message, retry_after_s=1)


def unavailable(message: str) -> ApiError:
    """503: a worker failed, or the model is not ready."""
    return ApiError(503, "WlmException", message)


def untranslatable(message: str) -> ApiError:
    """400: DJL Serving could not make sense of what the worker answered."""
    return ApiError(400, "TranslateException", message)
