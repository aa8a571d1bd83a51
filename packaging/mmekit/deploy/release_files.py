"""current.json and releases.json: what callers read, and what came before it.

Callers read current.json again and again: it has the models and the release that made them current,
whatever came before. The releases before are in releases.json, which only deployments read. It is
put after current.json, and current.json brings along what it lacks if a run dies between the two.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mmekit.archive.files import size_text
from mmekit.deploy.parts import is_key
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

_Kind = TypeVar("_Kind")

_FORMAT = 1
_MOST_BYTES = 32 << 20  # ten thousand models, with names of a thousand characters
_SHOWN = 100
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    bool: "true or false",
}


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
        content = _parsed(current, CURRENT, where)
        record, oldest = _member(content, "made_by", dict), _member(content, "oldest", int)
        models = {
            _key(name, "a model"): _version(one, name)
            for name, one in _member(content, "models", dict).items()
        }
        number = _member(record, "number", int)
        if None in models.values() or not 1 <= oldest <= number == content.get("release"):
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
        return Releases(_member(content, "deployment", str), known, _releases(kept, known))
    except ValueError as error:
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
        entries: list[dict[str, Any]] = _member(_parsed(history, HISTORY, where), "releases", list)
        _releases(entries, {})
    except ValueError as error:
        raise _unreadable(HISTORY, where, error) from error
    return entries


def lags_behind(current: bytes, history: bytes | None) -> bool:
    """Say whether releases.json lacks the release that is current."""
    return history is None or json.loads(current)["made_by"] not in json.loads(history)["releases"]


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def _parsed(text: bytes, name: str, where: str) -> dict[str, Any]:
    """Return what a file says; ValueError for what is no object, or too long to be one of these."""
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it has {size_text(len(text))}, and {size_text(_MOST_BYTES)} is the most")
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"it is not JSON from {place} on") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"its byte {error.start} is no {error.encoding}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    found = _member(content, "format", int)
    if found != _FORMAT:
        raise DeployError(
            f"{name} has format {found}, and this mmekit knows {_FORMAT}.",
            where=where,
            remedy="Use the version of mmekit that wrote it, or a newer one.",
        )
    return cast("dict[str, Any]", content)


def _member(content: Any, name: str, kind: type[_Kind]) -> _Kind:
    """Return a member of an object, of the kind that is wanted; ValueError otherwise."""
    if not isinstance(content, dict):
        raise ValueError(f"what should have {name!r} is {_called(content)}, not an object")  # noqa: TRY004 - told as others
    if name not in content:
        raise ValueError(f"{name!r} is missing")
    value = content[name]
    if type(value) is not kind:
        raise ValueError(f"{name!r} is {_called(value)}, not {_KINDS[kind]}")
    return value


def _called(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), "a number")


def _key(text: str, whose: str) -> str:
    """Return a key below the prefix; ValueError for one that leads elsewhere."""
    if not is_key(text) or not {".", ".."}.isdisjoint(text.split("/")):
        raise ValueError(f"{whose} has the key {text[:_SHOWN]!a}, which is none of an archive")
    return text


def _unreadable(name: str, where: str, error: Exception) -> DeployError:
    anew = {
        CURRENT: "or remove it: `mme deploy` then makes it anew, without the releases before.",
        HISTORY: "or remove it: what is current stays, and the releases before are forgotten.",
    }
    return DeployError(
        f"{name} cannot be read: {error}.",
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
        before = {name: _version(one, name) for name, one in _member(entry, "before", dict).items()}
        releases.append(
            _release(
                entry,
                {name: VersionChange(one, after.get(name)) for name, one in before.items()},
            )
        )
        after |= before
    return tuple(reversed(releases))


def _release(content: dict[str, Any], changed: dict[str, VersionChange]) -> Release:
    text = _member(content, "made", str)
    try:
        made = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"'made' is {text[:_SHOWN]!a}, which is no time") from error
    return Release(
        _member(content, "number", int),
        made if made.tzinfo else made.replace(tzinfo=timezone.utc),
        _member(content, "how", str),
        None if content.get("restores") is None else _member(content, "restores", int),
        _member(content, "source", str),
        _member(content, "config", str),
        changed,
    )


def _version(content: Any, name: str) -> ModelVersion | None:
    if content is None:
        return None
    key = _key(_member(content, "key", str), name)
    return ModelVersion(key, _member(content, "sha256", str))
