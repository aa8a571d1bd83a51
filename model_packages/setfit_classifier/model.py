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
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder / "setfit"), device="cpu", local_files_only=True)

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
