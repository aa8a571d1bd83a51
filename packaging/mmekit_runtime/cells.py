"""Cells of one column, to the type of training."""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.bodies import MISSING_CELLS, Zoned
from mmekit_runtime.decoding import parse_number
from mmekit_runtime.messages import RequestError
from mmekit_runtime.parsed_body import described

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmekit_runtime.signature import Column

_EXACT = 1 << 53
_SHOWN = 10
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_PADDED = re.compile(r"\s*0\d+\s*", re.ASCII)
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


class FromValue:
    """Cells of JSON, Arrow and npy, which have types."""

    @staticmethod
    def is_missing(cell: Any, column: Column) -> bool:  # noqa: ARG004
        """Whether a cell stands for nothing."""
        return cell is None or (isinstance(cell, (float, np.floating)) and math.isnan(cell))

    @staticmethod
    def number(cell: Any) -> Any:
        """Return the number that a cell is; None if it is none."""
        value = _plain(cell)
        if isinstance(value, Decimal):  # as Parquet and Arrow have them
            is_whole = value.is_finite() and value == value.to_integral_value()
            return int(value) if is_whole else float(value)
        return value if isinstance(value, (int, float)) else None

    @staticmethod
    def boolean(cell: Any) -> Any:
        """Return the truth value that a cell is; None if it is none."""
        value = _plain(cell)
        return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else None

    @staticmethod
    def text(cell: Any) -> Any:
        """Return the text that a cell is; None if it is none."""
        return str(cell) if isinstance(cell, str) else None

    @staticmethod
    def candidates(cell: Any) -> tuple[Any, ...]:
        """Return what a cell may stand for, the likeliest first."""
        return (_plain(cell),)


class FromText:
    """Cells of CSV, which are texts."""

    @staticmethod
    def is_missing(cell: Any, column: Column) -> bool:
        """Whether a cell stands for nothing."""
        if cell is None:
            return True
        # Blanks are a text as any other.
        text = cell if column.type == "string" else cell.strip()
        return text in MISSING_CELLS and text not in _values(column)

    @staticmethod
    def number(cell: str) -> Any:
        """Return the number that a cell is; None if it is none."""
        text = cell.strip()
        try:
            return int(text) if text.lstrip("+-").isdecimal() else parse_number(text)
        except ValueError:  # thousands of digits
            return None

    @staticmethod
    def boolean(cell: str) -> Any:
        """Return the truth value that a cell is; None if it is none."""
        return _BOOLEANS.get(cell.strip().lower())

    @staticmethod
    def text(cell: str) -> Any:
        """Return the text that a cell is; None if it is none."""
        return cell

    @staticmethod
    def candidates(cell: str) -> tuple[Any, ...]:
        """Return what a cell may stand for, the likeliest first."""
        said = cell.strip()
        found = (FromText.number(cell), _BOOLEANS.get(said.lower()))
        return (*(one for one in found if one is not None), cell, said)


