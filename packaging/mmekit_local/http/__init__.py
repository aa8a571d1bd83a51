"""HTTP/1.1 as both rooms serve it: the container's side (`server`) and SageMaker's (`endpoint`).

Both answer a request in some tens of microseconds of their own, and both must survive whatever
connects to a port. So there is one server, asyncio and httptools with no framework between, and it
belongs to neither room: they meet over HTTP and must not import each other. `HttpServer` accepts
connections, a `Policy` says who is heard, `HttpLimits` what a client may do, a `Responder` turns a
`Request` into a `Response`.
"""

from mmekit_local.http.body import Body
from mmekit_local.http.exchange import Headers, HttpLimits, Request, Responder, Response
from mmekit_local.http.head import HeadError, is_one_line, lines_of
from mmekit_local.http.loop import run_in_loop
from mmekit_local.http.policy import Policy
from mmekit_local.http.server import HttpServer

__all__ = [
    "Body",
    "HeadError",
    "Headers",
    "HttpLimits",
    "HttpServer",
    "Policy",
    "Request",
    "Responder",
    "Response",
    "is_one_line",
    "lines_of",
    "run_in_loop",
]
