"""Whether a handler answers a request in a batch as it does alone.

The measured process reads this file as well, where mmekit is not: it needs the standard library
only, and numpy where an answer is an array.
"""

from __future__ import annotations

import inspect
import io
import json
import logging
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

REMEDY = (
    "let predict answer each row by itself (no mean, order or index over all rows), or decode "
    "return what is never joined; if only last digits differ, set the class's tolerance"
)
_USED = 6  # of the bodies that differ from the sample's; they are the most different first
_SECONDS = 30.0  # after which no further body is begun
_SHOWN = 100
_OK = 200
_UNSTEADY = "the model does not give the same request the same answer twice"
_NOTHING_ELSE = "no request was found that differs from the sample and that the model answers"
_DECIMAL = re.compile(r"([-+]?\d+\.(\d+)(?:[eE][-+]?\d+)?)")
# A label may depend on a row's neighbours less visibly than the numbers behind it.
_ASKED_FOR: tuple[dict[str, str], ...] = ({}, {"probabilities": "true"})


@dataclass(frozen=True)
class Proof:
    """What was found when requests were answered together.

    Attributes
    ----------
    handler
        The class and its file, for a person to read.
    difference
        What was answered differently; None if nothing was.
    unproven
        Why it is not known whether an answer depends on other requests' rows; None if it is.
    """

    handler: str
    difference: str | None = None
    unproven: str | None = None


def prove(
    handler: Any,
    request: Callable[..., Any],
    sample: bytes,
    content_type: str,
    different: Sequence[bytes],
) -> Proof:
    """Ask for a sample alone, in a batch with itself, and in batches with different requests.

    Parameters
    ----------
    handler
        An instance of mmekit_runtime's ``Handler``, loaded.
    request
        The class ``Request`` of the same mmekit_runtime.
    sample, content_type
        The body of a request that it answers.
    different
        Other bodies of the same content type; those that it refuses are left out.
    """
    where = _place(handler)
    deadline = time.monotonic() + _SECONDS
    log = logging.getLogger("mmekit_runtime")
    was_disabled, log.disabled = log.disabled, True  # that a body is refused is no news
    try:
        for attributes in _ASKED_FOR:
            asked = _BatchCaller(handler, request, content_type, attributes)
            difference, unproven = _examine(asked, sample, different)
            # With attributes it may only mean that the model has no probabilities.
            if difference or (unproven and not attributes):
                return Proof(where, difference, unproven)
            if time.monotonic() > deadline:
                break  # a model that takes so long would take as long once more
    finally:
        log.disabled = was_disabled
    return Proof(where)


def agree(answer: Any, expected: Any, tolerance: float = 1e-6) -> bool:
    """Tell whether two JSON values are equal but for the last digits of their numbers.

    Parameters
    ----------
    tolerance
        The difference that is let pass, relative for numbers above 1 and absolute below. Numbers
        with as many decimals within a text are compared in the same way.

    Examples
    --------
    >>> agree({"predictions": [0.1 + 0.2]}, {"predictions": [0.3]})
    True
    >>> agree(["spam"], ["ham"])
    False
    """
    return next(_differences(answer, expected, tolerance, ""), None) is None


class _BatchCaller:
    """A handler that is asked with one content type and the same attributes."""

    def __init__(
        self,
        handler: Any,
        request: Callable[..., Any],
        content_type: str,
        attributes: dict[str, str],
    ) -> None:
        self._handler = handler
        self._request = request
        self._rest = {"content_type": content_type, "attributes": attributes}
        self._tolerance = float(getattr(handler, "tolerance", 1e-6))

    def __call__(self, *bodies: bytes) -> list[Any]:
        return list(self._handler.answer([self._request(body, **self._rest) for body in bodies]))

    def unlike(self, reply: Any, alone: Any) -> str | None:
        """Say how a reply differs from that to the request alone; None if it does not."""
        return _unlike(reply, alone, self._tolerance)


def _examine(
    asked: _BatchCaller, sample: bytes, different: Sequence[bytes]
) -> tuple[str | None, str | None]:
    """Return what differs, and what keeps it from being known."""
    (alone,) = asked(sample)
    if alone.status != _OK:
        return None, "the sample request is not answered with 200"
    if asked.unlike(asked(sample)[0], alone):
        return None, _UNSTEADY
    known = {sample: alone, **_answered(asked, different)}
    batches: list[tuple[bytes, ...]] = [(sample, sample)]
    # Before another and between two: an answer may go by its place, or by what is before it.
    for body in list(known)[1:]:
        batches += [(sample, body), (body, sample, body)]
    for batch in batches:
        difference = _difference(asked, batch, known)
        if difference is not None:
            # It may be the model that changed meanwhile.
            unsteady = any(asked.unlike(asked(body)[0], known[body]) for body in batch)
            return (None, _UNSTEADY) if unsteady else (difference, None)
    return None, _NOTHING_ELSE if len(known) == 1 else None


