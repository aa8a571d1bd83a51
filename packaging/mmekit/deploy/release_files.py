"""current.json and releases.json: what callers read, and what came before it.

Callers read current.json again and again: it has the models and the release that made them current,
whatever came before. The releases before are in releases.json, which only deployments read. It is
put after current.json, and current.json brings along what it lacks if a run dies between the two.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mmekit.deploy.releases import CURRENT, HISTORY, ModelVersion, Release, Releases, VersionChange
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "current_json",
    "history_json",
    "lags_behind",
    "read_history",
    "read_releases",
    "release_members",
]

_FORMAT = 1


def current_json(releases: Releases) -> bytes:
    """Return what callers read: the models, and the release that made them current."""
    return _json(
        {
            "format": _FORMAT,
            "deployment": releases.deployment,
            "release": releases.current.number,
            # A run that forgets a release changes this, so that one that goes back to it is told.
            "oldest": releases.history[0].number,
            "models": {name: vars(one) for name, one in sorted(releases.models.items())},
            "made_by": _as_kept(releases.current),
        }
    )


def history_json(releases: Releases) -> bytes:
    """Return the releases that are remembered, the current one among them."""
    content = {"format": _FORMAT, "deployment": releases.deployment}
    return _json({**content, "releases": [_as_kept(one) for one in releases.history]})


def release_members(releases: Releases) -> dict[str, Any]:
    """Return it all for a program, with what each release made of each model."""
    return {
        "format": _FORMAT,
        "deployment": releases.deployment,
        "release": releases.current.number,
        "models": {name: vars(one) for name, one in sorted(releases.models.items())},
        "releases": [
            {
                **{name: value for name, value in _as_kept(one).items() if name != "before"},
                "changed": {
                    name: {
                        "before": change.before and vars(change.before),
                        "after": change.after and vars(change.after),
                    }
                    for name, change in one.changed.items()
                },
            }
            for one in releases.history
        ],
    }


def read_releases(current: bytes, history: bytes | None = None, *, where: str) -> Releases:
    """Read current.json, and of releases.json what belongs to it.

    Parameters
    ----------
    history
        None for who asks only for what is current.
    where
        The place of current.json.

    Raises
    ------
    DeployError
        One of them is anything else than what mme writes.
    """
    try:
        content = json.loads(current)
        _check_format(content, CURRENT, where)
        record, oldest = content["made_by"], int(content["oldest"])
        models = {str(name): _version(one) for name, one in content["models"].items()}
        number = int(record["number"])
        if None in models.values() or not 1 <= oldest <= number == content["release"]:
            raise ValueError("its releases are not in order")  # noqa: TRY301 - told as others
        before = [] if history is None else read_history(history, where=where)
        there = {int(one["number"]): one for one in before}
        kept = [record]
        # An entry of its number that is another release is of a file that is not there any more.
        if there.get(number, record) == record:
            while (earlier := int(kept[0]["number"]) - 1) >= oldest and earlier in there:
                kept.insert(0, there[earlier])
        if number in there and len(kept) > 1 and kept[0]["number"] > oldest:
            raise _unreadable(HISTORY, where, ValueError(f"release {earlier} is not in it"))
        known = {name: one for name, one in models.items() if one is not None}
        return Releases(str(content["deployment"]), known, _releases(kept, known))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(CURRENT, where, error) from error


def read_history(history: bytes, *, where: str) -> list[dict[str, Any]]:
    """Read the entries of releases.json, as they are kept.

    Raises
    ------
    DeployError
        It is anything else.
    """
    where = where.removesuffix(CURRENT) + HISTORY
    try:
        content = json.loads(history)
        _check_format(content, HISTORY, where)
        entries: list[dict[str, Any]] = content["releases"]
        _releases(entries, {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(HISTORY, where, error) from error
    return entries


def lags_behind(current: bytes, history: bytes | None) -> bool:
    """Say whether releases.json lacks the release that is current."""
    return history is None or json.loads(current)["made_by"] not in json.loads(history)["releases"]


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def _check_format(content: dict[str, Any], name: str, where: str) -> None:
    if content["format"] != _FORMAT:
        raise DeployError(
            f"{name} has format {content['format']}, and this mmekit knows {_FORMAT}.",
            where=where,
            remedy="Use the version of mmekit that wrote it, or a newer one.",
        )


def _unreadable(name: str, where: str, error: Exception) -> DeployError:
    anew = {
        CURRENT: "or remove it: `mme deploy` then makes it anew, without the releases before.",
        HISTORY: "or remove it: what is current stays, and the releases before are forgotten.",
    }
    return DeployError(
        f"{name} is not one that mme writes: {type(error).__name__}, {error}.",
        where=where,
        remedy=f"Put an older version of it back, if the bucket keeps some; {anew[name]}",
    )


def _as_kept(one: Release) -> dict[str, Any]:
    """Return a release without what became current: the next one, or current.json, says that."""
    return {
        "number": one.number,
        "made": one.made.astimezone(timezone.utc).isoformat(timespec="milliseconds"),
        "how": one.how,
        "restores": one.restores,
        "source": one.source,
        "config": one.config,
        "before": {
            name: change.before and vars(change.before) for name, change in one.changed.items()
        },
    }


def _releases(
    entries: Sequence[dict[str, Any]], models: dict[str, ModelVersion]
) -> tuple[Release, ...]:
    """Return the releases that ended with these models, the oldest first."""
    after: dict[str, ModelVersion | None] = dict(models)
    releases = []
    for entry in reversed(entries):
        before = {str(name): _version(one) for name, one in entry["before"].items()}
        releases.append(
            _release(
                entry,
                {name: VersionChange(one, after.get(name)) for name, one in before.items()},
            )
        )
        after |= before
    return tuple(reversed(releases))


def _release(content: dict[str, Any], changed: dict[str, VersionChange]) -> Release:
    made = datetime.fromisoformat(str(content["made"]))
    restores = content["restores"]
    return Release(
        int(content["number"]),
        made if made.tzinfo else made.replace(tzinfo=timezone.utc),
        str(content["how"]),
        None if restores is None else int(restores),
        str(content["source"]),
        str(content["config"]),
        changed,
    )


def _version(content: Any) -> ModelVersion | None:
    return None if content is None else ModelVersion(str(content["key"]), str(content["sha256"]))
