"""current.json in the bucket: read, and put where nobody else has put another meanwhile.

releases.json follows it. A run that dies between the two leaves current.json, which is true and has
what releases.json lacks; the next run writes that down before it does anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import code_of, is_missing
from mmekit.deploy.objects import DEPLOYMENT
from mmekit.deploy.release_files import (
    current_json,
    history_json,
    lags_behind,
    read_history,
    read_releases,
)
from mmekit.deploy.releases import (
    CURRENT,
    HISTORY,
    ModelVersion,
    Releases,
    is_keyed_by_digest,
)
from mmekit.deploy.step import Action, Report, Step
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmekit.deploy.account import Site
    from mmekit.deploy.objects import StoredObject

__all__ = [
    "StoredReleases",
    "now_at",
    "plan_releases_removal",
    "put_releases",
    "releases_so_far",
    "remove_releases",
    "stored_releases",
]

# If-Match and If-None-Match are refused with 412; with 409 while another put is under way, and
# with 404 when the object is gone.
_OVERTAKEN = frozenset(
    {"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404"}
)
_TRIES = 4
# So far a clock here may be off before S3's counts instead.
_OFF = timedelta(minutes=2)


@dataclass(frozen=True)
class StoredReleases:
    """What is in the bucket.

    Attributes
    ----------
    releases
        What the files say.
    etag, history_etag
        Of current.json, and of releases.json; None when that is not there.
    lags
        Whether releases.json lacks the release that is current: a run died before it put it.
    kms_key
        What current.json is encrypted with; None for S3's own.
    """

    releases: Releases
    etag: str
    history_etag: str | None
    lags: bool
    kms_key: str | None = None


def stored_releases(site: Site) -> StoredReleases | None:
    """Look up current.json; None when it is not there, or another deployment's.

    Raises
    ------
    DeployError
        It cannot be read; or it is another deployment's, and this one wants to have its own.
    """
    found = _get(site, CURRENT)
    if found is None:
        return None
    where, current = f"{site.data_url}{CURRENT}", found["Body"].read()
    releases = read_releases(current, where=where)
    if releases.deployment == site.name:
        # After current.json: then it has whatever that one does not have itself.
        former = _get(site, HISTORY)
        history = None if former is None else former["Body"].read()
        return StoredReleases(
            read_releases(current, history, where=where),
            str(found["ETag"]),
            None if former is None else str(former["ETag"]),
            lags_behind(current, history),
            found.get("SSEKMSKeyId"),
        )
    if not site.deployment.versions:
        return None
    raise DeployError(
        f"Under this prefix {CURRENT} is that of the deployment {releases.deployment}, and "
        "there is one for all archives under a prefix.",
        where=where,
        remedy="Give this deployment another `prefix`.",
    )


def releases_so_far(
    site: Site, archives: Sequence[StoredObject], stored: StoredReleases | None, now: datetime
) -> Releases:
    """Return what is current, and was: before the first release, what the plain keys lead to.

    Parameters
    ----------
    archives
        What is under the prefix. What was deployed without versions is remembered as a release.
    """
    if stored is not None:
        return stored.releases
    plain = {
        one.key: ModelVersion(one.key, one.sha256)
        for one in archives
        if one.owner == site.name
        and one.sha256 is not None
        and not is_keyed_by_digest(one.key, one.sha256)
    }
    nothing = Releases(site.name, {}, ())
    return nothing.followed_by(plain, how="deploy", config="", now=now) if plain else nothing


def now_at(site: Site) -> datetime:
    """Return the time: S3's, where the clock of this machine is another.

    By it versions are forgotten and removed.
    """
    try:
        answer = site.account.client("s3").head_bucket(Bucket=site.bucket)
    except ClientError as error:  # that there is none is said at a time, too
        answer = error.response
    here, told = datetime.now(timezone.utc), answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    there = here if told is None else parsedate_to_datetime(told)
    return there if abs(there - here) > _OFF else here


def put_releases(
    site: Site, after: Releases, stored: StoredReleases | None, report: Report
) -> None:
    """Put both files, unless somebody has put another current.json since it was looked up.

    Raises
    ------
    DeployError
        Somebody has, and other models are current.
    """
    history_etag = None if stored is None else stored.history_etag
    if stored is not None and stored.lags:
        history_etag = _put_history(site, stored.releases, history_etag)
    condition = {"IfNoneMatch": "*"} if stored is None else {"IfMatch": stored.etag}
    try:
        _put_file(site, CURRENT, current_json(after), condition)
    except ClientError as error:
        if code_of(error) not in _OVERTAKEN:
            raise
        there = stored_releases(site)
        if there is not None and there.releases.models == after.models:
            report(f"{CURRENT}: another run has made the same current meanwhile")
            return
        by = "is gone" if there is None else f"is at release {there.releases.current.number}"
        raise DeployError(
            f"Somebody else has changed {CURRENT} since this plan was made: it {by} now. It was "
            "left as it is; what this run uploaded is there, and not current.",
            where=f"{site.data_url}{CURRENT}",
            remedy="Run the command again: it plans from what is current now.",
        ) from error
    _put_history(site, after, history_etag)


def plan_releases_removal(site: Site) -> tuple[Step, ...]:
    """Plan to remove current.json and releases.json, if they are the deployment's."""
    steps = []
    for name in (CURRENT, HISTORY):
        found = _get(site, name)
        if found is None:
            continue
        found["Body"].close()
        if found["Metadata"].get(DEPLOYMENT) != site.name:
            note = "not uploaded by this deployment"
            steps.append(Step(Action.KEEP, "releases", name, note=note))
            continue
        remove = _Removal(site, name, str(found["ETag"]))
        steps.append(Step(Action.REMOVE, "releases", name, perform=remove.perform))
    return tuple(steps)


