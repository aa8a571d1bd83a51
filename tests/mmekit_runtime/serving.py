"""Handlers around a model that is given, and a request to one of them."""

from __future__ import annotations

import json
from pathlib import Path

from mmekit_runtime import Handler, Request, TableHandler


class Plain(Handler):
    """Serves a model with rows of numbers."""

    def __init__(self, model) -> None:
        super().__init__()
        self._model = model

    def load(self, folder: Path):
        return self._model

    def predict(self, model, rows, parameters):
        return model.predict(rows)


class Serving(TableHandler):
    """Serves a model with a table, which it keeps."""

    def __init__(self, model) -> None:
        super().__init__()
        self._model = model

    def load(self, folder: Path):
        return self._model

    def predict(self, model, table, parameters):
        self.table = table
        return model.predict(table)


def ask(handler: Handler, body: object, content_type: str = "application/json"):
    """Load the model, and send one request; a body that is no bytes is sent as JSON."""
    handler.prepare(Path())
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return handler.answer([Request(data, content_type)])[0]
