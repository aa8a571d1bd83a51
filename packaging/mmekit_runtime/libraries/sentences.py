"""Models of texts in the folders of their libraries: SetFit, sentence-transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.handler import TextHandler
from mmekit_runtime.layers import SHARED_FOLDER_VARIABLE
from mmekit_runtime.libraries.probabilities import no_probabilities, of_two_classes_each
from mmekit_runtime.messages import Parameters, Prediction

if TYPE_CHECKING:
    from collections.abc import Collection

_SMALL_DIFFERENCE = 1e-4
_HEAD, _SETTINGS = "model_head.pkl", "config_setfit.json"
NOT_OF_THE_BODY = frozenset({_HEAD, _SETTINGS, "README.md"})
"""What SetFit saves beside the sentence model, in the same folder."""


class _OfFolder(TextHandler):
    """What both have in common: a sentence model, which many may share.

    Where ``option.shared`` names the sentence model's files, it is loaded for all models that have
    the same one.

    Parameters
    ----------
    folder
        The folder's name among the artefacts.
    """

    max_rows = 256
    reads = ()
    tolerance = _SMALL_DIFFERENCE  # texts of other lengths are padded otherwise

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def shares(self) -> bool:
        """Whether the sentence model is among the shared files."""
        shared = os.environ.get(SHARED_FOLDER_VARIABLE, "")
        return bool(shared) and (Path(shared) / self.folder).is_dir()

    def load_shared(self, folder: Path) -> Any:
        """Return the SentenceTransformer on the CPU, warm; the hub is never asked."""
        model = _sentence_model(folder / self.folder)
        _warm_up(model)
        return model


class SetFitHandler(_OfFolder):
    """A classifier that SetFit saved, with the sentence model in the same folder.

    Parameters
    ----------
    folder
        The folder's name among the artefacts.
    """

    def load(self, folder: Path, shared: Any = None) -> Any:
        """Return the SetFitModel; the hub is never asked."""
        _stay_offline()
        from setfit import SetFitModel

        own = folder / self.folder
        if shared is None:
            return SetFitModel.from_pretrained(str(own), local_files_only=True)
        import joblib

        _expect_nothing_but(NOT_OF_THE_BODY, own)
        # What from_pretrained does when it has loaded the sentence model.
        settings = own / _SETTINGS
        given = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        head = joblib.load(own / _HEAD)
        if hasattr(head, "to"):  # a network of torch
            head.to(shared.device)
        return SetFitModel(shared, head, **given)

    def load_shared(self, folder: Path) -> Any:
        """Return the SentenceTransformer on the CPU, warm; the hub is never asked."""
        _stay_offline()
        import setfit  # noqa: F401  here, so that the models need not import it

        return super().load_shared(folder)

    def predict(self, model: Any, rows: list[str], parameters: Parameters) -> Any:
        """Answer labels: names, where the model has some."""
        quiet = {"as_numpy": True, "show_progress_bar": False}
        if parameters.probabilities and not hasattr(model.model_head, "predict_proba"):
            raise no_probabilities(type(model.model_head).__name__)
        if _has_several_outputs(model):
            return self._several(model, rows, parameters, quiet)
        if not hasattr(model.model_head, "predict_proba"):
            return list(model.predict(rows, **quiet))
        # One pass through the sentence model, of which the labels are the largest.
        probabilities = np.asarray(model.predict_proba(rows, **quiet))
        classes = _classes(model, probabilities.shape[1])
        labels = [classes[best] for best in probabilities.argmax(axis=1)]
        return Prediction(labels, probabilities, classes) if parameters.probabilities else labels

    def _several(
        self, model: Any, rows: list[str], parameters: Parameters, quiet: dict[str, bool]
    ) -> Any:
        labels = np.asarray(model.predict(rows, use_labels=False, **quiet))
        if not parameters.probabilities:
            return labels
        probabilities = np.asarray(model.predict_proba(rows, **quiet))
        if probabilities.ndim == 2:  # noqa: PLR2004  of the second class alone
            return of_two_classes_each(labels, probabilities.T)
        each = list(np.moveaxis(probabilities, 1, 0))  # of (n, outputs, classes)
        return Prediction(labels, each, [list(range(one.shape[1])) for one in each])


class SentenceTransformersHandler(_OfFolder):
    """A sentence model: a text in, its embedding out.

    Parameters
    ----------
    folder
        The folder's name among the artefacts.
    """

    def load(self, folder: Path, shared: Any = None) -> Any:
        """Return the SentenceTransformer on the CPU; the hub is never asked."""
        if shared is None:
            return _sentence_model(folder / self.folder)
        _expect_nothing_but((), folder / self.folder)
        return shared

    def predict(self, model: Any, rows: list[str], parameters: Parameters) -> Any:
        """Answer the embeddings, float32 of shape (n, dimensions)."""
        if parameters.probabilities:
            raise no_probabilities("a sentence model")
        return model.encode(rows, convert_to_numpy=True, show_progress_bar=False)


def _sentence_model(folder: Path) -> Any:
    _stay_offline()
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def _warm_up(model: Any) -> None:
    """Have a sentence model in memory, and not in each process that is forked from this one.

    No thread may be left. Its ``encode`` starts them: tqdm's, even without a bar and with a lock in
    shared memory, and those of OpenMP.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Older ones of sentence-transformers have tokenize alone.
    tokens = getattr(model, "preprocess", None) or model.tokenize
    with torch.inference_mode():
        model(tokens(["Where is my parcel?"]))
    torch.set_num_threads(threads)


def _expect_nothing_but(own: Collection[str], folder: Path) -> None:
    """Expect that all of a sentence model is shared: the library would make up what it lacks."""
    names = (str(one.relative_to(folder)) for one in sorted(folder.rglob("*")) if one.is_file())
    left = [f"{folder.name}/{name}" for name in names if name not in own]
    if left:
        raise ValueError(
            f"a part of the sentence model is not shared: add {', '.join(left)} to option.shared"
        )


def _has_several_outputs(model: Any) -> bool:
    """Whether a text gets several labels. SetFit does not save its strategy; the head tells."""
    head = model.model_head
    return (
        model.multi_target_strategy is not None
        or bool(getattr(head, "multilabel_", False) or getattr(head, "multitarget", False))
        or isinstance(getattr(head, "classes_", None), list)
    )


def _classes(model: Any, count: int) -> list[Any]:
    """Return what SetFit calls the columns of probabilities: labels are for numbers alone."""
    known = getattr(model.model_head, "classes_", None)
    classes = np.arange(count) if known is None else np.asarray(known)
    if model.labels and classes.dtype.char != "U":
        return [model.labels[int(number)] for number in classes]
    return list(classes.tolist())


def _stay_offline() -> None:
    # Read when the library is imported; what option.env says comes first.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
