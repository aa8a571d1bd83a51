"""A sentence in, out comes what the customer wants.

The sentence model is loaded once for all customers that have the same one; labels and regression
are each customer's own.
"""

import json

from mmekit_runtime import Prediction, TextHandler


class SupportIntents(TextHandler):
    def load_shared(self, folder):
        # Importing torch takes seconds: here it happens once, and not when model.py is read.
        import setfit  # noqa: F401  what load needs, too
        import torch
        from sentence_transformers import SentenceTransformer

        body = SentenceTransformer(str(folder / "setfit"), device="cpu", local_files_only=True)
        # A sentence brings its weights into memory, once for all. The process is forked then, so
        # that no thread may be left in it: encode would start some.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with torch.inference_mode():
            body(body.tokenizer(["Where is my parcel?"], return_tensors="pt"))
        torch.set_num_threads(threads)
        return body

    def load(self, folder, shared):
        import joblib
        from setfit import SetFitModel

        head = joblib.load(folder / "setfit" / "model_head.pkl")
        settings = json.loads((folder / "setfit" / "config_setfit.json").read_text())
        return SetFitModel(shared, head, **settings)

    def predict(self, model, rows, parameters):
        probabilities = model.predict_proba(rows, as_numpy=True, show_progress_bar=False)
        labels = [model.labels[best] for best in probabilities.argmax(axis=1)]
        if parameters.probabilities:
            return Prediction(labels, probabilities, model.labels)
        return labels


handle = SupportIntents()
