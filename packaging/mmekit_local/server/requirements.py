"""A model's requirements.txt: what it asks for, and what of that an environment lacks.

DJL Serving runs ``pip install -r requirements.txt`` in the container at every load of such a model
(PyEnv.installDependency). What pip would do there is done here, by uv; lines that pip could only
follow on the machine on which they were written, or that name what is this machine's and not the
container's, are refused.
"""

from __future__ import annotations

import codecs
import importlib.metadata
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mmekit.archive.files import check_lines, read_text
from mmekit.errors import TextError
from mmekit_local.server import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME = "requirements.txt"
LINKS_FOLDER = "requirements"
"""Wheels beside the file, which DJL Serving has pip find (``-f``)."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_COMMENT = re.compile(r"(^|\s)#.*$")
_DEPTH = 8  # of files that name files
_SHOWN = 100

# pip's options in such a file, and what uv calls them; those with a value are in _VALUES as well.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "--index-url": ("--default-index",),
    "--pypi-url": ("--default-index",),
    "--extra-index-url": ("--index",),
    "--find-links": ("--find-links",),
    "--no-index": ("--no-index",),
    "--no-binary": ("--no-binary",),
    "--only-binary": ("--only-binary",),
    "--trusted-host": ("--allow-insecure-host",),
    "--pre": ("--prerelease", "allow"),
    "--require-hashes": ("--require-hashes",),
    "--prefer-binary": (),
    "--use-feature": (),
}
_SHORT: Mapping[str, str] = {
    "-i": "--index-url",
    "-f": "--find-links",
    "-r": "--requirement",
    "-c": "--constraint",
    "-e": "--editable",
}
_VALUES = frozenset(
    {
        *("--index-url", "--pypi-url", "--extra-index-url", "--find-links", "--no-binary"),
        *("--only-binary", "--trusted-host", "--use-feature"),
        *("--requirement", "--constraint", "--editable"),
    }
)
_FILES = ("--requirement", "--constraint")
_ADDRESSES = ("--index-url", "--pypi-url", "--extra-index-url", "--find-links")
_WEB = ("http", "https")


@dataclass(frozen=True)
class Requirements:
    """What a requirements.txt asks for, in a form that needs no other file.

    Attributes
    ----------
    lines
        What is to be installed, with its hashes.
    constraints
        Versions for what else comes with it.
    options
        Arguments for uv.
    """

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def requirements(self) -> tuple[Requirement | None, ...]:
        """The lines as requirements; None for one that is an address alone."""
        return tuple(_requirement(line) for line in self.lines)

    def excludes(self, name: str, version: str) -> bool:
        """Whether a version of a distribution is not what is wanted."""
        named = [one for one in self.requirements if one is not None]
        named += [one for line in self.constraints if (one := _requirement(line)) is not None]
        return any(
            canonicalize_name(one.name) == name
            and (one.url is not None or not one.specifier.contains(version, prereleases=True))
            for one in named
            if one.marker is None or one.marker.evaluate()
        )


@dataclass(frozen=True)
class Installed:
    """What an environment holds.

    Attributes
    ----------
    versions
        By canonical name; None asks this process's own environment.
    markers
        What markers are evaluated with, where it is another Python's.
    """

    versions: Mapping[str, str] | None = None
    markers: Mapping[str, str] = field(default_factory=dict)

    def version(self, name: str) -> str | None:
        """Return the version of a distribution, None when it is not there."""
        if self.versions is not None:
            return self.versions.get(canonicalize_name(name))
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def lacks(self, requirement: Requirement) -> str | None:
        """Return what a requirement asks for that is not there, with what is; None for nothing."""
        if requirement.marker and not requirement.marker.evaluate({**self.markers, "extra": ""}):
            return None
        version = self.version(requirement.name)
        if version is None:
            return str(requirement)
        if not requirement.specifier.contains(version, prereleases=True):
            return f"{requirement} (here is {version})"
        if requirement.url is not None or not self._has_extras(requirement):
            return str(requirement)
        return None

    def _has_extras(self, requirement: Requirement) -> bool:
        if not requirement.extras:
            return True
        if self.versions is not None:
            return False
        for text in importlib.metadata.requires(requirement.name) or ():
            needed = Requirement(text)
            of_extra = needed.marker is not None and any(
                needed.marker.evaluate({"extra": extra}) for extra in requirement.extras
            )
            if of_extra and not needed.specifier.contains(
                self.version(needed.name) or "", prereleases=True
            ):
                return False
        return True


def lacking(wanted: Requirements, installed: Installed) -> list[str]:
    """Return the lines that an environment does not satisfy; of an address nobody can say it."""
    found = []
    for line, requirement in zip(wanted.lines, wanted.requirements, strict=True):
        lacks = line if requirement is None else installed.lacks(requirement)
        if lacks is not None:
            found.append(lacks)
    return found


def missing_requirements(folder: Path) -> list[str]:
    """Return the lines of a model's requirements.txt that this environment does not satisfy.

    For a server that installs nothing: options and URLs cannot be checked, and are taken as
    satisfied.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        return []
    missing = []
    for text in _logical_lines(file, folder):
        requirement = None if text.startswith("-") else _requirement(text)
        if requirement is None:
            continue
        if requirement.marker and not requirement.marker.evaluate():
            continue
        version = Installed().version(requirement.name)
        if version is None:
            missing.append(text)
        elif not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{text} (here is {version})")
    return missing


