"""The custom attributes of a request, told apart from the headers that they come among.

DJL Serving takes X-Amzn-SageMaker-Custom-Attributes to pieces, and makes each pair a property of
the Input as every header is one (RequestParser.parseRequest): nothing says which is which. What is
the name of a header is therefore none of an attribute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_PREFIXES = (
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


def attributes_among(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the properties that are not headers.

    >>> attributes_among({"Accept": "*/*", "X-Amzn-Trace-Id": "Root=1", "threshold": "0.7"})
    {'threshold': '0.7'}
    """
    return {
        name: value
        for name, value in properties.items()
        if (lower := name.lower()) not in _HEADERS and not lower.startswith(_PREFIXES)
    }
