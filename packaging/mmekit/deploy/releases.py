"""Which version of each model is current, and which were before.

A version is an archive whose key carries its digest. A release is made when another version, or
another set of models, becomes current. It says what changed, so that what was current before it can
be told from what is current after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CURRENT",
    "HISTORY",
    "ModelVersion",
    "Release",
    "Releases",
    "VersionChange",
    "is_keyed_by_digest",
    "keyed_by_digest",
]

CURRENT = "current.json"
"""The key of the file that callers read, under the prefix."""

HISTORY = "releases.json"
"""The key of the file with the releases before."""

_DIGITS = 12
_ENDING = ".tar.gz"


@dataclass(frozen=True)
class ModelVersion:
    """An archive.

    Attributes
    ----------
    key
        What comes after the prefix: the target model.
    sha256
        Of its bytes.
    """

    key: str
    sha256: str


@dataclass(frozen=True)
class VersionChange:
    """What a release made of one model: None where there was none, or is none any more."""

    before: ModelVersion | None
    after: ModelVersion | None


@dataclass(frozen=True)
class Release:
    """A moment at which other versions became current.

    Attributes
    ----------
    number
        From 1, one more each time.
    made
        When.
    how
        ``deploy``, ``promote`` or ``rollback``.
    restores
        The release whose models a rollback brought back; None otherwise.
    source
        Where a promotion came from; empty otherwise.
    config
        The endpoint config that was in service.
    changed
        By the name of the model.
    """

    number: int
    made: datetime
    how: str
    restores: int | None
    source: str
    config: str
    changed: Mapping[str, VersionChange]

    @property
    def origin(self) -> int:
        """Return the release that first had these models: another for a rollback."""
        return self.restores or self.number

    def __str__(self) -> str:
        """Return it as a line."""
        made = self.made.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        what = f"rollback to {self.restores}" if self.restores else self.how
        return f"{self.number}  {made}  {what}{self.source and f' from {self.source}'}: {self.says}"

    @property
    def says(self) -> str:
        """Return how many models changed, in words."""
        new = sum(one.before is None for one in self.changed.values())
        gone = sum(one.after is None for one in self.changed.values())
        counts = {"new": new, "changed": len(self.changed) - new - gone, "gone": gone}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"


@dataclass(frozen=True)
class Releases:
    """What is current, and what was.

    Attributes
    ----------
    deployment
        Whose it is.
    models
        The current version of each model, by the name that callers know.
    history
        The releases that are remembered, the oldest first; the last is the current one.
    """

    deployment: str
    models: Mapping[str, ModelVersion]
    history: tuple[Release, ...]

    @property
    def current(self) -> Release:
        """Return the release that is current."""
        return self.history[-1]

    @property
    def has_versions(self) -> bool:
        """Say whether a key that is remembered carries its digest."""
        known = [*self.models.values()]
        for release in self.history[1:]:
            known += [one.before for one in release.changed.values() if one.before]
        return any(is_keyed_by_digest(one.key, one.sha256) for one in known)

    def release(self, number: int) -> Release | None:
        """Return a release by its number; None for one that is not remembered."""
        return next((one for one in self.history if one.number == number), None)

    def models_of(self, number: int) -> dict[str, ModelVersion]:
        """Return what was current with a release that is remembered."""
        models = dict(self.models)
        for release in reversed(self.history):
            if release.number <= number:
                break
            for name, change in release.changed.items():
                if change.before is None:
                    models.pop(name, None)
                else:
                    models[name] = change.before
        return models

    def before(self) -> Release | None:
        """Return the release that a rollback of the current one goes back to.

        It is the one before the release whose models are current, and not the one before in time:
        after a rollback that one is what was just taken back.
        """
        origin = self.current.origin
        found = [one for one in self.history if one.number < origin]
        return found[-1] if found else None

    def remembered(self, keep_days: int, now: datetime) -> tuple[Release, ...]:
        """Return the current release, and those that ended no more than so many days ago."""
        bound = now - timedelta(days=keep_days)
        first = 0
        # From the oldest on and no further: a clock that was wrong makes no gap.
        while self.history[first + 1 :] and self.history[first + 1].made <= bound:
            first += 1
        return self.history[first:]

    def forgetting(self, keep_days: int, now: datetime) -> Releases:
        """Return it without the releases that ended longer ago."""
        return Releases(self.deployment, self.models, self.remembered(keep_days, now))

    def keys(self) -> frozenset[str]:
        """Return every archive that is current, or was with a release that is remembered."""
        keys = {one.key for one in self.models.values()}
        # The models of the oldest are what its successor found.
        for release in self.history[1:]:
            keys |= {one.before.key for one in release.changed.values() if one.before}
        return frozenset(keys)

    def taken_back(self) -> frozenset[tuple[str, ModelVersion]]:
        """Return what rollbacks took back since the last release that was none."""
        found: set[tuple[str, ModelVersion]] = set()
        for release in reversed(self.history):
            if release.restores is None:
                break
            changes = release.changed.items()
            found |= {(name, one.before) for name, one in changes if one.before is not None}
        return frozenset(found - set(self.models.items()))

    def followed_by(
        self,
        models: Mapping[str, ModelVersion],
        *,
        how: str,
        config: str,
        now: datetime,
        restores: int | None = None,
        source: str = "",
    ) -> Releases:
        """Return what it says once these models are current."""
        changed = {
            name: VersionChange(self.models.get(name), models.get(name))
            for name in sorted({*self.models, *models})
            if self.models.get(name) != models.get(name)
        }
        number = self.current.number + 1 if self.history else 1
        made = max(now, self.current.made) if self.history else now
        release = Release(number, made, how, restores, source, config, changed)
        return Releases(self.deployment, dict(models), (*self.history, release))


def keyed_by_digest(name: str, sha256: str) -> str:
    """Return the key of a version of a model.

    Examples
    --------
    >>> keyed_by_digest("team/ridge.tar.gz", "3f2a1b9c0d4e" + "0" * 52)
    'team/ridge-3f2a1b9c0d4e.tar.gz'
    """
    return f"{name.removesuffix(_ENDING)}-{sha256[:_DIGITS]}{_ENDING}"


def is_keyed_by_digest(key: str, sha256: str) -> bool:
    """Say whether a key is that of a version with these bytes."""
    return key.endswith(f"-{sha256[:_DIGITS]}{_ENDING}")
