"""How far the demonstration is: bars in a terminal, lines anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.console import Console
    from typing_extensions import Self

    from mmekit_local.notebook import Notebook

__all__ = ["DemoProgress"]


class DemoProgress:
    """Shows each notebook with its cell, its section and the time it takes.

    Parameters
    ----------
    console
        Where to show it. A terminal gets a bar for each notebook; a file or a pipe, such as the
        log of a CI run, gets a line when a notebook begins and when it ends.
    notebooks
        All that will be executed, in the order to show them in.
    """

    def __init__(self, console: Console, notebooks: Sequence[Notebook]) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("cell {task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[section]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {
            notebook.name: self._bars.add_task(
                notebook.name, start=False, total=notebook.code_cells, section=""
            )
            for notebook in notebooks
        }

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave what is shown as it is."""
        self._bars.stop()

    def at_cell(self, notebook: Notebook, number: int, heading: str) -> None:
        """Show that a code cell begins."""
        task = self._tasks[notebook.name]
        if number == 1:
            self._bars.start_task(task)
            self._say(f"{notebook.name}: {notebook.code_cells} cells")
        self._bars.update(task, completed=number - 1, section=heading)

    def finished(self, notebook: Notebook, seconds: float) -> None:
        """Show that a notebook has run to its end."""
        task = self._tasks[notebook.name]
        self._bars.update(task, completed=notebook.code_cells, section="")
        self._say(f"{notebook.name}: done in {seconds:.1f} s")

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line, highlight=False)
