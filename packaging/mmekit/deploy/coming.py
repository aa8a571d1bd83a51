"""What shall be current: planned from what is, looked up again, and put."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mmekit.deploy.bucket import bucket_owner
from mmekit.deploy.current import (
    now_at,
    put_releases,
    releases_so_far,
    remove_releases,
    stored_releases,
)
from mmekit.deploy.layers import short_name, stored_layers
from mmekit.deploy.models import stored_archives
from mmekit.deploy.releases import CURRENT, HISTORY, Releases
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.errors import DeployError
from mmekit.plural import are, counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from mmekit.deploy.account import Site
    from mmekit.deploy.current import StoredReleases
    from mmekit.deploy.objects import StoredObject
    from mmekit.deploy.releases import ModelVersion

__all__ = ["ComingReleases", "coming_releases", "plan_release"]

_NAMED = 5


@dataclass(frozen=True)
class ComingReleases:
    """What current.json says, and what it shall say.

    Attributes
    ----------
    stored
        What is there; None when there is nothing.
    before
        Its releases; without a history when there is none.
    after
        The same when nothing changes.
    now
        The time, by S3's clock.
    key
        From which key to which the file is encrypted anew; None where it is as it shall be.
    """

    stored: StoredReleases | None
    before: Releases
    after: Releases
    now: datetime
    key: Difference | None = None

    @property
    def makes_release(self) -> bool:
        """Say whether other models become current."""
        return self.before.models != self.after.models or not self.before.history

    @property
    def undone(self) -> tuple[str, ...]:
        """Return the archives that a rollback took back, and that become current again."""
        back = self.before.taken_back() if self.makes_release and self.before.history else ()
        coming = set(self.after.models.items())
        return tuple(sorted(version.key for name, version in back if (name, version) in coming))

    def kept(self, stored: Sequence[StoredObject], keep_days: int) -> frozenset[str]:
        """Return the archives that stay: those of releases, and what was uploaded of late.

        What no release names may be what another deployment has uploaded a moment ago and is about
        to make current; or what an interrupted one has left.
        """
        bound = self.now - timedelta(days=keep_days)
        known = self.before.keys()
        late = {one.key for one in stored if one.key not in known and one.modified > bound}
        return self.after.keys() | late


def coming_releases(
    site: Site,
    models: Mapping[str, ModelVersion] | None,
    archives: Sequence[StoredObject],
    *,
    how: str,
    source: str = "",
) -> ComingReleases | None:
    """Say what current.json shall say; None where there is none and shall be none.

    Parameters
    ----------
    models
        What shall be current, by name; None for what is.
    archives
        What is under the prefix.
    """
    stored = stored_releases(site)
    if stored is None and not site.deployment.versions:
        return None
    now = now_at(site)
    after = releases_so_far(site, archives, stored, now)
    after = after.forgetting(site.deployment.keep_days, now) if after.history else after
    wanted = after.models if models is None else models
    if after.models != wanted or not after.history:
        after = after.followed_by(wanted, how=how, config="", now=now, source=source)
    if stored is None:
        return ComingReleases(None, Releases(site.name, {}, ()), after, now)
    return ComingReleases(stored, stored.releases, after, now, _other_key(site, stored))


def plan_release(site: Site, coming: ComingReleases, config: str, note: str = "") -> Step:
    """Plan the file.

    Parameters
    ----------
    config
        The endpoint config that is in service by then.
    note
        What one should know besides.
    """
    before, after = coming.before, coming.after
    if not after.has_versions and not site.deployment.versions:
        # Nothing of versions is left to go back to, and each name is a key again.
        return Step(
            Action.REMOVE,
            "releases",
            CURRENT,
            note="versions are off, and none is left",
            perform=lambda _: remove_releases(site, coming.stored),
        )
    lags = coming.stored is not None and coming.stored.lags
    if after == before and coming.key is None and not lags:
        current = after.current
        notes = [
            f"release {current.number} is current: {counted(len(after.models), 'model')}",
            note,
        ]
        return Step(Action.KEEP, "releases", CURRENT, note="; ".join(filter(None, notes)))
    forgotten = [one for one in before.history if after.release(one.number) is None]
    notes = [note] if note else []
    if lags:
        known = len(before.history)
        many = f"{counted(known, 'release')} {are(known)}"
        notes.append(f"{HISTORY} lacks release {before.current.number}: {many} known, and put now")
    if forgotten:
        numbers = f"{forgotten[0].number} to {forgotten[-1].number}"
        which = f"release {forgotten[0].number}" if len(forgotten) == 1 else f"releases {numbers}"
        notes.append(
            f"{which} forgotten: not current for more than {site.deployment.keep_days} days"
        )
    if coming.makes_release:
        notes.insert(0, f"release {after.current.number}: {after.current.says}")
    return Step(
        Action.CHANGE if before.history else Action.CREATE,
        "releases",
        CURRENT,
        tuple(_differences(coming)),
        note="; ".join(notes),
        perform=lambda report: _put(site, coming, config, report),
    )


def _other_key(site: Site, stored: StoredReleases) -> Difference | None:
    key = site.deployment.kms_key
    # Others' buckets encrypt as they like.
    if stored.kms_key == key or bucket_owner(site) != site.name:
        return None
    return Difference("key", stored.kms_key or "S3's own", key or "S3's own")


def _differences(coming: ComingReleases) -> Iterator[Difference]:
    if coming.key is not None:
        yield coming.key
    # Of a first release it is the archives that say it.
    if coming.makes_release and (coming.before.history or coming.after.history[1:]):
        for name, change in sorted(coming.after.current.changed.items()):
            before, after = (
                "none" if one is None else one.key for one in (change.before, change.after)
            )
            yield Difference(name, before, after)


def _put(site: Site, coming: ComingReleases, config: str, report: Report) -> None:
    after = coming.after
    if coming.makes_release:
        # Only now are they current: uploads may have taken an hour.
        made = max(now_at(site), after.current.made)
        now_made = dataclasses.replace(after.current, made=made, config=config)
        after = dataclasses.replace(after, history=(*after.history[:-1], now_made))
        _check(site, after.models)
    put_releases(site, after, coming.stored, report)
    if coming.makes_release:
        # What another run has removed between the look and the put: from now on nobody does.
        _check(site, after.models, is_current=True)


def _check(site: Site, models: Mapping[str, ModelVersion], *, is_current: bool = False) -> None:
    """Look whether what becomes current is there: another run may have removed it as nobody's."""
    there = {one.key: one for one in stored_archives(site)}
    lost = [
        name
        for name, one in models.items()
        if one.key not in there or there[one.key].sha256 != one.sha256
    ]
    needed = {name for one in models.values() if one.key in there for name in there[one.key].layers}
    if needed:
        needed -= {one.key.removesuffix(".tar.gz") for one in stored_layers(site)}
        lost += [f"the layer {short_name(one)}" for one in sorted(needed)]
    if lost:
        said = "What is current now is" if is_current else "What should become current is"
        left = "" if is_current else f" {CURRENT} was left as it is."
        raise DeployError(
            f"{said} not in the bucket: {', '.join(lost[:_NAMED])}"
            f"{' and more' if lost[_NAMED:] else ''}.{left}",
            where=site.data_url,
            remedy="Run the command again: it uploads what is missing. `mme rollback` leads back "
            "to what was current before."
            if is_current
            else "Run the command again: it uploads what is missing.",
        )
