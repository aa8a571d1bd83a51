"""What a check finds: each with a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    severity
        ``error``: the model will not load, will not answer, or must not be uploaded; packing
        refuses. ``warning``: it works, at a cost or a risk. ``note``: worth knowing.
    rule
        The rule's name, as docs and tests have it.
    message
        What was found, and what follows from it.
    remedy
        What to do.
    where
        File (and line), or the archive.
    """

    severity: Severity
    rule: str
    message: str
    remedy: str
    where: str

    @property
    def is_error(self) -> bool:
        """Return whether packing refuses because of it."""
        return self.severity == "error"


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort: errors first, then by place."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.where, f.rule)))
