"""A service with an API for each model that ``PEER_MODELS`` names: ``/`` and its folder's name."""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from served_model import load

FOLDERS = [Path(name) for name in os.environ["PEER_MODELS"].split(os.pathsep)]
Rows = list[str] if os.environ["PEER_TEXT"] else np.ndarray


def _init(self: Any) -> None:
    self.models = {folder.name: load(folder) for folder in FOLDERS}


def _api(name: str) -> Any:
    def predict(self, instances: Rows) -> list:  # noqa: ANN001  BentoML reads the others
        return self.models[name].predict(instances)

    predict.__name__ = name
    return bentoml.api(predict, route=f"/{name}", batchable=True, max_batch_size=32)


# What a class statement with a method for each model would be.
Served = bentoml.service(
    type("Served", (), {"__init__": _init} | {one.name: _api(one.name) for one in FOLDERS})
)