def read_requirements(folder: Path) -> Requirements:
    """Return what a model's requirements.txt asks for; nothing where there is none.

    Files that it names (``-r``, ``-c``) are read, from the model's folder alone.

    Raises
    ------
    Refusal
        A line cannot be followed, or must not be.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        return Requirements()
    reading = _Reading(folder)
    reading.read(file, constrains=False, depth=0)
    return reading.wanted()


class _Reading:
    """One requirements.txt, with the files that it names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: list[str] = []
        self._constraints: list[str] = []
        self._options: list[str] = []

    def wanted(self) -> Requirements:
        options = list(self._options)
        if "--index" in options:
            # pip takes the best of what all indexes have, uv that of the first that has any.
            options += ["--index-strategy", "unsafe-best-match"]
        if any(" --hash" in line for line in self._lines) and "--require-hashes" not in options:
            options.append("--require-hashes")  # pip does, as soon as one line has one
        return Requirements(tuple(self._lines), tuple(self._constraints), tuple(options))

    def read(self, file: Path, *, constrains: bool, depth: int) -> None:
        if depth > _DEPTH:
            _refuse(file.name, "files name each other without an end", "write it into one file")
        for line in _logical_lines(file, self._folder):
            if "${" in line:
                why = "it names a variable, whose value in the container is not known here"
                _refuse(line, why, "write the value")
            if line.startswith("-"):
                self._take_options(line, file, depth)
            else:
                _see(line)
                (self._constraints if constrains else self._lines).append(line)
        check_lines(FILE_NAME, len(self._lines) + len(self._constraints), str(self._folder))

    def _take_options(self, line: str, file: Path, depth: int) -> None:
        try:
            words = shlex.split(line)
        except ValueError as error:
            _refuse(line, f"its quotes do not match ({error})", "correct the line")
        while words:
            word = words.pop(0)
            name, sign, value = word.partition("=")
            if not word.startswith("--"):  # -rfile, -r file
                name, value = _SHORT.get(word[:2], word[:2]), word[2:].removeprefix("=")
                sign = value
            if name in _VALUES and not sign:
                if not words:
                    _refuse(line, f"{name} has no value", "correct the line")
                value = words.pop(0)
            if name in _FILES:
                named = self._named(line, value, file)
                self.read(named, constrains=name == "--constraint", depth=depth + 1)
            else:
                self._options += _of_uv(line, name, value)

    def _named(self, line: str, value: str, file: Path) -> Path:
        """Return the file that a line names, which lies in the model's folder."""
        # Resolved: a symbolic link may lead out of the folder as well.
        path = (file.parent / value).resolve()
        inside = path.is_relative_to(self._folder.resolve())
        if urlsplit(value).scheme in (*_WEB, "file") or not inside:
            why = "it names a file that is not in the archive"
            _refuse(line, why, "put the file beside it, or its lines into it")
        if not path.is_file():
            _refuse(line, "there is no such file in the archive", "put it beside it")
        return path


