"""The search of a model's files, its settings and its sample for secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mmekit.archive.contents import Member
from mmekit.archive.package import CONTENT_TYPES
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.secrets import (
    Manner,
    Secret,
    is_accepted,
    is_binary,
    is_to_be_hidden,
    secret_under,
    secrets_in,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.contents import Contents
    from mmekit.archive.package import Example
    from mmekit.archive.properties import PropertyLine

SETTING = "option.accepted_secrets"
"""Files, separated by commas, in which no secrets are looked for; * stands for anything."""

SEARCHED_BYTES = 1 << 30  # bytes; a minute or so, and texts of a model are smaller
_SHORT = 64 << 10  # a longer one is data
_ENV = "option.env"
_SETTINGS = frozenset(
    (
        *(".cfg", ".cnf", ".conf", ".config", ".env", ".ini", ".properties", ".sh", ".tf"),
        *(".tfvars", ".toml", ".xml", ".yaml", ".yml"),
    )
)
_SOURCES = frozenset(
    (".ipynb", ".java", ".jl", ".js", ".lua", ".pl", ".py", ".r", ".rb", ".scala", ".ts")
)
_KEY_FILES = (".pem", ".key")
_PROSE = frozenset((".log", ".md", ".rst", ".txt"))
_BARE_NAMES = re.compile(r"(\.[^.]+|Dockerfile.*|Makefile|[^.]+)", re.IGNORECASE)


@dataclass(frozen=True)
class SecretsFound:
    """What a search for secrets found.

    Attributes
    ----------
    secrets
        Each with the name of its file.
    unread
        The texts that were not searched.
    hidden
        Values that nothing that is printed may hold: what was found, and whatever else a setting
        has whose name tells of a secret.
    """

    secrets: tuple[tuple[str, Secret], ...]
    unread: tuple[str, ...]
    hidden: frozenset[str]


def search(
    contents: Contents, entries: tuple[PropertyLine, ...], example: Example | None
) -> SecretsFound:
    """Search the texts of a model, its settings and its sample.

    Parameters
    ----------
    contents, entries, example
        The files, the lines of serving.properties, and the sample, which the manifest holds.
    """
    found: dict[tuple[str, int], Secret] = {}
    unread, left, hidden = [], SEARCHED_BYTES, set()
    for member in searched_members(contents, entries, example):
        with member.open() as stream:
            if is_binary(stream):
                continue
            if member.size > left:
                unread.append(member.name)
                continue
            left -= member.size
            for secret in secrets_in(stream, _manner(member)):
                # One line is one finding.
                found.setdefault((member.name, secret.line), secret)
                hidden.add(secret.value)
    lines = (contents.text(PROPERTIES_FILE, "latin-1") or "").splitlines()
    is_whole_accepted = _is_accepted(PROPERTIES_FILE, entries)
    for line, name, value in _settings(entries):
        what = secret_under(name, value)
        if what is not None and not (is_whole_accepted or is_accepted(lines, line)):
            # What a backslash continues or spells otherwise, the text alone does not show.
            found.setdefault((PROPERTIES_FILE, line), Secret(line, what, value))
        bare = value.strip("\"'")
        if is_to_be_hidden(name, bare):
            hidden |= {value, bare}
    by_file = sorted(found.items())
    return SecretsFound(
        tuple((name, secret) for (name, _), secret in by_file),
        tuple(unread),
        frozenset(value for value in hidden if value.strip()),
    )


def searched_members(
    contents: Contents, entries: tuple[PropertyLine, ...], example: Example | None
) -> Iterator[Member]:
    """Yield the files in which secrets are looked for, and the sample, which the manifest holds."""
    for member in (*contents, *_sample(example)):
        if not _is_accepted(member.name, entries):
            yield member


def _is_accepted(name: str, entries: tuple[PropertyLine, ...]) -> bool:
    patterns = next((one.value for one in reversed(entries) if one.key == SETTING), "").split(",")
    return any(fnmatchcase(name, pattern.strip()) for pattern in patterns)


def _sample(example: Example | None) -> Iterator[Member]:
    if example is None:
        return
    suffixes = (suffix for suffix, kind in CONTENT_TYPES.items() if kind == example.content_type)
    yield Member.made_of(f"sample_request{next(suffixes, '')}", example.request.encode())
    if example.answer is not None:
        yield Member.made_of("sample_response.json", example.answer.encode())


def _settings(entries: tuple[PropertyLine, ...]) -> Iterator[tuple[int, str, str]]:
    """Yield line, name and value of every setting and of what option.env sets."""
    for entry in entries:
        if entry.key == _ENV:
            for item in entry.value.split(","):
                name, _, value = item.partition("=")
                yield entry.line, name.strip(), value.strip()
        else:
            yield entry.line, entry.key, entry.value.strip()


def _manner(member: Member) -> Manner:
    path = PurePosixPath(member.name)
    suffix = path.suffix.lower()
    if suffix in _SETTINGS or _BARE_NAMES.fullmatch(path.name):
        return Manner(bare=True, is_written=True)
    is_short = member.size <= _SHORT
    is_written = suffix in _SOURCES or (suffix == ".json" and is_short)
    return Manner(
        bare=suffix in _PROSE and is_short, is_written=is_written, is_key_file=suffix in _KEY_FILES
    )
