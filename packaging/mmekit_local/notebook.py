"""A notebook that is executed without a browser."""

from __future__ import annotations

import atexit
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from mmekit.errors import DemoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

__all__ = ["Notebook", "Spectator"]

_CELL_SECONDS = 600
_ERROR_LINES = 12
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


class Spectator(Protocol):
    """Who is told how far notebooks are."""

    def at_cell(self, notebook: Notebook, number: int, heading: str) -> None:
        """Take note that a code cell begins; ``number`` counts code cells from 1."""

    def finished(self, notebook: Notebook, seconds: float) -> None:
        """Take note that a notebook has run to its end, and how long it has worked."""


@dataclass(frozen=True)
class Notebook:
    """A notebook file, read.

    Attributes
    ----------
    path
        The file.
    node
        Its content, as nbformat has it.
    """

    path: Path
    node: Any

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Read a notebook file of format 4."""
        return cls(path, nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def code_cells(self) -> int:
        """How many cells there are to execute."""
        return sum(cell.cell_type == "code" for cell in self.node.cells)

    async def execute(
        self,
        folder: Path,
        output: Path,
        environment: Mapping[str, str],
        spectator: Spectator,
        stops: Mapping[str, Callable[[], Awaitable[object]]] | None = None,
    ) -> None:
        """Execute every cell in a fresh kernel, and save the notebook with its outputs.

        Parameters
        ----------
        folder
            The kernel's working folder.
        output
            The folder to save to, also after an error.
        environment
            The kernel's environment variables.
        spectator
            Is told of progress.
        stops
            What to wait for before the first cell under a heading, by heading. It is not counted
            as the notebook's time.

        Raises
        ------
        DemoError
            A cell failed, or the kernel died: names the cell, and has the error's last lines.
        """
        positions = [i for i, cell in enumerate(self.node.cells) if cell.cell_type == "code"]
        ahead = dict(stops or {})
        current = 0
        waited = 0.0

        async def at_cell(cell: Any, cell_index: int) -> None:
            nonlocal current, waited
            if cell.cell_type != "code":
                return
            current = positions.index(cell_index) + 1
            heading = self._heading_above(cell_index)
            spectator.at_cell(self, current, heading)
            if heading in ahead:
                since = time.monotonic()
                await ahead.pop(heading)()
                waited += time.monotonic() - since

        client = NotebookClient(
            self.node,
            timeout=_CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            on_cell_start=at_cell,
        )
        started = time.monotonic()
        saved = output / self.path.name
        log = saved.with_suffix(".log")
        try:
            with log.open("wb") as stream:
                await client.async_execute(env=dict(environment), stdout=stream, stderr=stream)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            what = f"{self.path.name} stopped in code cell {current} of {len(positions)}"
            heading = self._heading_above(positions[current - 1])
            raise DemoError(
                f'{what}, under "{heading}":\n{_last_lines(error)}',
                where=str(saved),
                remedy="open that notebook for all of the cell's output; what the kernel itself "
                f"had to say is in {log.name} beside it",
            ) from None
        finally:
            await _let_go(client)
            nbformat.write(self.node, saved)  # type: ignore[no-untyped-call]
        log.unlink()
        spectator.finished(self, time.monotonic() - started - waited)

    def _heading_above(self, index: int) -> str:
        for cell in reversed(self.node.cells[: index + 1]):
            if cell.cell_type == "markdown":
                headings: list[str] = _HEADING.findall(cell.source)
                if headings:
                    return headings[-1]
        return self.name


async def _let_go(client: NotebookClient) -> None:
    """End the kernel of a client that was cancelled while it started one.

    nbclient clears up in such a case only when the interpreter exits, and fails at that.
    """
    atexit.unregister(client._cleanup_kernel)  # noqa: SLF001 - what it registered
    if client.km is not None and client.km.has_kernel:
        await client._async_cleanup_kernel()  # noqa: SLF001 - the one way that waits for the end


def _last_lines(error: Exception) -> str:
    """Return the end of a cell's traceback; it is what says why."""
    text = error.traceback if isinstance(error, CellExecutionError) else str(error)
    lines = [line for line in _ANSI.sub("", text).splitlines() if line.strip()]
    return "\n".join(lines[-_ERROR_LINES:])
