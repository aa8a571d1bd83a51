"""A container image, as packing and checking know it: its Python and its distributions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name

from mmekit.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from packaging.tags import Tag

MACHINE = "x86_64"
"""The processor that all images are for."""

_OLDEST_GLIBC = 5
_PYTHON = re.compile(r"python(3\.\d+)")


@dataclass(frozen=True)
class Image:
    """A container image and the Python distributions in it.

    Attributes
    ----------
    name
        Repository and tag.
    python
        Version of Python, as ``major.minor``.
    pinned
        Versions that the image's build fixes, by canonical distribution name.
    resolved
        Versions that the build leaves to the day it ran on: right for that day, not promised.
    unversioned
        What is there in a version that nobody has said, by canonical name.
    java_opts
        The options of the Java machine that the image starts with (``ENV JAVA_OPTS``).
    glibc
        The C library's version, as ``major.minor``: compiled wheels say which one they need.
    """

    name: str
    python: str
    pinned: Mapping[str, str]
    resolved: Mapping[str, str]
    unversioned: frozenset[str] = frozenset()
    java_opts: str = ""
    glibc: str = "2.28"

    @property
    def platform(self) -> str:
        """What compiled code has to be for, as uv calls it."""
        return f"{MACHINE}-manylinux_{self.glibc.replace('.', '_')}"

    def version(self, distribution: str) -> str | None:
        """Return the version of a distribution in the image; None for absent or unknown."""
        name = canonicalize_name(distribution)
        return self.pinned.get(name) or self.resolved.get(name)

    def has(self, distribution: str) -> bool:
        """Return whether a distribution is in the image, in whatever version."""
        name = canonicalize_name(distribution)
        return name in self.unversioned or self.version(name) is not None

    def satisfies(self, requirement: Requirement) -> bool:
        """Return whether pip would find nothing to do for a requirement inside the image.

        A requirement on an extra or on a URL counts as not satisfied: the table knows neither. One
        whose marker does not hold in the image is satisfied.

        Examples
        --------
        >>> from packaging.requirements import Requirement
        >>> image = Image("mine:1", "3.11", {"scikit-learn": "1.7.2"}, {})
        >>> image.satisfies(Requirement("scikit-learn>=1.7,<1.8"))
        True
        >>> image.satisfies(Requirement("catboost"))
        False
        """
        if not self.is_meant(requirement):
            return True
        if requirement.extras or requirement.url or not self.has(requirement.name):
            return False
        version = self.version(requirement.name)
        if version is None:
            return not requirement.specifier
        return requirement.specifier.contains(version)

    def is_meant(self, requirement: Requirement, extra: str = "") -> bool:
        """Return whether a requirement's marker holds in the image."""
        environment = {**self._environment(), "extra": extra}
        return requirement.marker is None or requirement.marker.evaluate(environment)

    def _environment(self) -> dict[str, str]:
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": MACHINE,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            # Of the patch release nothing is known.
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


def tags_of(image: Image) -> Iterator[Tag]:
    """Yield the tags of wheels that run in an image, the best first."""
    major, minor = map(int, image.python.split("."))
    _, newest = map(int, image.glibc.split("."))
    platforms = []
    older = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    for number in range(newest, _OLDEST_GLIBC - 1, -1):
        platforms.append(f"manylinux_2_{number}_{MACHINE}")
        platforms += [f"{older[number]}_{MACHINE}"] if number in older else []
    platforms.append(f"linux_{MACHINE}")
    yield from cpython_tags((major, minor), platforms=platforms)
    yield from compatible_tags((major, minor), f"cp{major}{minor}", platforms)


def image_holding(name: str, holds: Iterable[str], known: Iterable[Image] = ()) -> Image:
    """Return an image of one's own, by what it holds.

    Parameters
    ----------
    name
        What it is called.
    holds
        ``python3.11``, distributions (``catboost==1.2.8``, or ``pandas`` for a version that nobody
        knows), or the name of a known image that it was built from.
    known
        The images that may be named so.

    Raises
    ------
    ImageError
        One of them is none of these, or no Python is among them.

    Examples
    --------
    >>> image = image_holding("mine:1", ["python3.11", "catboost==1.2.8", "pandas"])
    >>> image.python, image.version("catboost"), image.has("pandas")
    ('3.11', '1.2.8', True)
    """
    image = Image(name, "", {}, {})
    by_name = {one.name: one for one in known}
    for item in (given.strip() for given in holds):
        python = _PYTHON.fullmatch(item)
        if python is not None:
            image = replace(image, python=python[1])
        elif item in by_name:
            image = replace(by_name[item], name=name)
        else:
            image = _with(image, item)
    if not image.python:
        raise _undeclared(name, "its Python version is missing")
    return image


def _with(image: Image, item: str) -> Image:
    try:
        requirement = Requirement(item)
    except InvalidRequirement:
        raise _undeclared(image.name, f"{item!r} is neither a distribution nor an image") from None
    versions = list(requirement.specifier)
    is_version = all(one.operator == "==" and "*" not in one.version for one in versions)
    if requirement.extras or requirement.url or requirement.marker or not is_version:
        raise _undeclared(image.name, f"{item!r} is not a version of a distribution")
    name = canonicalize_name(requirement.name)
    pinned = {one: version for one, version in image.pinned.items() if one != name}
    resolved = {one: version for one, version in image.resolved.items() if one != name}
    unversioned = image.unversioned - {name}
    if versions:
        pinned[name] = versions[0].version
    else:
        unversioned |= {name}
    return replace(image, pinned=pinned, resolved=resolved, unversioned=unversioned)


def _undeclared(name: str, why: str) -> ImageError:
    return ImageError(
        f"The contents of the image are not declared correctly: {why}",
        where=name,
        remedy="name its Python and what is installed in it, such as "
        f"{name}=python3.11,catboost==1.2.8; or the image that it was built from, such as "
        f"{name}=djl-inference:0.36.0-cpu-full,catboost==1.2.8",
    )
