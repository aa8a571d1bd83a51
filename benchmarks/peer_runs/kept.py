"""What was found, kept in a file for each model on each peer: a run can be resumed and mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from peer_runs.cells import Cell

if TYPE_CHECKING:
    from pathlib import Path

_CELL = TypeAdapter(Cell)


class Kept:
    """The cells of a folder.

    Parameters
    ----------
    folder
        Made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, peer: str, model: str) -> Cell | None:
        """Return a cell; None when there is none, or one that another version has written."""
        try:
            return _CELL.validate_json(self._file(peer, model).read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, cell: Cell) -> None:
        """Keep a cell, in the place of an earlier one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._file(cell.peer, cell.model)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_bytes(_CELL.dump_json(cell, indent=1))
        unfinished.replace(file)

    def _file(self, peer: str, model: str) -> Path:
        return self._folder / f"{peer}-{model}.json"
