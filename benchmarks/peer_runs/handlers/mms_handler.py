"""What Multi Model Server calls for the models that have no handler of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from served_model import load

_models: dict[str, Any] = {}


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str] | None:
    """Load the model when there is no data yet; answer each request of a batch otherwise."""
    folder = str(context.system_properties["model_dir"])
    if folder not in _models:
        _models[folder] = load(Path(folder))
    if data is None:
        return None
    answers = []
    for number, request in enumerate(data):
        body = request.get("body") or b""
        rows = (body if isinstance(body, dict) else json.loads(body))["instances"]
        context.set_response_content_type(number, "application/json")
        answers.append(json.dumps({"predictions": _models[folder].predict(rows)}))
    return answers
