"""A sentence in, out comes what the customer wants."""

from mmekit_runtime import Prediction, TextHandler


class SupportIntents(TextHandler):
    def load(self, folder):
        # Importing torch takes seconds: here it happens once, and not when model.py is read.
        from setfit import SetFitModel

        return SetFitModel.from_pretrained(str(folder / "setfit"), local_files_only=True)

    def predict(self, model, rows, parameters):
        probabilities = model.predict_proba(rows, as_numpy=True, show_progress_bar=False)
        labels = [model.labels[best] for best in probabilities.argmax(axis=1)]
        if parameters.probabilities:
            return Prediction(labels, probabilities, model.labels)
        return labels


handle = SupportIntents()
