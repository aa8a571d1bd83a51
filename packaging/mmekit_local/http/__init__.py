"""HTTP/1.1 as both rooms serve it: the container's side (`server`) and SageMaker's (`aws`).

Both answer a request in some tens of microseconds of their own, and both must survive whatever
connects to a port. So there is one server, asyncio and httptools with no framework between, and it
belongs to neither room: they meet over HTTP and must not import each other. `HttpServer` accepts
connections, an `OriginPolicy` says whose requests are answered, `HttpLimits` what a client may do,
a `Responder` turns an `HttpRequest` into an `HttpResponse`.
"""

from mmekit_local.http.incoming import Body
from mmekit_local.http.messages import (
    HeadError,
    Headers,
    HttpLimits,
    HttpRequest,
    HttpResponse,
    Responder,
    is_one_line,
    lines_of,
)
from mmekit_local.http.policy import OriginPolicy
from mmekit_local.http.server import HttpServer, run_in_loop

__all__ = [
    "Body",
    "HeadError",
    "Headers",
    "HttpLimits",
    "HttpRequest",
    "HttpResponse",
    "HttpServer",
    "OriginPolicy",
    "Responder",
    "is_one_line",
    "lines_of",
    "run_in_loop",
]
