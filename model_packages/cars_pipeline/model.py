"""A car in, the miles that it goes on a gallon out: a regression behind a column transformer."""

from mmekit_runtime import TableHandler

# What the file may build besides scikit-learn's own types. 0.13 and 0.16 of skops need the same.
TRUSTED = ["numpy.asarray", "numpy.dtype"]


class CarsPipeline(TableHandler):
    def load(self, folder):
        # Importing skops takes seconds: here it happens once, and not when model.py is read.
        import skops.io

        return skops.io.load(folder / "model.skops", trusted=TRUSTED)

    def predict(self, model, table, parameters):
        return model.predict(table)


handle = CarsPipeline()
