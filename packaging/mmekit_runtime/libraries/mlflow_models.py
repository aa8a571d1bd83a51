"""Models of MLflow whose library has no handler of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_runtime.libraries.probabilities import no_probabilities
from mmekit_runtime.tables import TableHandler

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit_runtime.messages import Parameters


class MLflowHandler(TableHandler):
    """A model folder of MLflow, through its pyfunc flavour.

    Loading it runs code of the folder. Where the library has a handler of its own here, that one
    needs no mlflow.

    Parameters
    ----------
    folder
        The folder's name among the artefacts: the one with MLmodel in it.
    """

    frame = True

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def load(self, folder: Path) -> Any:
        """Return the PyFuncModel."""
        from mlflow import pyfunc

        # Resolved: mlflow takes a link for a way out of its folder.
        path = (folder / self.folder).resolve()
        return pyfunc.load_model(str(path), suppress_warnings=True)

    def predict(self, model: Any, table: Any, parameters: Parameters) -> Any:
        """Answer as the model's predict does; ``parameters`` that its signature names reach it."""
        if parameters.probabilities:
            raise no_probabilities("a model behind MLflow's pyfunc")
        known = model.metadata.get_params_schema()
        return model.predict(table, params=dict(parameters.others) if known else None)
