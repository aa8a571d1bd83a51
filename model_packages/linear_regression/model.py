"""One number in, one number out: the progression of diabetes from the body mass index."""

import joblib

from mmekit_runtime import Handler


class BodyMassIndexRegression(Handler):
    features = 1

    def load(self, folder):
        return joblib.load(folder / "model.joblib")

    def predict(self, model, rows, parameters):
        return model.predict(rows)


handle = BodyMassIndexRegression()
