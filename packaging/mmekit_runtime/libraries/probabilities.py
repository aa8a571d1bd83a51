"""Probabilities that a library gives in its own way, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.messages import Prediction, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def no_probabilities(model: str) -> RequestError:
    """Return the 400 for ``probabilities=true`` of a model that has none."""
    return RequestError(
        400, f"a request without probabilities, as {model} gives none", "probabilities=true"
    )


def of_two_classes_each(labels: Any, positive: Iterable[NDArray[Any]]) -> Prediction:
    """Return a prediction of outputs that are 0 or 1.

    Parameters
    ----------
    labels
        Shape (n, outputs).
    positive
        For each output the n probabilities of 1.
    """
    each = [np.column_stack([1 - one, one]) for one in positive]
    return Prediction(labels, each, [[0, 1] for _ in each])
