"""The 64 grey values of an image in, the digit that it shows out."""

import joblib

from mmekit_runtime import Handler, Prediction


class DigitTrees(Handler):
    features = 64
    largest = 3.4e38  # the trees compare in float32

    def load(self, folder):
        return joblib.load(folder / "model.joblib")

    def predict(self, model, rows, parameters):
        if not parameters.probabilities:
            return model.predict(rows)
        probabilities = model.predict_proba(rows)
        labels = model.classes_[probabilities.argmax(axis=1)]
        return Prediction(labels, probabilities, model.classes_.tolist())


handle = DigitTrees()
