"""A sentence in, out comes what the customer wants: setfit_classifier's answers without torch.

Two networks in ONNX, which notebook 7 makes of what notebook 4 has trained: from words' numbers to
a sentence's, loaded once for all customers that have the same sentence model, and from these to
probabilities, each customer's own.
"""

import json

import numpy as np

from mmekit_runtime import Prediction, TextHandler


def _session(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # What fills the cores is models and requests: threads of theirs would only wait.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Memory of a request is given back after it, and not kept for the next.
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(str(file), options)


class OnnxSupportIntents(TextHandler):
    max_rows = 256

    def load_shared(self, folder):
        from tokenizers import Tokenizer

        description = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(description["longest"])
        tokenizer.enable_padding()
        return tokenizer, _session(folder / "sentences.onnx")

    def load(self, folder, shared):
        self.tokenizer, self.sentences = shared
        self.labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        return _session(folder / "regression.onnx")

    def predict(self, model, rows, parameters):
        encoded = self.tokenizer.encode_batch(rows)
        tokens = np.array([one.ids for one in encoded], dtype=np.int64)
        mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
        (embeddings,) = self.sentences.run(None, {"tokens": tokens, "mask": mask})
        (probabilities,) = model.run(None, {"embeddings": embeddings})
        labels = [self.labels[best] for best in probabilities.argmax(axis=1)]
        if parameters.probabilities:
            return Prediction(labels, probabilities, self.labels)
        return labels


handle = OnnxSupportIntents()
