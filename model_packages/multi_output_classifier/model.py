"""The 64 grey values of an image in, three labels out: digit, parity, size."""

import joblib

from mmekit_runtime import Handler, Prediction


class DigitProperties(Handler):
    features = 64
    largest = 3.4e38  # the trees compare in float32

    def load(self, folder):
        return joblib.load(folder / "model.joblib")

    def predict(self, model, rows, parameters):
        if not parameters.probabilities:
            return model.predict(rows)
        classes = [labels.tolist() for labels in model.classes_]
        return Prediction(model.predict(rows), model.predict_proba(rows), classes)


handle = DigitProperties()
