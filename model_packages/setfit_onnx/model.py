"""A sentence in, out comes what the customer wants: setfit_classifier's answers without torch.

The sentence model and the regression on top of it are one network in ONNX, from words' numbers to
probabilities; notebook 7 makes it of what notebook 4 has trained.
"""

import json

import numpy as np

from mmekit_runtime import Prediction, TextHandler


class OnnxSupportIntents(TextHandler):
    max_rows = 256

    def load(self, folder):
        import onnxruntime
        from tokenizers import Tokenizer

        description = json.loads((folder / "setfit_onnx.json").read_text(encoding="utf-8"))
        self.labels = description["labels"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(description["longest"])
        self.tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        # What fills the cores is models and requests: threads of theirs would only wait.
        options.intra_op_num_threads = 1
        # Memory of a request is given back after it, and not kept for the next.
        options.enable_cpu_mem_arena = False
        return onnxruntime.InferenceSession(str(folder / "setfit.onnx"), options)

    def predict(self, model, rows, parameters):
        encoded = self.tokenizer.encode_batch(rows)
        tokens = np.array([one.ids for one in encoded], dtype=np.int64)
        mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
        (probabilities,) = model.run(None, {"tokens": tokens, "mask": mask})
        labels = [self.labels[best] for best in probabilities.argmax(axis=1)]
        if parameters.probabilities:
            return Prediction(labels, probabilities, self.labels)
        return labels


handle = OnnxSupportIntents()
