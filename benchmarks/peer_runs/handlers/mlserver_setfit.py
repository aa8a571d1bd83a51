"""A custom runtime of MLServer, for which it has none of its own."""

from pathlib import Path
from typing import List  # noqa: UP035  MLServer knows no other

from mlserver import MLModel
from mlserver.codecs import decode_args
from mlserver.utils import get_model_uri
from served_model import load


class SetFitClassifier(MLModel):
    """Sentences in, their classes out."""

    async def load(self) -> bool:
        """Load the model."""
        self._model = load(Path(await get_model_uri(self._settings)))
        return True

    @decode_args
    async def predict(self, input: List[str]) -> List[str]:  # noqa: A002, UP006  as the request
        """Answer all of them with one call."""
        return self._model.predict(input)
