"""What passes between a server, decoding, encoding and a handler."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_MEMBERS = frozenset({"prediction", "predictions", "probabilities", "classes"})
_OUT_OF_MEMORY = ("CUDA error: out of memory", "No available memory for the cache blocks")


# The field names that clients, proxies and SageMaker send (RFC 9110 and the registry of IANA), and
# those that DJL Serving and its engine look at or add themselves.
_HEADERS = frozenset(
    [
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "age",
        "authorization",
        "b3",
        "baggage",
        "cache-control",
        "connection",
        "cookie",
        "date",
        "dnt",
        "early-data",
        "expect",
        "forwarded",
        "from",
        "host",
        "keep-alive",
        "max-forwards",
        "origin",
        "pragma",
        "priority",
        "range",
        "referer",
        "save-data",
        "server",
        "te",
        "trailer",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "user-agent",
        "via",
        "warning",
        "x-cache",
        "x-correlation-id",
        "x-csrf-token",
        "x-http-method-override",
        "x-max-items",
        "x-next-token",
        "x-priority",
        "x-real-ip",
        "x-request-id",
        "x-requested-with",
        "x-starting-token",
        "x-synchronous",
        "device_id",
        "handler",
        "model_dir",
        "requestid",
    ]
)
_HEADER_PREFIXES = (
    "access-control-",
    "content-",
    "if-",
    "proxy-",
    "sec-",
    "x-amz-",
    "x-amzn-",
    "x-b3-",
    "x-datadog-",
    "x-envoy-",
    "x-forwarded-",
)


class RequestError(Exception):
    """A request that cannot be answered, through no fault of the model.

    Parameters
    ----------
    status
        The HTTP status: 400 (bad content), 406 (no such answer format) or 415 (unknown content
        type).
    expected, received
        What the handler takes and what came, both for a person to read.
    columns
        The model's columns for which it is refused, where it is for one.
    """

    def __init__(
        self, status: int, expected: str, received: str, columns: tuple[str, ...] = ()
    ) -> None:
        super().__init__(f"expected {expected}; received {received}")
        self.status = status
        self.expected = expected
        self.received = received
        self.columns = columns


@dataclass(frozen=True)
class Parameters:
    """What a request asks for beside its rows.

    Requests with equal parameters may be answered by one call of ``predict``.

    Attributes
    ----------
    probabilities
        Whether class probabilities are wanted.
    others
        Every further member of a JSON request's ``parameters``.
    """

    probabilities: bool = False
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Parameters:
        """Read a JSON object's members or a header's pairs; RequestError 400 for a bad value."""
        others = dict(given)
        return cls(_switch(others.pop("probabilities", False)), others)


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise RequestError(400, "probabilities to be true or false", f"probabilities={value!r}")


@dataclass(frozen=True)
class Prediction:
    """The answer to n rows.

    Attributes
    ----------
    values
        n predictions: an array of shape (n,) or (n, outputs), or a list of n.
    probabilities
        Shape (n, classes); for a model with several outputs a list with one such array for each.
    classes
        The classes' names in the order of the probabilities; a list of lists for several outputs.
    others
        Further outputs by name, such as a standard deviation: n rows each, like ``values``.

    Raises
    ------
    ValueError
        One of ``others`` has a name that an answer has already.
    """

    values: Any
    probabilities: Any = None
    classes: Sequence[Any] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that would take another's place."""
        taken = _MEMBERS & set(self.others)
        if taken:
            raise ValueError(f"a further output cannot be called {', '.join(sorted(taken))}")

    def __len__(self) -> int:
        """Return n."""
        return len(self.values)

    @property
    def has_several_outputs(self) -> bool:
        """Whether ``probabilities`` is a list with an array of shape (n, classes) an output."""
        probabilities = self.probabilities
        if not isinstance(probabilities, (list, tuple)) or not probabilities:
            return False
        first = probabilities[0]
        # A row of plain numbers has no len() inside.
        return len(first) > 0 and hasattr(first[0], "__len__")

    def slice(self, start: int, stop: int) -> Prediction:
        """Return the rows from ``start`` to ``stop``."""
        probabilities = self.probabilities
        if probabilities is not None:
            if self.has_several_outputs:
                probabilities = [_rows_of(output, start, stop) for output in probabilities]
            else:
                probabilities = _rows_of(probabilities, start, stop)
        others = {name: _rows_of(output, start, stop) for name, output in self.others.items()}
        values = _rows_of(self.values, start, stop)
        return Prediction(values, probabilities, self.classes, others)