def _answered(asked: _BatchCaller, different: Sequence[bytes]) -> dict[bytes, Any]:
    """Return the replies to bodies that the model answers when it gets them alone."""
    known: dict[bytes, Any] = {}
    deadline = time.monotonic() + _SECONDS
    for body in different:
        if len(known) == _USED or time.monotonic() > deadline:
            break
        (first,), (second,) = asked(body), asked(body)
        if first.status == _OK and not asked.unlike(second, first):
            known[body] = first
    return known


def _difference(
    asked: _BatchCaller, batch: tuple[bytes, ...], known: Mapping[bytes, Any]
) -> str | None:
    replies = asked(*batch)
    if len(replies) != len(batch):
        return f"{len(batch)} requests got {len(replies)} answers"
    for body, reply in zip(batch, replies, strict=True):
        how = asked.unlike(reply, known[body])
        if how is not None:
            other = next((one for one in batch if one != body), body)
            return f"{_shown(body)} together with {_shown(other)}: {how}"
    return None


def _unlike(reply: Any, alone: Any, tolerance: float) -> str | None:
    if reply.status != alone.status:
        return f"status {alone.status} alone, {reply.status} in a batch: {_shown(reply.body)}"
    if reply.content_type != alone.content_type:
        return f"{alone.content_type} alone, {reply.content_type} in a batch"
    if reply.body == alone.body:
        return None
    try:
        given, expected = (_parsed(one.body, one.content_type) for one in (reply, alone))
    except ValueError:
        given, expected = reply.body, alone.body
    found = next(_differences(given, expected, tolerance, ""), None)
    if found is None:
        return None
    path, one, other = found
    said = f"{path or 'the answer'} is {_shown(other)} alone and {_shown(one)} in a batch"
    if _is_number(one) and _is_number(other):
        said += f", which differs by {abs(one - other):.2g}; the tolerance is {tolerance:g}"
    return said


def _parsed(body: bytes, content_type: str) -> Any:
    """Return what an answer says, with its numbers as numbers; ValueError where nobody knows."""
    kind = content_type.partition(";")[0].strip().lower()
    if "npy" in kind:
        import numpy as np

        return np.load(io.BytesIO(body), allow_pickle=False).tolist()
    text = bytes(body).decode()
    if kind.endswith("json"):
        return json.loads(text)
    if "json" in kind:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return [[_cell(cell) for cell in line.split(",")] for line in text.splitlines()]


def _cell(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _differences(
    answer: Any, expected: Any, tolerance: float, path: str
) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(answer, dict) and isinstance(expected, dict) and answer.keys() == expected.keys():
        for name in expected:
            inside = f"{path}.{name}" if path else str(name)
            yield from _differences(answer[name], expected[name], tolerance, inside)
    elif isinstance(answer, list) and isinstance(expected, list) and len(answer) == len(expected):
        for place, (one, other) in enumerate(zip(answer, expected, strict=True)):
            yield from _differences(one, other, tolerance, f"{path}[{place}]")
    elif not _is_alike(answer, expected, tolerance):
        yield path, answer, expected


def _is_alike(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        if not (_is_number(one) and _is_number(other)):
            return False
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(one, str) and isinstance(other, str) and one != other:
        return _are_alike_texts(one, other, tolerance)
    return bool(one == other)


def _are_alike_texts(one: str, other: str, tolerance: float) -> bool:
    """Whether texts differ in nothing but the last digits of decimals."""
    parts, others = _DECIMAL.split(one), _DECIMAL.split(other)
    # In threes: what is between, the number, its decimals.
    if len(parts) != len(others) or parts[::3] != others[::3]:
        return False
    for number, decimals, wanted, of_wanted in zip(
        parts[1::3], parts[2::3], others[1::3], others[2::3], strict=True
    ):
        # Rounded, what differs by less than the tolerance may differ by a whole last digit.
        unit = 1.5 * 10.0 ** -len(decimals)
        least = unit if unit <= 2 * tolerance else tolerance
        is_close = math.isclose(float(number), float(wanted), rel_tol=tolerance, abs_tol=least)
        if len(decimals) != len(of_wanted) or not is_close:
            return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _shown(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        try:
            text = bytes(value).decode().strip()
        except UnicodeDecodeError:
            return f"{len(value)} bytes"
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(one if one.isprintable() else " " for one in text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 2]} …"


def _place(handler: Any) -> str:
    kind = type(handler)
    try:
        file = Path(inspect.getfile(kind)).name
    except (OSError, TypeError):
        file = kind.__module__
    return f"class {kind.__name__} in {file}"