def _of_uv(line: str, name: str, value: str) -> list[str]:
    """Return an option of pip in uv's words."""
    if name == "--editable":
        _refuse(line, _LOCAL, _LOCAL_REMEDY)
    if name not in _OPTIONS:
        _refuse(line, f"pip knows no {name} in such a file", "remove it")
    if name in _ADDRESSES and urlsplit(value).scheme not in _WEB:
        why = "it names a folder, which the container has not"
        _refuse(line, why, _LOCAL_REMEDY)
    if name in ("--no-binary", "--only-binary"):
        return [word for one in value.split(",") if one for word in (*_OPTIONS[name], one)]
    words = _OPTIONS[name]
    return [*words, value] if name in _VALUES and words else list(words)


_LOCAL = "it names a path of the machine that it was written on"
_LOCAL_REMEDY = f"put a wheel into the folder {LINKS_FOLDER} of the archive, and name it by name"
_NO_REQUIREMENT = "it is no requirement that pip understands"


def _see(line: str) -> None:
    """Refuse what can be installed on one machine alone, or in somebody's name."""
    text, *options = re.split(r"\s--", line)
    if any(not re.match(r"hash[= ]", one) for one in options):
        _refuse(line, "of options in a line only --hash is followed", "remove it")
    requirement = _requirement(text)
    address = text.strip() if requirement is None else requirement.url
    if address is None:
        return
    scheme = urlsplit(address).scheme
    if scheme in _WEB or scheme in ("git+https", "git+http"):
        return
    if scheme in ("git", "git+ssh", "git+git", "ssh") or address.startswith("git@"):
        why = "it is had with a key of yours, which the container has not"
        _refuse(line, why, "name it by git+https://, or put a wheel beside it")
    if "+" in scheme and not scheme.startswith("git+file"):
        why = f"the stock image has no {scheme.partition('+')[0]}"
        _refuse(line, why, _LOCAL_REMEDY)
    is_path = scheme or "/" in address or address.endswith((".whl", ".gz", ".zip", "."))
    if not is_path:
        _refuse(line, _NO_REQUIREMENT, "correct the line")
    _refuse(line, _LOCAL, _LOCAL_REMEDY)


def _refuse(line: str, why: str, remedy: str) -> NoReturn:
    quoted = shown(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")
    message = f"{FILE_NAME} has a line that is not followed, {quoted!r}: {why}; {remedy}"
    raise errors.load_failed(message, "ModelException")


def _logical_lines(file: Path, folder: Path) -> list[str]:
    """Return the lines as pip joins them, without comments and empty ones."""
    try:
        text = _decoded(read_text(file))
        # One after the other: a comment ends with its line, whatever stands at its end.
        lines: list[str] = []
        begun = ""
        for natural in text.splitlines():
            if natural.endswith("\\") and not natural.lstrip().startswith("#"):
                begun += natural[:-1] + " "
                continue
            lines.append(_COMMENT.sub("", begun + natural).strip())
            begun = ""
        lines.append(_COMMENT.sub("", begun).strip())
        found = [line for line in lines if line]
        check_lines(file.name, len(found), str(folder))
    except TextError as error:
        raise errors.load_failed(error.what, "ModelException") from error
    except OSError as error:
        raise errors.load_failed(str(error), "IOException") from error
    return found


def _decoded(data: bytes) -> str:
    """Decode a file by its mark, as pip does: PowerShell writes UTF-16."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    return data.decode(errors="replace")


def shown(line: str) -> str:
    """Return a line without the password that an address in it may have."""
    return re.sub(r"//[^/@\s]*@", "//…@", line)


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(re.split(r"\s--", line, maxsplit=1)[0].strip())
    except (InvalidRequirement, RecursionError):  # parentheses within parentheses
        return None
