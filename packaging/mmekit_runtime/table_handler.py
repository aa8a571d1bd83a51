"""Handlers whose rows are a table: columns with names and types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mmekit_runtime.estimators import names_of, signature_of, wants_frame
from mmekit_runtime.frames import array_of, frame_of
from mmekit_runtime.handler import Handler
from mmekit_runtime.tables import TableReader

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit_runtime.messages import Parameters
    from mmekit_runtime.signature import Signature


class TableHandler(Handler):
    """A model with a table: ``predict`` gets the columns, in the order and types of training.

    A request may name its columns, in any order and format (docs/handlers.md), or give rows in the
    order of training. What a model takes is said by signature.json, which `mmekit.signature` makes
    of the training's table; without one, by the estimator itself, as far as it tells. A model that
    knows no names gets rows of numbers, as from a `Handler`.

    Attributes
    ----------
    frame
        Whether ``predict`` gets a pandas DataFrame or an array: float64 where every column is a
        number, otherwise objects. None asks the signature, and then the estimator: a frame where it
        selects columns by name, so that nobody else needs pandas in the container.
    signature
        What was found when the model was loaded; None where nothing is known.
    """

    frame: ClassVar[bool | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.signature: Signature | None = None
        self._reader: TableReader | None = None
        self._gives_frames = False

    def prepare(self, folder: Path) -> Any:
        """Load the model unless it is loaded, and return it.

        Raises
        ------
        ValueError
            signature.json cannot be read.
        """
        if self._loaded is not None:
            return self._loaded.model
        model = super().prepare(folder)
        signature = self._written_signature() or signature_of(model)
        if signature is not None and signature.inputs:
            signature = self._completed(signature)
            self._gives_frames = self._wants_frames(signature, model)
            self._reader = TableReader(signature, self.largest)
        self.signature = signature
        return model

    def decode(self, body: bytes, content_type: str) -> tuple[Any, Parameters]:
        """Read a request's table and its parameters.

        It is in a form that can be joined with others: an array, or a dict of columns. `predict`
        gets what was joined, in the form that ``frame`` says.
        """
        if self._reader is None:
            return super().decode(body, content_type)
        return self._reader.read(body, content_type)

    def _for_predict(self, rows: Any) -> Any:
        if self._reader is None or self.signature is None:
            return rows
        return (frame_of if self._gives_frames else array_of)(rows, self.signature)

    def _completed(self, signature: Signature) -> Signature:
        """Return the signature with what the handler itself says of missing values."""
        if self.missing is None:
            return signature
        return signature.with_missing(missing=self.missing)

    def _wants_frames(self, signature: Signature, model: Any) -> bool:
        if self.frame is not None:
            return self.frame
        if signature.frame is not None:
            return signature.frame
        if names_of(model) is not None:
            return wants_frame(model)
        # Nobody knows: numbers alone are as good in an array.
        return not all(one.is_number or one.type == "boolean" for one in signature.inputs)
