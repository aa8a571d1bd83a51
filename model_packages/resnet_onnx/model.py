"""A JPEG or PNG in, its five most probable classes out: a ResNet as ONNX.

An answer is a list of five texts, as infrastructure/containers/mms/mxnet/model_handler.py gives it
on Multi Model Server. Accept and probabilities=true get what every package answers to them.
"""

import json

import numpy as np

from mmekit_runtime import ImageHandler, Prediction


class OnnxResNet(ImageHandler):
    def load(self, folder):
        import onnxruntime

        self.read_description(folder)
        options = onnxruntime.SessionOptions()
        # What fills the cores is models and requests: threads of theirs would only wait.
        options.intra_op_num_threads = 1
        # Memory of a request is given back after it, and not kept for the next.
        options.enable_cpu_mem_arena = False
        return onnxruntime.InferenceSession(str(folder / "resnet.onnx"), options)

    def predict(self, model, rows, parameters):
        (probabilities,) = model.run(None, {"pixels": rows})
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


handle = OnnxResNet()
