"""``python litserve_server.py PORT FOLDER …``: each folder's model at ``/`` and its name."""

import sys
from pathlib import Path
from typing import Any

import litserve as ls
from served_model import load


class Served(ls.LitAPI):
    """A model at a path of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(api_path=f"/{folder.name}", max_batch_size=32)
        self._folder = folder

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model; once in each worker."""
        self.model = load(self._folder)

    # Annotations here would be taken for the types that FastAPI is to validate.
    def decode_request(self, request):  # noqa: ANN001, ANN201
        """Return the request's one row."""
        (row,) = request["instances"]
        return row

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Return the rows of several requests, as they are."""
        return inputs

    def predict(self, rows: list[Any]) -> list[Any]:
        """Answer all of them with one call."""
        return self.model.predict(rows)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return each request's answer."""
        return output

    def encode_response(self, output):  # noqa: ANN001, ANN201
        """Return what the client gets."""
        return {"predictions": [output]}


if __name__ == "__main__":
    port, *folders = sys.argv[1:]
    server = ls.LitServer(
        [Served(Path(folder)) for folder in folders], accelerator="cpu", fast_queue=True
    )
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False)
