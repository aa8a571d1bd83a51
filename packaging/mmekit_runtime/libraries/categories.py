"""Categories to the numbers that they had in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.messages import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_SHOWN = 10


class Categories:
    """The numbers of the categories of some columns of a table.

    Parameters
    ----------
    columns
        For each such column its place and its categories, in the order of training.
    names
        The names of all columns, for refusals.
    """

    def __init__(self, columns: Mapping[int, Sequence[Any]], names: Sequence[str]) -> None:
        self._codes = {
            place: {value: float(code) for code, value in enumerate(values)}
            for place, values in columns.items()
        }
        self._names = names

    def coded(self, table: Any) -> NDArray[np.float64]:
        """Return a table of numbers: NaN for what is missing.

        Raises
        ------
        RequestError
            400 for a category that training did not know.
        """
        rows = np.asarray(table)
        if not self._codes and rows.dtype == np.float64:
            return rows
        numbers = np.empty(rows.shape, dtype=np.float64)
        for place in range(rows.shape[1]):
            codes = self._codes.get(place)
            column = rows[:, place]
            if codes is None and column.dtype == np.float64:
                numbers[:, place] = column
            else:
                numbers[:, place] = [
                    self._number(value, row, place)
                    if codes is None
                    else self._code(codes, value, row, place)
                    for row, value in enumerate(column)
                ]
        return numbers

    def _number(self, value: Any, row: int, place: int) -> float:
        if value is None:
            return np.nan
        if not isinstance(value, (int, float, np.number, np.bool_)):
            raise RequestError(
                400,
                f"a number in the column {self._name(place)}",
                f"{value!r} in row {row}, column {self._name(place)}",
            )
        return float(value)

    def _code(self, codes: Mapping[Any, float], value: Any, row: int, place: int) -> float:
        if value is None or value != value:  # noqa: PLR0124  NaN alone differs from itself
            return np.nan
        try:
            return codes[value]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, list(codes)[:_SHOWN]))
            more = f" and {len(codes) - _SHOWN} more" if len(codes) > _SHOWN else ""
            raise RequestError(
                400,
                f"one of {known}{more} in the column {self._name(place)}",
                f"{value!r} in row {row}, column {self._name(place)}",
            ) from None

    def _name(self, place: int) -> str:
        return self._names[place] if place < len(self._names) else str(place)
