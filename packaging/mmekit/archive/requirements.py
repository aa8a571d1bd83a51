"""requirements.txt, and what of it the container image already provides."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mmekit.archive.files import check_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from packaging.utils import NormalizedName

    from mmekit.archive.stock_images import Image

# pip's own expression: the # of a URL (#egg=) begins no comment.
_COMMENT = re.compile(r"(^|\s)#.*$")


@dataclass(frozen=True)
class Line:
    """One line that pip acts upon.

    Attributes
    ----------
    text
        The line, without comment and blanks around it.
    requirement
        What it asks for; None for an option of pip, a path or a bare URL.
    """

    text: str
    requirement: Requirement | None

    @property
    def is_option(self) -> bool:
        """Return whether the line only says how pip works, and asks for nothing."""
        return self.text.startswith("-") and not self.text.startswith(("-r", "--req", "-e", "--ed"))


def parse_requirements(text: str) -> tuple[Line, ...]:
    """Take a requirements.txt apart, comments and empty lines left out.

    Raises
    ------
    TextError
        It has more lines than anybody writes.
    """
    # In pip's order: it joins lines before it takes comments away.
    joined = text.replace("\\\r\n", "").replace("\\\n", "").splitlines()
    lines = [line for line in (_COMMENT.sub("", one).strip() for one in joined) if line]
    check_lines("requirements.txt", len(lines), "requirements.txt")
    return tuple(Line(line, _requirement(line)) for line in lines)


def remaining(lines: tuple[Line, ...], image: Image | None) -> tuple[Line, ...]:
    """Return the lines for which pip would have work to do inside an image.

    Parameters
    ----------
    lines
        The whole requirements.txt.
    image
        The image; None when nothing is known about it, so that everything remains.
    """
    left = [
        line
        for line in lines
        if image is None or line.requirement is None or not image.satisfies(line.requirement)
    ]
    # A file of options alone installs nothing, and DJL Serving would start pip for it all the same.
    return tuple(left) if any(not line.is_option for line in left) else ()


@cache
def dependencies_of(name: str, extras: frozenset[str] = frozenset()) -> tuple[NormalizedName, ...]:
    """Return the distributions that one of this environment requires, and with these extras.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        It is not installed here.
    """
    required = (Requirement(text) for text in importlib.metadata.requires(name) or ())
    return tuple(
        canonicalize_name(one.name)
        for one in required
        if one.marker is None
        or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    )


def with_dependencies(requirements: Iterable[Requirement]) -> set[str]:
    """Return what pip would install for requirements, as far as it is installed here."""
    found: set[str] = set()
    waiting = [(canonicalize_name(one.name), frozenset(one.extras)) for one in requirements]
    while waiting:
        name, extras = waiting.pop()
        if name in found and not extras:
            continue
        found.add(name)
        with suppress(importlib.metadata.PackageNotFoundError, InvalidRequirement):
            waiting += ((one, frozenset()) for one in dependencies_of(name, extras))
    return found


def _requirement(line: str) -> Requirement | None:
    # Hashes belong to pip's format, not to the requirement.
    specifier = line.split(" --", 1)[0].strip()
    try:
        return Requirement(specifier)
    except (InvalidRequirement, RecursionError):  # parentheses within parentheses
        return None
