"""A JPEG or PNG in, its five most probable classes out: a ResNet as TorchScript.

An answer is a list of five texts, as infrastructure/containers/mms/mxnet/model_handler.py gives it
on Multi Model Server. Accept and probabilities=true get what every package answers to them.
"""

import io
import json

import numpy as np

from mmekit_runtime import Handler, Parameters, Prediction, RequestError

IMAGES = ("image/jpeg", "image/png", "application/x-image")
MOST_PIXELS = 50_000_000  # a small file may unpack to any number of them


class TorchScriptResNet(Handler):
    def load(self, folder):
        # Importing torch takes seconds: here it happens once, and not when model.py is read.
        import torch

        self.read_description(folder)
        return torch.jit.load(str(folder / "resnet.pt"), map_location="cpu").eval()

    def decode(self, body, content_type):
        kind = content_type.partition(";")[0].strip().lower() or IMAGES[-1]
        if kind not in IMAGES:
            raise RequestError(415, f"a content type among {', '.join(IMAGES)}", content_type)
        from PIL import Image

        try:
            with Image.open(io.BytesIO(body), formats=("JPEG", "PNG")) as image:
                self.refuse_huge(image)
                scaled = image.convert("RGB").resize(self.size, Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            received = f"{len(body)} bytes that are none"
            raise RequestError(400, "an image as JPEG or PNG", received) from error
        pixels = np.asarray(scaled, dtype=np.float32).transpose(2, 0, 1)
        return pixels[np.newaxis], Parameters()

    def predict(self, model, rows, parameters):
        import torch

        with torch.inference_mode():
            probabilities = model(torch.from_numpy(np.ascontiguousarray(rows))).numpy()
        answers = [self.five_best(row) for row in probabilities]
        if parameters.probabilities:
            return Prediction(answers, probabilities, self.classes)
        return answers

    def encode(self, prediction, accept):
        body, content_type = super().encode(prediction, accept)
        if content_type == "application/json" and prediction.probabilities is None:
            body = json.dumps(prediction.values[0], ensure_ascii=False).encode()
        return body, content_type

    def refuse_huge(self, image):
        if image.width * image.height > MOST_PIXELS:
            received = f"one of {image.width} x {image.height}"
            raise RequestError(400, f"an image of at most {MOST_PIXELS} pixels", received)

    def five_best(self, probabilities):
        best = np.argsort(-probabilities, kind="stable")[:5]
        return [f"probability={probabilities[i]:f}, class={self.classes[i]}" for i in best]

    def read_description(self, folder):
        """Read the classes' names, and the width and height that the network was made for."""
        self.classes = (folder / "synset.txt").read_text(encoding="utf-8").splitlines()
        height, width = json.loads((folder / "shapes.json").read_text())[0]["shape"][2:]
        self.size = (width, height)


handle = TorchScriptResNet()