def _rows_of(output: Any, start: int, stop: int) -> Any:
    # By place: a frame's brackets may mean its labels.
    return getattr(output, "iloc", output)[start:stop]


@dataclass(frozen=True)
class Request:
    """One HTTP request, as far as a handler is concerned.

    Attributes
    ----------
    attributes
        The pairs of X-Amzn-SageMaker-Custom-Attributes, ``name=value`` separated by semicolons.
    """

    body: bytes
    content_type: str = ""
    accept: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, properties: Mapping[str, Any], body: bytes) -> Request:
        """Make it of the properties that a server hands over, their names in any case."""
        lowered = {name.lower(): value for name, value in properties.items()}
        named = lowered.get(_CUSTOM_ATTRIBUTES)
        if named:
            pairs = (pair.partition("=") for pair in named.split(";"))
            attributes = {name.strip(): value.strip() for name, equals, value in pairs if equals}
        else:
            attributes = _attributes_among(properties)
        return cls(
            body=body,
            content_type=lowered.get("content-type") or "",
            accept=lowered.get("accept") or "",
            attributes=attributes,
        )


def _attributes_among(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the custom attributes among the properties of a request: all that are no headers.

    DJL Serving takes X-Amzn-SageMaker-Custom-Attributes to pieces, and makes each pair a property
    of the Input as every header is one (RequestParser.parseRequest): nothing says which is which.
    What is the name of a header is therefore none of an attribute.

    >>> _attributes_among({"Accept": "*/*", "X-Amzn-Trace-Id": "Root=1", "threshold": "0.7"})
    {'threshold': '0.7'}
    """
    return {
        name: value
        for name, value in properties.items()
        if (lower := name.lower()) not in _HEADERS and not lower.startswith(_HEADER_PREFIXES)
    }


@dataclass(frozen=True)
class Reply:
    """The answer to one request: HTTP status, its reason, body and content type."""

    status: int
    message: str
    body: bytes
    content_type: str

    @classmethod
    def of_request_error(cls, error: RequestError) -> Reply:
        """Say what was expected and what came, as JSON."""
        content = {
            "code": error.status,
            "message": str(error),
            "expected": error.expected,
            "received": error.received,
        }
        return cls(error.status, _one_line(str(error)), _json(content), "application/json")

    @classmethod
    def of_exception(cls, error: BaseException) -> Reply:
        """Answer as DJL's Python engine does for an exception (python_sync_engine.py).

        507 when memory ran out, 424 otherwise; the body is that of ``Output.error``.
        """
        reason = str(error) or type(error).__name__
        if is_out_of_memory(error):
            status, message = 507, _one_line(f"out of memory: {reason}")
        else:
            status, message = 424, "invoke handler failure"
        content = {"code": status, "message": message, "error": reason}
        return cls(status, message, _json(content), "application/json")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether DJL's engine would answer 507 to this exception."""
    return type(error).__name__ in ("MemoryError", "OutOfMemoryError") or any(
        phrase in str(error) for phrase in _OUT_OF_MEMORY
    )


def _one_line(text: str) -> str:
    # DJL makes the message the HTTP reason phrase, which must hold no line break.
    return _sayable(" ".join(text.split())[:200])


def _sayable(text: str) -> str:
    """Return a text that has bytes in UTF-8: half a character, which JSON may hold, has none."""
    return text.encode("utf-8", "backslashreplace").decode()


def _json(content: object) -> bytes:
    return _sayable(json.dumps(content, ensure_ascii=False)).encode()
