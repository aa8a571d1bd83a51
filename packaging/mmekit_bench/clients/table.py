"""Executions as a CSV file that is whole at any moment."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, NoReturn

from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from mmekit_bench.clients.crowd import Execution

__all__ = ["COLUMNS", "Table"]

COLUMNS = (
    "execution_number",
    "client_id",
    "status_response",
    "body_response",
    "elapsed_time",
    "current_date",
)


class Table:
    """A CSV file, a row an execution; every row is in the file as soon as it is added.

    Parameters
    ----------
    path
        Is made, with the folders above it, and must not be there yet.

    Raises
    ------
    MmekitError
        It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="utf-8", newline="")
            self._writer = csv.writer(self._file)
            self._writer.writerow(COLUMNS)
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def add(self, execution: Execution) -> None:
        """Write a row.

        Raises
        ------
        MmekitError
            It cannot be written; the rows before it are there.
        """
        reply = execution.reply
        try:
            self._writer.writerow(
                [
                    execution.number,
                    execution.client,
                    "" if reply.status is None else reply.status,
                    reply.body,
                    f"{execution.elapsed:.6f}",
                    execution.ended.isoformat(timespec="milliseconds"),
                ]
            )
            self._file.flush()
        except OSError as error:
            self._fail(error)
        self.rows += 1

    def close(self) -> None:
        """Let go of the file; one without rows goes."""
        self._file.close()
        if not self.rows:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _fail(self, error: OSError) -> NoReturn:
        what = f"The results cannot be written: {error.strerror or error}."
        remedy = "Make room there, or name a folder that can be written with --output."
        raise MmekitError(what, where=str(self.path), remedy=remedy) from error
