"""What was found of one model on one peer, kept in a file: a run can be resumed and mended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from mmekit_bench import Load  # noqa: TC001  pydantic reads it

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = (1, 10, 50)
ASKED = 5
"""Of the largest number, models that are asked on while the others are idle."""
CONNECTIONS = (1, 8, 32)

ColdKind = Literal["load", "start"]


@dataclass(frozen=True)
class Cold:
    """Milliseconds until the first answer of a model.

    Attributes
    ----------
    kind
        ``load``: of a model that a running server had not loaded, one after the other. ``start``:
        from the start of the server's process, as this peer cannot load a model later.
    first_ms
        The very first one, which brings in the libraries.
    median_ms
        Of those after it; where there are none, of all.
    count
        How many these are.
    """

    kind: ColdKind
    first_ms: float
    median_ms: float
    count: int


@dataclass(frozen=True)
class Memory:
    """Bytes of all processes of a server (PSS), each model having answered a request.

    Attributes
    ----------
    measured_with
        The largest number of models that were there. Where it is smaller than ``models``, the rest
        is extrapolated in a straight line from the smallest number.
    """

    models: int
    proportional: int
    measured_with: int

    @property
    def extrapolated(self) -> bool:
        """Whether so many models were never there."""
        return self.measured_with < self.models


@dataclass(frozen=True)
class Cell:
    """What was found.

    Attributes
    ----------
    taken
        When, by UTC.
    idle
        Memory for the largest number of models, of which all but `ASKED` are idle.
    answer
        To the request; None when there was none.
    missing
        What could not be found, and why: ``cold``, ``memory``, ``memory 50``, ``8 connections`` …
    """

    peer: str
    version: str
    model: str
    taken: str
    cold: Cold | None = None
    memory: tuple[Memory, ...] = ()
    idle: Memory | None = None
    loads: tuple[Load, ...] = ()
    answer: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether there is nothing that another try could add but what is extrapolated."""
        lacking = [what for what in self.missing if not what.startswith("memory ")]
        return self.cold is not None and not lacking

    def memory_for(self, models: int) -> Memory | None:
        """Return the memory for a number of models."""
        return next((one for one in self.memory if one.models == models), None)

    def idle_of(self, models: int) -> Memory | None:
        """Return the memory for a number of models of which most are idle."""
        return self.idle if self.idle and self.idle.models == models else None

    def load(self, connections: int) -> Load | None:
        """Return the measurement with a number of connections."""
        return next((one for one in self.loads if one.connections == connections), None)


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
