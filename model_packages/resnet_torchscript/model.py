"""A JPEG or PNG in, its five most probable classes out: a ResNet as TorchScript.

An answer is a list of five texts, as infrastructure/containers/mms/mxnet/model_handler.py gives it
on Multi Model Server. Accept and probabilities=true get what every package answers to them.
"""

import json

import numpy as np

from mmekit_runtime import ImageHandler, Prediction


class TorchScriptResNet(ImageHandler):
    def load(self, folder):
        # Importing torch takes seconds: here it happens once, and not when model.py is read.
        import torch

        self.read_description(folder)
        return torch.jit.load(str(folder / "resnet.pt"), map_location="cpu").eval()

    def predict(self, model, rows, parameters):
        import torch

        with torch.inference_mode():
            probabilities = model(torch.from_numpy(rows)).numpy()
        answers = [self.five_best(row) for row in probabilities]
        if parameters.probabilities:
            return Prediction(answers, probabilities, self.classes)
        return answers

    def encode(self, prediction, accept):
        body, content_type = super().encode(prediction, accept)
        if content_type == "application/json" and prediction.probabilities is None:
            body = json.dumps(prediction.values[0], ensure_ascii=False).encode()
        return body, content_type

    def five_best(self, probabilities):
        best = np.argsort(-probabilities, kind="stable")[:5]
        return [f"probability={probabilities[i]:f}, class={self.classes[i]}" for i in best]

    def read_description(self, folder):
        """Read the classes' names, and the width and height that the network was made for."""
        self.classes = (folder / "synset.txt").read_text(encoding="utf-8").splitlines()
        height, width = json.loads((folder / "shapes.json").read_text())[0]["shape"][2:]
        self.size = (width, height)


handle = TorchScriptResNet()