class Conversion:
    """Cells of one column to the type of training.

    Parameters
    ----------
    read
        What cells are: values, or texts of a CSV.
    largest
        The largest absolute value of a number.
    """

    def __init__(self, column: Column, read: type[FromValue | FromText], largest: float) -> None:
        self._column = column
        self._read = read
        self._largest = largest
        self._among = column.known if column.known is not None else column.categories
        self._by_key = {_key(value): value for value in self._among or ()}
        # An encoder keeps pandas' boolean as 0.0 and 1.0.
        self._are_truths = column.known is not None and set(self._by_key) == {0, 1}
        self._is_single = column.dtype in ("float16", "float32", "Float32")
        # What is written "" is read as nothing, and the other way round.
        self._is_either = read is FromText and column.missing and "" in _values(column)
        self.is_plain = (
            column.type in ("double", "float", "integer", "long", "boolean")
            and self._among is None
            and column.dtype != "category"
        )
        # Whole numbers and booleans with gaps are of another type than those without.
        self.keeps_gaps = column.type in ("double", "float") or (
            column.dtype is not None
            and (column.dtype[0] in "IUF" or column.dtype in ("boolean", "object"))
        )

    def of(self, cells: Any) -> NDArray[Any]:
        """Return an array of the cells, with NaN, None or NaT where one is missing."""
        kind = self._column.type
        if self._among is not None:
            return self._objects(cells, self._one_of)
        if kind in ("double", "float", "integer", "long"):
            return self._numbers(cells)
        if kind == "boolean":
            return self._booleans(cells)
        if kind == "datetime" or self._column.dtype == "time":
            return self._moments(cells)
        if kind == "string":
            return self._objects(cells, self._text)
        values = self._objects(cells, self._anything)
        return _as_inferred(values) if self._column.dtype is None else values

    def unseen(self, cells: Any) -> int:
        """Return how many cells are none of the values that may be; 0 where any may be."""
        count = 0
        for row, cell in enumerate(cells if self._among else ()):
            if not self._read.is_missing(cell, self._column) and not _is_nat(cell):
                try:
                    self._one_of(row, cell)
                except RequestError:
                    count += 1
        return count

    def _numbers(self, cells: Any) -> NDArray[Any]:
        is_whole = self._column.type in ("integer", "long")
        numbers = [
            float("nan") if number is None else number
            for number in self._each(cells, self._whole if is_whole else self._number)
        ]
        if is_whole and not any(isinstance(number, float) for number in numbers):
            return np.array(numbers, dtype=np.int64)
        if is_whole and any(abs(number) > _EXACT for number in numbers if number == number):  # noqa: PLR0124
            # NaN and a whole number that float64 cannot hold: only pandas' own type can have both.
            return np.array([None if number != number else number for number in numbers], object)  # noqa: PLR0124
        return np.array(numbers, dtype=np.float64)

    def _booleans(self, cells: Any) -> NDArray[Any]:
        values = self._each(cells, self._boolean)
        if None in values:
            return np.array([float("nan") if value is None else value for value in values], float)
        return np.array(values, dtype=np.bool_)

    def _objects(self, cells: Any, read: Callable[[int, Any], Any]) -> NDArray[Any]:
        values = np.empty(len(cells), dtype=object)
        gap = None if self._column.missing_is == "none" else float("nan")
        values[:] = [gap if value is None else value for value in self._each(cells, read)]
        return values

    def _moments(self, cells: Any) -> NDArray[Any]:
        dtype = self._column.dtype or "datetime64[ns]"
        if dtype in ("date", "time"):
            return self._objects(cells, self._date if dtype == "date" else self._time)
        has_zone = "," in dtype or "tz=" in dtype
        unit = (re.findall(r"\[(\w+)", dtype) or ["ns"])[0]
        if isinstance(cells, np.ndarray) and cells.dtype.kind == "M":
            if isinstance(cells, Zoned) != has_zone:
                said = "times with their zone" if has_zone else "times without a zone"
                received = "times without" if has_zone else "times in a zone"
                expected = f"{said} in the column {self._column.name}"
                raise RequestError(400, expected, received, (self._column.name,))
            cells = list(cells)
        moments = self._each(
            cells, lambda row, cell: self._moment(row, cell, unit, has_zone=has_zone)
        )
        return np.array(
            [np.datetime64("NaT") if one is None else one for one in moments], f"datetime64[{unit}]"
        )

    # Cell by cell.

    def _each(self, cells: Any, read: Callable[[int, Any], Any]) -> list[Any]:
        """Read every cell; None where one is missing, if that is allowed."""
        column = self._column
        values: list[Any] = []
        for row, cell in enumerate(cells):
            if self._is_either and cell == "":
                received = "an empty cell, which is said of both"
                raise self._refused(row, self._expected(), received)
            if self._read.is_missing(cell, column) or _is_nat(cell):
                if not column.missing:
                    raise self._refused(row, self._expected(), "a missing value")
                values.append(None)
            else:
                values.append(read(row, cell))
        return values

    def _number(self, row: int, cell: Any) -> float:
        number = self._read.number(cell)
        if number is None and self._column.dtype is None:
            # Nobody knows whether it was a boolean in training.
            number = self._read.boolean(cell)
        if number is None:
            raise self._refused(row, "a number", described(cell))
        if not abs(number) <= self._largest:
            is_any = self._largest == _LARGEST["float64"]
            said = "a finite number" if is_any else f"a number of at most {self._largest:g}"
            raise self._refused(row, said, described(cell))
        return float(number)

    def _whole(self, row: int, cell: Any) -> int:
        number = self._read.number(cell)
        is_whole = isinstance(number, int) or (number is not None and number.is_integer())
        if not is_whole:
            raise self._refused(row, "a whole number", described(cell))
        least, most = _bounds(self._column)
        if not least <= number <= most or abs(number) > self._largest:
            raise self._refused(row, f"a whole number from {least} to {most}", described(cell))
        return int(number)

    def _boolean(self, row: int, cell: Any) -> bool:
        value = self._read.boolean(cell)
        if value is None:
            raise self._refused(row, "true or false", described(cell))
        return bool(value)

    def _text(self, row: int, cell: Any) -> str:
        text = self._read.text(cell)
        if text is None:
            raise self._refused(row, "a text", described(cell))
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise self._refused(row, "a text of Unicode characters", "half of one")
        return str(text)

    def _anything(self, row: int, cell: Any) -> Any:
        value = self._read.candidates(cell)[0]
        if isinstance(value, (dict, list)):
            raise self._refused(row, "a single value", described(cell))
        # A number that begins with a zero is the name of something, such as a postal code.
        return cell if self._read is FromText and _PADDED.fullmatch(cell) else value

    def _one_of(self, row: int, cell: Any) -> Any:
        for value in self._read.candidates(cell):
            key = _key(value)
            if key in self._by_key:
                return self._by_key[key]
            if isinstance(value, bool) and self._are_truths:
                return self._by_key[int(value)]
            if self._is_single and isinstance(value, float):
                single = float(np.float32(value))
                if single in self._by_key:
                    return self._by_key[single]
        raise self._refused(row, self._expected(), described(cell))

    def _moment(self, row: int, cell: Any, unit: str, *, has_zone: bool) -> np.datetime64:
        expected = "a time in ISO 8601, " + (
            "with its zone, such as 2026-03-01T12:00:00+01:00"
            if has_zone
            else "such as 2026-03-01T12:00:00"
        )
        holdable = f"a time that datetime64[{unit}] can hold"
        if isinstance(cell, np.datetime64):
            moment, zone = cell, "Z" if has_zone else ""
        else:
            text = cell.isoformat() if isinstance(cell, dt.date) else cell
            match = _MOMENT.fullmatch(text.strip()) if isinstance(text, str) else None
            if match is None:
                raise self._refused(row, expected, described(cell))
            try:
                moment = np.datetime64(match[1].replace(" ", "T"))
            except ValueError as error:
                raise self._refused(row, expected, described(cell)) from error
            if str(moment)[:10] != match[1][:10]:
                # Nine digits of a second hold three centuries, and begin anew after them.
                raise self._refused(row, holdable, described(cell))
            zone = match[2] or ""
        offset = _minutes(zone)
        if offset is None:
            raise self._refused(row, expected, described(cell))
        # Without a zone nobody knows which one it was; UTC is what those write who know none.
        if not zone if has_zone else offset != 0:
            raise self._refused(row, expected, described(cell))
        moment = np.datetime64(moment - np.timedelta64(offset, "m"))
        exact: np.datetime64 = moment.astype(f"datetime64[{unit}]")
        if exact != moment or exact.astype("datetime64[D]") != moment.astype("datetime64[D]"):
            raise self._refused(row, holdable, described(cell))
        return exact

    def _date(self, row: int, cell: Any) -> dt.date:
        if isinstance(cell, dt.date) and not isinstance(cell, dt.datetime):
            return cell
        try:
            return dt.date.fromisoformat(cell.strip())
        except (AttributeError, ValueError) as error:
            raise self._refused(row, "a date such as 2026-03-01", described(cell)) from error

    def _time(self, row: int, cell: Any) -> dt.time:
        if isinstance(cell, dt.time):
            return cell
        try:
            return dt.time.fromisoformat(cell.strip())
        except (AttributeError, ValueError) as error:
            raise self._refused(row, "a time of day such as 12:30:00", described(cell)) from error

    # Saying what is wrong.

    def _expected(self) -> str:
        if self._among is not None and not self._among:
            return "a value whose type the model does not tell (mmekit.signature does)"
        if self._among is not None:
            shown = ", ".join(repr(value) for value in self._among[:_SHOWN])
            more = len(self._among) - _SHOWN
            return f"one of {shown}" + (f" and {more} more" if more > 0 else "")
        words = {
            "string": "a text",
            "boolean": "true or false",
            "datetime": "a time",
            "any": "a value",
        }
        whole = self._column.type in ("integer", "long")
        return words.get(self._column.type, "a whole number" if whole else "a number")

    def _refused(self, row: int, expected: str, received: str) -> RequestError:
        gap = " or nothing" if self._column.missing else ""
        return RequestError(
            400,
            f"{expected}{gap} in the column {self._column.name}",
            f"{received} in row {row}, column {self._column.name}",
            (self._column.name,),
        )


