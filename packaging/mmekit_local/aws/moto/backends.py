"""moto's services, as far as they are for clients.

moto picks one by path, scope or body. Its own controls, which read and reset everything, are a
service like the others to it, under several names; here whatever has their paths is nothing,
whatever way leads to it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moto.moto_server import werkzeug_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["backend_named"]

_CONTROLS = "/moto-api"


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
