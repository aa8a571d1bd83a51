"""current.json in the bucket: read, and put where nobody else has put another meanwhile."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import code_of, is_missing
from mmekit.deploy.bucket import bucket_owner
from mmekit.deploy.models import stored_archives
from mmekit.deploy.objects import DEPLOYMENT, removal_of_object
from mmekit.deploy.releases import (
    CURRENT,
    ModelVersion,
    Releases,
    is_keyed_by_digest,
)
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmekit.deploy.account import Site
    from mmekit.deploy.objects import StoredObject

__all__ = [
    "ComingReleases",
    "StoredReleases",
    "coming_releases",
    "plan_release",
    "plan_releases_removal",
    "stored_releases",
]

# If-Match and If-None-Match are refused with 412; with 409 while another put is under way, and
# with 404 when the object is gone.
_OVERTAKEN = frozenset(
    {"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404"}
)
_NAMED = 5


@dataclass(frozen=True)
class StoredReleases:
    """What is in the bucket: releases, the ETag of the file, and the key that it is encrypted with.

    The key is None for S3's own.
    """

    releases: Releases
    etag: str
    kms_key: str | None = None


@dataclass(frozen=True)
class ComingReleases:
    """What current.json says, and what it shall say.

    Attributes
    ----------
    etag
        Of the file that is there; None when there is none.
    before
        Its releases; without a history when there is none.
    after
        The same when nothing changes.
    key
        From which key to which the file is encrypted anew; None where it is as it shall be.
    """

    etag: str | None
    before: Releases
    after: Releases
    key: Difference | None = None

    @property
    def makes_release(self) -> bool:
        """Say whether other models become current."""
        return self.before.models != self.after.models or not self.before.history

    def kept(self, stored: Sequence[StoredObject], keep_days: int) -> frozenset[str]:
        """Return the archives that stay: those of releases, and what was uploaded of late.

        What no release names may be what another deployment has uploaded a moment ago and is about
        to make current; or what an interrupted one has left.
        """
        bound = _now() - timedelta(days=keep_days)
        known = self.before.keys()
        late = {one.key for one in stored if one.key not in known and one.modified > bound}
        return self.after.keys() | late


def stored_releases(site: Site) -> StoredReleases | None:
    """Look up current.json; None when it is not there, or another deployment's.

    Raises
    ------
    DeployError
        It cannot be read; or it is another deployment's, and this one wants to have its own.
    """
    found = _get(site)
    if found is None:
        return None
    where = f"{site.data_url}{CURRENT}"
    releases = Releases.from_json(found["Body"].read(), where=where)
    if releases.deployment == site.name:
        return StoredReleases(releases, str(found["ETag"]), found.get("SSEKMSKeyId"))
    if not site.deployment.versions:
        return None
    raise DeployError(
        f"Under this prefix {CURRENT} is that of the deployment {releases.deployment}, and "
        "there is one for all archives under a prefix.",
        where=where,
        remedy="Give this deployment another `prefix`.",
    )


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
        What is under the prefix. What was deployed without versions is what was current until the
        first release: it is remembered as one.
    """
    stored = stored_releases(site)
    if stored is None and not site.deployment.versions:
        return None
    now = _now()
    base = Releases(site.name, {}, ()) if stored is None else stored.releases
    after = base
    if stored is None:
        plain = {
            one.key: ModelVersion(one.key, one.sha256)
            for one in archives
            if one.owner == site.name
            and one.sha256 is not None
            and not is_keyed_by_digest(one.key, one.sha256)
        }
        if plain:
            after = base.followed_by(plain, how="deploy", config="", now=now)
    after = after.forgetting(site.deployment.keep_days, now) if after.history else after
    wanted = after.models if models is None else models
    if after.models != wanted or not after.history:
        after = after.followed_by(wanted, how=how, config="", now=now, source=source)
    if stored is None:
        return ComingReleases(None, base, after)
    return ComingReleases(stored.etag, base, after, _other_key(site, stored))


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
    name = f"{CURRENT} ({site.data_url})"
    if not after.has_versions and not site.deployment.versions:
        # Nothing of versions is left to go back to, and each name is a key again.
        return dataclasses.replace(
            removal_of_object(site, "releases", CURRENT, site.prefix + CURRENT),
            note="versions are off, and none is left",
        )
    if after == before and coming.key is None:
        current = after.current
        notes = [f"release {current.number} is current: {len(after.models)} models", note]
        return Step(Action.KEEP, "releases", CURRENT, note="; ".join(filter(None, notes)))
    forgotten = [one for one in before.history if after.release(one.number) is None]
    notes = [note] if note else []
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
        perform=lambda report: _put(site, coming, config, name, report),
    )