def remove_releases(site: Site, stored: StoredReleases | None) -> None:
    """Remove both files: first the one that callers read."""
    if stored is None:
        return
    nothing: Report = lambda _: None  # noqa: E731 - nothing of it is told
    _Removal(site, CURRENT, stored.etag).perform(nothing)
    if stored.history_etag is not None:
        _Removal(site, HISTORY, stored.history_etag).perform(nothing)


@dataclass(frozen=True)
class _Removal:
    """One of the files, that is removed unless it has become another."""

    site: Site
    name: str
    etag: str

    def perform(self, _: Report) -> None:
        found = _get(self.site, self.name)
        if found is None:
            return
        found["Body"].close()
        if found["ETag"] != self.etag:
            raise DeployError(
                f"Somebody else has changed {self.name} since this plan was made. It was left as "
                "it is.",
                where=f"{self.site.data_url}{self.name}",
                remedy="Run the command again: it plans from what is there now.",
            )
        s3 = self.site.account.client("s3")
        s3.delete_object(Bucket=self.site.bucket, Key=self.site.prefix + self.name)


def _get(site: Site, name: str) -> Any:
    try:
        return site.account.client("s3").get_object(Bucket=site.bucket, Key=site.prefix + name)
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def _put_file(site: Site, name: str, body: bytes, condition: Mapping[str, str]) -> str:
    put = site.account.client("s3").put_object(
        Bucket=site.bucket,
        Key=site.prefix + name,
        Body=body,
        ContentType="application/json",
        CacheControl="no-cache",
        Metadata={DEPLOYMENT: site.name},
        **condition,
    )
    return str(put["ETag"])


def _put_history(site: Site, releases: Releases, etag: str | None) -> str | None:
    """Put releases.json, unless another run has put one that goes further meanwhile."""
    for left in reversed(range(_TRIES)):
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            return _put_file(site, HISTORY, history_json(releases), condition)
        except ClientError as error:
            if code_of(error) not in _OVERTAKEN or not left:
                raise
        found = _get(site, HISTORY)
        etag = None if found is None else str(found["ETag"])
        known = [] if found is None else read_history(found["Body"].read(), where=site.data_url)
        if known and known[-1]["number"] >= releases.current.number:
            break
    return etag
