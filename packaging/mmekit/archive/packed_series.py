"""What became of the models of a series, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmekit.archive.pack import Packed
    from mmekit.errors import MmekitError


@dataclass(frozen=True)
class SeriesProgress:
    """How far a series is: how many models there are, and what became of how many."""

    total: int
    packed: int = 0
    unchanged: int = 0
    failed: int = 0
    measured: int = 0
    reused: int = 0

    @property
    def done(self) -> int:
        """Return how many models need nothing more."""
        return self.packed + self.unchanged + self.failed


@dataclass(frozen=True)
class PackedSeries:
    """What became of the models of a folder, each by the name of its own.

    Attributes
    ----------
    packed
        The archives that were written.
    unchanged
        Models whose archive was there, made of the same inputs.
    failures
        Models that could not be packed; an archive that was there is as it was.
    measured
        Models that were measured now.
    reused
        Models that were loaded and asked, and have the rest of the named model's measurement.
    left_out
        What else is in the folder.
    """

    packed: dict[str, Packed] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    failures: dict[str, MmekitError] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)
    reused: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def ordered(self, left_out: tuple[str, ...]) -> PackedSeries:
        """Return it in the order of names, whatever was finished first."""
        return PackedSeries(
            packed=dict(sorted(self.packed.items())),
            unchanged=sorted(self.unchanged),
            failures=dict(sorted(self.failures.items())),
            measured=sorted(self.measured),
            reused=dict(sorted(self.reused.items())),
            left_out=left_out,
        )