_LARGEST = {
    "float64": float(np.finfo(np.float64).max),
    "float32": float(np.finfo(np.float32).max),
    "Float32": float(np.finfo(np.float32).max),
    "float16": float(np.finfo(np.float16).max),
}


def largest_of(column: Column) -> float:
    """Return the largest absolute value that a column can hold."""
    return _LARGEST.get(column.dtype or "", _LARGEST["float64"])


def _key(value: Any) -> Any:
    """Return what tells values apart: to Python, True is 1."""
    if isinstance(value, (str, bool)):
        return (type(value), value)
    try:
        hash(value)
    except TypeError:
        return None
    return value


def _bounds(column: Column) -> tuple[int, int]:
    dtype = (column.dtype or "").lower()
    if not re.fullmatch(r"u?int(8|16|32|64)", dtype):
        dtype = "int32" if column.type == "integer" and column.dtype is None else "int64"
    limits = np.iinfo(dtype)
    # What is held on the way is int64.
    return int(limits.min), min(int(limits.max), (1 << 63) - 1)


def _minutes(zone: str) -> int | None:
    """Return a zone's distance from UTC; None for one that there cannot be."""
    if zone in ("", "Z"):
        return 0
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    if hours >= 24 or minutes >= 60:  # noqa: PLR2004
        return None
    return (-1 if zone[0] == "-" else 1) * (hours * 60 + minutes)


def _values(column: Column) -> tuple[Any, ...]:
    """Return what is a value of a column, however much it looks like a missing one."""
    # NA may be Namibia.
    return (column.known or column.categories or ()) + column.present


def _plain(cell: Any) -> Any:
    """Return what a cell of numpy is to Python; a moment would become the number of its ticks."""
    is_moment = isinstance(cell, (np.datetime64, np.timedelta64))
    return cell.item() if isinstance(cell, np.generic) and not is_moment else cell


def _as_inferred(values: NDArray[Any]) -> NDArray[Any]:
    """Return cells of which nobody knows the type as the numbers or booleans that all of them are.

    What computes with a column, such as a function that is mapped over it, does not with objects.
    """
    cells = values.tolist()
    kinds = set(map(type, cells))
    if kinds == {bool}:
        return values.astype(np.bool_)
    if not kinds <= {int, float}:
        return values
    if any(abs(cell) > _EXACT for cell in cells if isinstance(cell, int)):
        return values
    return values.astype(np.int64 if kinds == {int} else np.float64)


def _is_nat(cell: Any) -> bool:
    if isinstance(cell, np.datetime64):
        return bool(np.isnat(cell))
    return type(cell).__name__ in ("NaTType", "NAType")
