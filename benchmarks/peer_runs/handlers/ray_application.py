"""``python ray_application.py PORT STORE FOLDER``: each model in STORE at ``/`` and its name."""

import signal
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve
from served_model import Model, load
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=100)
class Served:
    """All models of a folder, loaded when they are first asked for."""

    def __init__(self, store: str) -> None:
        self._store = Path(store)

    @serve.multiplexed(max_num_models_per_replica=100)
    async def get_model(self, name: str) -> Model:
        """Load a model."""
        return load(self._store / name)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def predict(self, asked: list[tuple[str, Any]]) -> list[Any]:
        """Answer all of them with one call for each model."""
        answers: list[Any] = [None] * len(asked)
        for name in {name for name, _ in asked}:
            numbers = [number for number, one in enumerate(asked) if one[0] == name]
            model = await self.get_model(name)
            found = model.predict([asked[number][1] for number in numbers])
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one request, whose path names the model."""
        (row,) = (await request.json())["instances"]
        answer = await self.predict((request.url.path.strip("/"), row))
        return {"predictions": [answer]}


if __name__ == "__main__":
    port, store, temporary = sys.argv[1:]
    ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, _temp_dir=temporary)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(Served.bind(store), route_prefix="/")
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()
