"""What handlers of all libraries refuse in the same words."""

from __future__ import annotations

from mmekit_runtime.messages import RequestError


def no_probabilities(model: str) -> RequestError:
    """Return the 400 for ``probabilities=true`` of a model that has none."""
    return RequestError(
        400, f"a request without probabilities, as {model} gives none", "probabilities=true"
    )
