"""What Multi Model Server calls: an image in, its five most probable classes out, by MXNet.

JPEG and PNG come in; a list of five texts, ``probability=…, class=…``, goes out as JSON.
model_packages/resnet_onnx and resnet_torchscript answer the same on DJL Serving. An archive holds
what MXNet's models are made of: NAME-symbol.json, NAME-0000.params, NAME-shapes.json and
synset.txt, with the shape of the input and the names of the classes.

`handle` is a function and not the method of a class, because Multi Model Server swallows whatever
the ``initialize`` of a class raises (mms/model_loader.py). From a function a MemoryError reaches
it, and is answered with 507: SageMaker then unloads another model and tries again.

MODELS_MEMORY_MB in the container's environment says how many MiB the workers of all models may
take together; a model that would exceed it is a MemoryError too. Without it MXNet has to fail.
"""

# ruff: noqa: INP001 (a folder of files for an image is no package)

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

# MXNet reads it when it binds a network. With layers fused by oneDNN, its default, ResNet-34
# fails at its second request ("We can't generate TBlob for MKLDNN data"), and each network holds
# its parameters once more.
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")

import mxnet as mx
import numpy as np
import psutil
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGES = ("image/jpeg", "image/png", "application/x-image")
_MOST_PIXELS = 50_000_000  # a small file may unpack to any number of them
_LONGEST_SIDE = 1 << 15
_LIMIT = "MODELS_MEMORY_MB"
_MIB = 1 << 20
# How often MXNet's Module holds parameters once it has answered: measured with ResNet-18 and -152.
_COPIES = 3


class BadRequestError(Exception):
    """A request that cannot be answered, through no fault of the model."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ModelHandler:
    """One network, and all that is known of it: nothing is kept in the module."""

    def __init__(self) -> None:
        self.module: Any = None
        self.classes: list[str] = []
        self.size = (0, 0)

    def initialize(self, context: Any) -> None:
        """Load the network from the folder that Multi Model Server unpacked.

        MemoryError when there is no room for it.
        """
        folder = Path(context.system_properties["model_dir"])
        (symbol_file,) = folder.glob("*-symbol.json")
        prefix = str(symbol_file).removesuffix("-symbol.json")
        _expect_room(Path(f"{prefix}-0000.params").stat().st_size)
        self.classes = (folder / "synset.txt").read_text(encoding="utf-8").splitlines()
        shapes = json.loads(Path(f"{prefix}-shapes.json").read_text())
        height, width = shapes[0]["shape"][2:]
        self.size = (width, height)
        try:
            self.module = _load(prefix, shapes)
        except (mx.base.MXNetError, RuntimeError) as error:
            if re.search(r"failed to allocate|out of memory", str(error), re.IGNORECASE):
                raise MemoryError(str(error)) from error
            raise

    def preprocess(self, body: bytes) -> NDArray[np.float32]:
        """Read an image as pixels of shape (1, 3, height, width); BadRequestError when it is none.

        They are numbers of 0 to 255: what else a network wants of them is its own first layer.
        """
        try:
            with Image.open(io.BytesIO(body), formats=("JPEG", "PNG")) as image:
                is_large = image.width * image.height > _MOST_PIXELS
                # A side counts by itself: scaling takes memory for each row, however short it is.
                is_large = is_large or max(image.size) > _LONGEST_SIDE
                opened = None if is_large else image.convert("RGB")
        except Image.DecompressionBombError:
            opened = None
        except MemoryError:
            raise
        except Exception as error:  # whatever Pillow says of bytes that somebody has sent
            raise BadRequestError(
                400, f"expected an image as JPEG or PNG; received {len(body)} bytes that are not"
            ) from error
        if opened is None:
            limits = f"{_MOST_PIXELS} pixels, and {_LONGEST_SIDE} a side"
            raise BadRequestError(400, f"expected an image of at most {limits}")
        scaled = opened.resize(self.size, Image.Resampling.BILINEAR)
        return np.asarray(scaled, dtype=np.float32).transpose(2, 0, 1)[np.newaxis]

    def inference(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities of shape (classes,)."""
        self.module.forward(mx.io.DataBatch([mx.nd.array(pixels)]), is_train=False)
        probabilities: NDArray[np.float32] = self.module.get_outputs()[0].asnumpy()[0]
        return probabilities

    def postprocess(self, probabilities: NDArray[np.float32]) -> list[str]:
        """Name the five most probable classes, the most probable first."""
        best = np.argsort(-probabilities, kind="stable")[:5]
        return [f"probability={probabilities[i]:f}, class={self.classes[i]}" for i in best]

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Answer each request of a batch, with a status of its own."""
        return [self._answer(index, request, context) for index, request in enumerate(data)]

    def _answer(self, index: int, request: dict[str, Any], context: Any) -> str:
        context.set_response_content_type(index, "application/json")
        try:
            pixels = self.preprocess(_body(request, index, context))
        except BadRequestError as error:
            reason = " ".join(str(error).split())
            context.set_response_status(error.status, reason, index)
            return json.dumps({"code": error.status, "message": reason})
        return json.dumps(self.postprocess(self.inference(pixels)), ensure_ascii=False)


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str] | None:
    """Load the model when there is no data yet, as Multi Model Server asks first; answer otherwise.

    A context belongs to one model, so that its handler is kept there.
    """
    handler = getattr(context, "handler", None)
    if handler is None:
        handler = ModelHandler()
        handler.initialize(context)
        context.handler = handler
    return None if data is None else handler.handle(data, context)


def _load(prefix: str, shapes: list[dict[str, Any]]) -> Any:
    symbol, arguments, auxiliary = mx.model.load_checkpoint(prefix, 0)
    inputs = [(one["name"], tuple(one["shape"])) for one in shapes]
    # Networks of before Gluon end in a layer that asks for a label, also when there is none.
    labels = {name for name in symbol.list_arguments() if name.endswith("_label")}
    given = {name for name, _ in inputs} | labels | arguments.keys()
    missing = set(symbol.list_arguments()) - given
    if missing:
        raise ValueError(f"there are no parameters for {', '.join(sorted(missing)[:5])}")
    module = mx.mod.Module(
        symbol, data_names=[name for name, _ in inputs], label_names=None, context=mx.cpu()
    )
    module.bind(inputs, for_training=False)
    module.set_params(arguments, auxiliary, allow_missing=bool(labels))
    mx.nd.waitall()  # what fails fails here
    return module


def _expect_room(size: int) -> None:
    """Raise MemoryError when parameters of a size would exceed what all models may take.

    Their workers, this one among them, descend from the server's Java.
    """
    limit = os.environ.get(_LIMIT)
    if limit is None:
        return
    server = next((one for one in psutil.Process().parents() if one.name() == "java"), None)
    taken = 0
    for worker in [] if server is None else server.children(recursive=True):
        try:
            taken += worker.memory_full_info().uss
        except psutil.Error:
            continue  # it has ended
    needed = _COPIES * size
    if taken + needed > int(limit) * _MIB:
        raise MemoryError(
            f"models take {taken // _MIB} MiB of {limit}: no room for {needed // _MIB} more"
        )


def _body(request: dict[str, Any], index: int, context: Any) -> bytes:
    headers = context.get_all_request_header(index)
    content_type = headers.get("body", {}).get("content-type") or _IMAGES[-1]
    if content_type.partition(";")[0].strip().lower() not in _IMAGES:
        raise BadRequestError(415, f"expected {', '.join(_IMAGES)}; received {content_type}")
    return bytes(request.get("body") or b"")
