"""A plan as text and as data: what is alike in one line, what differs, and totals at the end."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

from mmekit.archive.files import size_text
from mmekit.deploy.step import Action

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmekit.deploy.step import Step

__all__ = ["folded", "plan_lines", "plan_members", "totals_line"]

_SIGNS = {Action.CREATE: "+", Action.CHANGE: "~", Action.KEEP: " ", Action.REMOVE: "-"}
_FEW = 4  # so many are told one by one
_NAMED = 3  # of the fields that a group's members differ in
_SAID = {
    Action.CREATE: "to create",
    Action.CHANGE: "to change",
    Action.REMOVE: "to remove",
    Action.KEEP: "to keep",
}
_INDENT = "      "


def plan_lines(steps: Sequence[Step], *, verbose: bool = False) -> list[str]:
    """Return a line a step, and one for five or more in a row that are alike.

    Parameters
    ----------
    verbose
        A line for each step, whatever is alike.
    """
    lines: list[str] = []
    for _, group in itertools.groupby(steps, _likeness):
        alike = list(group)
        if verbose or len(alike) <= _FEW:
            for step in alike:
                lines += _one(step)
        else:
            lines += _many(alike)
    return lines


def totals_line(steps: Sequence[Step]) -> str:
    """Return how many resources are dealt with in which way, and how much is uploaded.

    Examples
    --------
    >>> totals_line([])
    'In all: 0 to create, 0 to change, 0 to remove, 0 to keep; nothing to upload'
    """
    counts = Counter(step.action for step in steps)
    told = ", ".join(f"{counts[action]:,} {said}" for action, said in _SAID.items())
    size = sum(step.size for step in steps)
    return f"In all: {told}; {f'{size_text(size)} to upload' if size else 'nothing to upload'}"


def plan_members(steps: Sequence[Step]) -> dict[str, Any]:
    """Return the same for a program: every step, and the totals."""
    counts = Counter(step.action for step in steps)
    return {
        "steps": [
            {
                "action": step.action.value,
                "kind": step.kind,
                "name": step.name,
                "note": step.note,
                "upload_bytes": step.size,
                "differences": [dataclasses.asdict(one) for one in step.differences],
            }
            for step in steps
        ],
        "totals": {
            **{action.value: counts[action] for action in Action},
            "upload_bytes": sum(step.size for step in steps),
        },
        "has_changes": any(step.perform is not None for step in steps),
    }


def folded(lines: Sequence[str]) -> Iterator[str]:
    """Fold lines to the terminal's width, 80 where there is none; names stay whole."""
    width = shutil.get_terminal_size().columns
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip())) + _INDENT
        # Not by `wrap` alone: it would take the spaces at the beginning of what fits.
        whole = textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        )
        yield from [line] if len(line) <= width else whole


def _likeness(step: Step) -> tuple[Any, ...]:
    """Return what steps have to have in common to be told in one line."""
    fields = tuple(difference.field for difference in step.differences)
    return (step.action, step.kind, step.note, fields, step.perform is None)


def _one(step: Step) -> Iterator[str]:
    upload = f"{size_text(step.size)} to upload" if step.size else ""
    yield _headed(step.action, f"{step.kind} {step.name}", (step.note, upload))
    yield from _differences(step)


def _differences(step: Step) -> Iterator[str]:
    for one in step.differences:
        yield f"{_INDENT}{one.field}: {one.before} -> {one.after}"


def _many(steps: Sequence[Step]) -> Iterator[str]:
    first, size = steps[0], sum(step.size for step in steps)
    upload = f"{size_text(size)} to upload" if size else ""
    names = f"{first.name} … {steps[-1].name}"
    yield _headed(first.action, f"{len(steps)} {first.kind}s", (names, upload, first.note))
    if all(step.differences == first.differences for step in steps):
        yield from _differences(first)
    else:
        fields = [difference.field for difference in first.differences]
        more = f" and {len(fields) - _NAMED} more" if len(fields) > _NAMED else ""
        yield f"{_INDENT}{', '.join(fields[:_NAMED])}{more} of each (--verbose lists them)"


def _headed(action: Action, what: str, notes: Sequence[str]) -> str:
    note = "; ".join(filter(None, notes))
    return f"{_SIGNS[action]} {action.value:<6} {what}{f' ({note})' if note else ''}"
