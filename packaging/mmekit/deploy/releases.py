"""Which version of each model is current, and which were before: what current.json says.

A version is an archive whose key carries its digest. A release is made when another version, or
another set of models, becomes current. It says what changed, so that what was current before it can
be told from what is current after it; the file stays short, however many models there are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CURRENT",
    "ModelVersion",
    "Release",
    "Releases",
    "VersionChange",
    "is_keyed_by_digest",
    "keyed_by_digest",
]

CURRENT = "current.json"
"""The key of the file, under the prefix."""

_FORMAT = 1
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
    """What current.json says.

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
        ends = (*(one.made for one in self.history[1:]), now)
        return tuple(
            one
            for one, end in zip(self.history, ends, strict=True)
            if end > bound or one is self.current
        )

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

    def stopped(self) -> dict[str, datetime]:
        """Return since when each archive that is remembered is not current any more."""
        current = {one.key for one in self.models.values()}
        return {
            change.before.key: release.made
            for release in self.history[1:]
            for change in release.changed.values()
            if change.before is not None and change.before.key not in current
        }

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
        release = Release(number, now, how, restores, source, config, changed)
        return Releases(self.deployment, dict(models), (*self.history, release))

    def to_json(self) -> bytes:
        """Return the content of the file, the same for the same releases."""
        content = {
            "format": _FORMAT,
            "deployment": self.deployment,
            "release": self.current.number,
            "models": {name: vars(one) for name, one in sorted(self.models.items())},
            "releases": [
                {
                    "number": one.number,
                    "made": one.made.astimezone(timezone.utc).isoformat(timespec="milliseconds"),
                    "how": one.how,
                    "restores": one.restores,
                    "source": one.source,
                    "config": one.config,
                    "changed": {
                        name: {
                            "before": change.before and vars(change.before),
                            "after": change.after and vars(change.after),
                        }
                        for name, change in one.changed.items()
                    },
                }
                for one in self.history
            ],
        }
        return (json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes, *, where: str) -> Releases:
        """Read what `to_json` wrote.

        Raises
        ------
        DeployError
            It is anything else.
        """
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise DeployError(
                    f"{CURRENT} has format {content['format']}, and this mmekit knows {_FORMAT}.",
                    where=where,
                    remedy="Use the version of mmekit that wrote it, or a newer one.",
                )
            models = {str(name): _version(one) for name, one in content["models"].items()}
            found = cls(
                str(content["deployment"]),
                {name: one for name, one in models.items() if one is not None},
                tuple(_release(one) for one in content["releases"]),
            )
            numbers = [one.number for one in found.history]
            if not numbers or numbers != sorted(set(numbers)) or None in models.values():
                raise ValueError("its releases are not in order")  # noqa: TRY301 - told as others
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DeployError(
                f"{CURRENT} is not one that mme writes: {error}.",
                where=where,
                remedy="Put an older version of it back, if the bucket keeps some; or remove it: "
                "`mme deploy` then makes it anew, without the releases before.",
            ) from error
        return found


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


def _release(content: Any) -> Release:
    made = datetime.fromisoformat(str(content["made"]))
    restores = content["restores"]
    return Release(
        int(content["number"]),
        made if made.tzinfo else made.replace(tzinfo=timezone.utc),
        str(content["how"]),
        None if restores is None else int(restores),
        str(content["source"]),
        str(content["config"]),
        {
            str(name): VersionChange(_version(one["before"]), _version(one["after"]))
            for name, one in content["changed"].items()
        },
    )


def _version(content: Any) -> ModelVersion | None:
    return None if content is None else ModelVersion(str(content["key"]), str(content["sha256"]))
