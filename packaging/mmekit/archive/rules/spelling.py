"""Rules about how serving.properties is written: names that nobody reads, and quotes."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from mmekit.archive.findings import Finding
from mmekit.archive.keys import is_known, is_of_server, is_variable, meant_by
from mmekit.archive.properties import FILE_NAME, LENIENT_INTEGERS, OPTION_PREFIX, STRICT_INTEGERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.properties import Entry
    from mmekit.archive.rules.subject import Subject

_QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)
_ENV = "option.env"
_MOST_UNKNOWN = 100  # a file with more of them is none that somebody misspelt


def names(subject: Subject) -> Iterator[Finding]:
    """Expect names that somebody reads, letter by letter."""
    is_python = subject.properties.engine in (None, "Python")
    unknown = (entry for entry in subject.entries if not is_known(entry.key))
    for entry in islice(unknown, _MOST_UNKNOWN):
        finding = _misspelt(subject, entry)
        if finding is None and is_python and not entry.key.startswith(OPTION_PREFIX):
            finding = _unknown(subject, entry)
        if finding is not None:
            yield finding


def variables(subject: Subject) -> Iterator[Finding]:
    """Expect what the server reads from its own environment not to be in the worker's."""
    for name in subject.properties.env:
        if is_of_server(name):
            meant = meant_by(name) or "option.entryPoint"
            yield Finding(
                "warning",
                "server-variable",
                f"{name} in option.env reaches the worker; only the server would understand it, "
                "from the container's environment (and OPTION_ENTRY_POINT not even there).",
                f"Write {meant}={subject.properties.env[name]} in serving.properties instead.",
                subject.place_of(_ENV),
            )


def quotes(subject: Subject) -> Iterator[Finding]:
    """Expect values without quotes, which Java keeps."""
    for entry in subject.entries:
        value = without_quotes(entry)
        # Of numbers, bad_values says it.
        if value != entry.value and entry.key not in (*STRICT_INTEGERS, *LENIENT_INTEGERS):
            yield Finding(
                "warning",
                "quoted-value",
                f"The quotes in {entry.key}={entry.value} are part of the value: Java's "
                "properties have none.",
                f"Write {entry.key}={value}",
                subject.place(FILE_NAME, entry.line),
            )


def without_quotes(entry: Entry) -> str:
    """Return a value without the quotes around it, or around what is in option.env."""
    value = _unquoted(entry.value)
    if entry.key != _ENV:
        return value
    pairs = (_unquoted(item.strip()).partition("=") for item in value.split(","))
    return ",".join(f"{name.strip()}{sign}{_unquoted(one.strip())}" for name, sign, one in pairs)


def _unquoted(text: str) -> str:
    match = _QUOTED.fullmatch(text.strip())
    return text if match is None else match[2]


def _misspelt(subject: Subject, entry: Entry) -> Finding | None:
    meant = meant_by(entry.key)
    if meant is None:
        return None
    return Finding(
        "warning",
        "misspelt-key",
        f"DJL Serving does not know {entry.key}"
        + (" in a file; it is an environment variable" if is_variable(entry.key) else "")
        + f"; the key is {meant}.",
        f"Write {meant}={entry.value}",
        subject.place(FILE_NAME, entry.line),
    )


def _unknown(subject: Subject, entry: Entry) -> Finding:
    where = subject.place(FILE_NAME, entry.line)
    if is_variable(entry.key):
        return Finding(
            "warning",
            "variable-as-key",
            f"{entry.key} looks like an environment variable, and a line of this file sets none.",
            f"Write option.env={entry.key}={entry.value}; several are separated by commas.",
            where,
        )
    return Finding(
        "warning",
        "unknown-key",
        f"DJL Serving does not know {entry.key}, nor anything that resembles it: only a handler "
        "may read it, when it is initialised.",
        f"Write option.{entry.key}={entry.value} if your handler reads {entry.key}, or remove the "
        "line.",
        where,
    )
