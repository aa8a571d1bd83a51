"""One line of a plan: what becomes of one resource."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Action", "Difference", "Report", "Step", "differences"]

Report = Callable[[str], None]
"""Is told what happens, a line at a time."""

_ABSENT = "none"


class Action(str, Enum):
    """What is done to a resource."""

    CREATE = "create"
    CHANGE = "change"
    KEEP = "keep"
    REMOVE = "remove"


@dataclass(frozen=True)
class Difference:
    """A field of a resource that is not as it shall be."""

    field: str
    before: str
    after: str


@dataclass(frozen=True)
class Step:
    """What becomes of one resource.

    Attributes
    ----------
    action, kind, name
        Such as create, bucket, mmekit-123456789012-eu-central-1.
    differences
        Of a resource that is changed.
    note
        What one should know about it besides; empty for nothing.
    size
        Bytes to upload.
    perform
        Does it; doing it again does no harm. None for a resource that is kept.
    """

    action: Action
    kind: str
    name: str
    differences: tuple[Difference, ...] = ()
    note: str = ""
    size: int = 0
    perform: Callable[[Report], None] | None = None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Compare two descriptions field by field, inner mappings too.

    Examples
    --------
    >>> differences({"size": 1, "in": {"a": 2}}, {"size": 1, "in": {"a": 3}})
    (Difference(field='in.a', before='2', after='3'),)
    """
    found: list[Difference] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += [
                Difference(f"{name}.{inner.field}", inner.before, inner.after)
                for inner in differences(old, new)
            ]
        else:
            found.append(Difference(name, _spoken(old), _spoken(new)))
    return tuple(found)


def _spoken(value: Any) -> str:
    if value is None:
        return _ABSENT
    return value if isinstance(value, str) else json.dumps(value, default=str)
