"""Estimators and pipelines of scikit-learn, and whatever has their methods."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.decoding import decode_texts
from mmekit_runtime.libraries.probabilities import no_probabilities, of_two_classes_each
from mmekit_runtime.messages import Parameters, Prediction
from mmekit_runtime.tables import TableHandler

if TYPE_CHECKING:
    from pathlib import Path

_LINKS = ("HalfLogitLink", "IdentityLink", "Interval", "LogLink", "LogitLink", "MultinomialLogit")
_LOSSES = (
    "AbsoluteError",
    "ExponentialLoss",
    "HalfBinomialLoss",
    "HalfGammaLoss",
    "HalfMultinomialLoss",
    "HalfPoissonLoss",
    "HalfSquaredError",
    "HuberLoss",
    "PinballLoss",
)
_BITS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
HARMLESS = (
    "numpy.dtype",  # imputers have one
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    *(f"sklearn._loss.link.{name}" for name in _LINKS),
    *(f"sklearn._loss.loss.{name}" for name in _LOSSES),
    *(f"numpy.random.{name}" for name in _BITS),
)
"""Types that do nothing but hold a value, whichever skops reads them.

0.16 knows all but the first by itself; 0.13, which the stock image has, knows none.
"""

_FLOAT32 = 3.4e38
_ZIP = b"PK"
# They compare in float32, and raise for what it cannot hold.
_IN_FLOAT32 = ("sklearn.tree.", "sklearn.ensemble._forest", "sklearn.ensemble._gb.")
_VECTORISERS = frozenset({"CountVectorizer", "HashingVectorizer", "TfidfVectorizer"})
_DEPTH = 6


class SklearnHandler(TableHandler):
    """A model of scikit-learn: an estimator, a pipeline, or anything with their methods.

    ``predict`` answers; where there is none (a scaler, a PCA), ``transform`` does. A pipeline that
    begins with a vectoriser of texts takes texts, everything else a table. Loading a pickle runs
    code that is in it; a skops file holds data alone.

    Parameters
    ----------
    file
        What joblib, pickle, cloudpickle or skops wrote, by its name among the artefacts.
    trusted
        For a skops file: the types in it that skops does not know and you do.
    texts
        Whether rows are texts; None lets the model say.
    """

    reads = ()

    def __init__(
        self, file: str, *, trusted: tuple[str, ...] = (), texts: bool | None = None
    ) -> None:
        super().__init__()
        self.file = file
        self.trusted = trusted
        self.texts = texts

    def load(self, folder: Path) -> Any:
        """Return the estimator, which uses one thread from then on."""
        model = _loaded(folder / self.file, self.trusted)
        if not _answering(model):
            raise TypeError(
                f"{self.file} holds {_titled(model)}, which has neither predict nor transform: "
                "it cannot answer new rows"
            )
        parts = list(_parts(model))
        for part in parts:
            _on_one_thread(part)
        if self.texts is None:
            self.texts = takes_texts(model)
        if self.largest is None and any(_module(part).startswith(_IN_FLOAT32) for part in parts):
            self.largest = _FLOAT32
        return model

    def decode(self, body: bytes, content_type: str) -> tuple[Any, Parameters]:
        """Read a request's texts, or its table."""
        return (
            decode_texts(body, content_type) if self.texts else super().decode(body, content_type)
        )

    def predict(self, model: Any, table: Any, parameters: Parameters) -> Any:
        """Answer by the estimator's own method; with its probabilities where they are wanted."""
        if parameters.probabilities and not hasattr(model, "predict_proba"):
            raise no_probabilities(type(model).__name__)
        answer = _answering(model)(table)
        if not parameters.probabilities:
            return answer
        return _with_probabilities(answer, model.predict_proba(table), model)


def takes_texts(model: Any) -> bool:
    """Tell whether a model's rows are texts: the first thing that it does is to count words."""
    steps = getattr(model, "steps", None) or getattr(model, "transformer_list", None)
    if steps:
        return takes_texts(steps[0][1])
    for name in ("best_estimator_", "estimator_", "estimator"):
        inner = getattr(model, name, None)
        if inner is not None and not isinstance(inner, str):
            return takes_texts(inner)
    return any(base.__name__ in _VECTORISERS for base in type(model).__mro__)


def _loaded(path: Path, trusted: tuple[str, ...]) -> Any:
    with path.open("rb") as stream:
        is_skops = stream.read(2) == _ZIP
    if not is_skops:
        import joblib

        return joblib.load(path)
    from skops.io import get_untrusted_types, load

    trusted = (*trusted, *HARMLESS)
    unknown = sorted(set(get_untrusted_types(file=path)) - set(trusted))
    if unknown:
        named = ", ".join(f'"{name}"' for name in unknown)
        raise TypeError(
            f"{path.name} holds types that skops does not know: {', '.join(unknown)}; those that "
            f'you trust are named in model.py: SklearnHandler("{path.name}", trusted=({named},))'
        )
    return load(path, trusted=list(trusted))


def _answering(model: Any) -> Any:
    answering = getattr(model, "predict", None) or getattr(model, "transform", None)
    if answering is not None and _module(model).startswith("catboost."):
        return partial(answering, thread_count=1)
    return answering


def _with_probabilities(labels: Any, probabilities: Any, model: Any) -> Prediction:
    classes = getattr(model, "classes_", None)
    if isinstance(probabilities, (list, tuple)):
        names = None if classes is None else [np.asarray(one).tolist() for one in classes]
        return Prediction(labels, list(probabilities), names)
    if np.ndim(labels) == 2 and np.shape(labels)[1] > 1:  # noqa: PLR2004  an output a column
        # A chain or a multilabel classifier gives each output's probability of 1.
        return of_two_classes_each(labels, np.asarray(probabilities).T)
    return Prediction(
        labels, probabilities, None if classes is None else np.asarray(classes).tolist()
    )


def _parts(model: Any, depth: int = _DEPTH) -> Any:
    """Yield an estimator and those that it consists of."""
    yield model
    if depth == 0 or not hasattr(model, "__dict__"):
        return
    for value in vars(model).values():
        yield from _parts_of(value, depth)


def _parts_of(value: Any, depth: int) -> Any:
    if hasattr(value, "get_params") and not isinstance(value, type):
        yield from _parts(value, depth - 1)
    elif isinstance(value, (list, tuple)) and len(value) < 1000:  # noqa: PLR2004  rows are longer
        for item in value:
            yield from _parts_of(item, depth)
    elif isinstance(value, dict) and len(value) < 1000:  # noqa: PLR2004
        for item in value.values():
            yield from _parts_of(item, depth)


def _on_one_thread(part: Any) -> None:
    # Workers are what fills the cores: threads of theirs would only wait for each other.
    if getattr(part, "n_jobs", None) not in (None, 1) or _module(part).startswith("lightgbm."):
        part.n_jobs = 1
    booster = getattr(part, "_Booster", None)
    if _module(part).startswith("xgboost.") and booster is not None:
        booster.set_param({"nthread": 1})


def _module(part: Any) -> str:
    return f"{type(part).__module__}."


def _titled(model: Any) -> str:
    name = type(model).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"
