"""A car in, the miles that it goes on a gallon out: gradient boosting, which takes gaps itself."""

from mmekit_runtime import TableHandler

# What the file may build besides what skops trusts by itself: 0.13, which the stock image has, all
# of these; 0.16 knows the types of the loss and the bins.
TRUSTED = [
    "functools.partial",
    "numpy.asarray",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
]


class CarsBoosting(TableHandler):
    def load(self, folder):
        # Importing skops takes seconds: here it happens once, and not when model.py is read.
        import skops.io

        return skops.io.load(folder / "model.skops", trusted=TRUSTED)

    def predict(self, model, table, parameters):
        return model.predict(table)


handle = CarsBoosting()
