"""The table of what was to be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tables import table

from slot_runs.servers import TITLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slot_runs.servers import ServerKind

MIB = 1 << 20
GIB = 1 << 30
_MET = {True: "yes", False: "**no**", None: ""}


@dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes
    ----------
    met
        None where there is nothing to be met.
    """

    what: str
    target: str
    server: ServerKind
    reached: str
    met: bool | None


def to_reach(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the section of a report with what was to be reached, and what was."""
    rows = [
        (one.what, one.target, TITLES[one.server], one.reached, _MET[one.met]) for one in outcomes
    ]
    return ["## To reach", "", table(("", "target", "server", "reached", "met"), (), rows)]