def plan_releases_removal(site: Site) -> tuple[Step, ...]:
    """Plan to remove current.json, if it is the deployment's."""
    found = _get(site)
    if found is None:
        return ()
    found["Body"].close()
    if found["Metadata"].get(DEPLOYMENT) != site.name:
        note = "not uploaded by this deployment"
        return (Step(Action.KEEP, "releases", CURRENT, note=note),)
    return (removal_of_object(site, "releases", CURRENT, site.prefix + CURRENT),)


def _other_key(site: Site, stored: StoredReleases) -> Difference | None:
    key = site.deployment.kms_key
    # Others' buckets encrypt as they like.
    if stored.kms_key == key or bucket_owner(site) != site.name:
        return None
    return Difference("key", stored.kms_key or "S3's own", key or "S3's own")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _get(site: Site) -> Any:
    try:
        return site.account.client("s3").get_object(Bucket=site.bucket, Key=site.prefix + CURRENT)
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def _differences(coming: ComingReleases) -> Iterator[Difference]:
    if coming.key is not None:
        yield coming.key
    # Of a first release it is the archives that say it.
    if coming.before.history and coming.makes_release:
        for name, change in sorted(coming.after.current.changed.items()):
            before, after = (
                "none" if one is None else one.key for one in (change.before, change.after)
            )
            yield Difference(name, before, after)


def _put(site: Site, coming: ComingReleases, config: str, name: str, report: Report) -> None:
    """Put the file, unless somebody has put another since the plan was made."""
    after = coming.after
    if coming.makes_release:
        # Only now are they current: uploads may have taken an hour.
        made = dataclasses.replace(after.current, made=_now(), config=config)
        after = dataclasses.replace(after, history=(*after.history[:-1], made))
        _check(site, after.models)
    condition = {"IfNoneMatch": "*"} if coming.etag is None else {"IfMatch": coming.etag}
    try:
        site.account.client("s3").put_object(
            Bucket=site.bucket,
            Key=site.prefix + CURRENT,
            Body=after.to_json(),
            ContentType="application/json",
            CacheControl="no-cache",
            Metadata={DEPLOYMENT: site.name},
            **condition,
        )
    except ClientError as error:
        if code_of(error) not in _OVERTAKEN:
            raise
        there = stored_releases(site)
        if there is not None and there.releases.models == after.models:
            report(f"{name}: another run has made the same current meanwhile")
            return
        by = "is gone" if there is None else f"is at release {there.releases.current.number}"
        raise DeployError(
            f"Somebody else has changed {CURRENT} since this plan was made: it {by} now. It was "
            "left as it is; what this run uploaded is there, and not current.",
            where=f"{site.data_url}{CURRENT}",
            remedy="Run the command again: it plans from what is current now.",
        ) from error


def _check(site: Site, models: Mapping[str, ModelVersion]) -> None:
    """Look whether what becomes current is there: another run may have removed it as nobody's."""
    there = {one.key: one.sha256 for one in stored_archives(site)}
    lost = [name for name, one in models.items() if there.get(one.key) != one.sha256]
    if lost:
        raise DeployError(
            f"What should become current is not in the bucket: {', '.join(lost[:_NAMED])}"
            f"{' and more' if lost[_NAMED:] else ''}. {CURRENT} was left as it is.",
            where=site.data_url,
            remedy="Run the command again: it uploads what is missing.",
        )
