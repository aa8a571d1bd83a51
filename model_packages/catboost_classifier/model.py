"""Rows of numbers in, class probabilities out: a CatBoost classifier.

CSV is answered as infrastructure/containers/mms/catboost/model_handler.py answers it on Multi Model
Server, digit for digit: one line with the probabilities of all rows, flattened. Other content types
and answers are those of every package.
"""

import os
import time
from dataclasses import replace

from mmekit_runtime import Handler, Prediction

CSV = "text/csv"


class CatBoostProbabilities(Handler):
    largest = 3.4e38  # CatBoost compares in float32
    missing = False  # it would take them; the handler on Multi Model Server refuses them

    def load(self, folder):
        # Importing catboost takes a second: here it happens once, and not when model.py is read.
        from catboost import CatBoostClassifier

        model = CatBoostClassifier().load_model(str(folder / "model.cbm"))
        self.features = len(model.feature_names_)  # a loaded model's n_features_in_ is 0
        return model

    def predict(self, model, rows, parameters):
        # Workers are what fills the cores: threads of theirs would only wait for each other.
        probabilities = model.predict_proba(rows, thread_count=1)
        labels = model.classes_[probabilities.argmax(axis=1)]
        if parameters.probabilities:
            return Prediction(labels, probabilities, model.classes_.tolist())
        return labels

    def encode(self, prediction, accept):
        if accept == CSV:
            flat = prediction.probabilities.ravel().tolist()
            return (",".join(map(repr, flat)) + "\n").encode(), CSV
        return super().encode(prediction, accept)

    def answer(self, requests):
        return super().answer(_csv_for_csv(requests))


class TimedCatBoostProbabilities(CatBoostProbabilities):
    """The same, and prints a line of milliseconds for every call, for mmekit_bench.phases.

    The phases have the names that they have on Multi Model Server: load is `initialize`, decode
    `preprocess`, predict `inference` and encode `postprocess`; `handle_in` is all of an answer, and
    `handle_out` what comes before it.
    """

    def __init__(self):
        start = time.perf_counter()
        super().__init__()
        self._ms = {"init": (time.perf_counter() - start) * 1000}
        self._calls = 0
        self._size = 0

    def load(self, folder):
        model = self._timed("initialize", super().load, folder)
        self._size = (folder / "model.cbm").stat().st_size
        self._print()
        return model

    def decode(self, body, content_type):
        return self._timed("preprocess", super().decode, body, content_type)

    def predict(self, model, rows, parameters):
        return self._timed("inference", super().predict, model, rows, parameters)

    def encode(self, prediction, accept):
        return self._timed("postprocess", super().encode, prediction, accept)

    def answer(self, requests):
        self._calls += 1
        requests = self._timed("handle_out", _csv_for_csv, requests)
        replies = self._timed("handle_in", super().answer, requests)
        self._print()
        return replies

    def _timed(self, phase, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        self._ms[phase] = self._ms.get(phase, 0.0) + (time.perf_counter() - start) * 1000
        return result

    def _print(self):
        figures = " ".join(f"{phase}={ms:.6f}" for phase, ms in self._ms.items())
        print(f"mmekit phases: size={self._size} call={self._calls} {figures}", flush=True)  # noqa: T201
        self._ms = {}


def _csv_for_csv(requests):
    """Have requests in CSV that do not say what they accept answered in CSV."""
    return [_csv_for(request) if _wants_csv(request) else request for request in requests]


def _csv_for(request):
    return replace(request, accept=CSV, attributes={**request.attributes, "probabilities": "true"})


def _wants_csv(request):
    headers = (request.content_type, request.accept)
    kind, accept = (header.partition(";")[0].strip().lower() for header in headers)
    return accept == CSV or (kind == CSV and accept in ("", "*/*"))


PHASES = os.environ.get("MMEKIT_PHASES") == "true"
handle = TimedCatBoostProbabilities() if PHASES else CatBoostProbabilities()
