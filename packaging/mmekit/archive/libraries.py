"""The layer of libraries: what requirements.txt asks for and the container image lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit.archive.files import write_atomically
from mmekit.archive.image import MACHINE
from mmekit.archive.layers import make_layer
from mmekit.archive.lock import RequirementsLock, key_of
from mmekit.archive.package import LOCK_FILE, REQUIREMENTS_FILE
from mmekit.archive.requirements import parse_requirements, remaining
from mmekit.archive.resolution import resolve
from mmekit.archive.wheels import distributions_in, fetch, sources_of
from mmekit.errors import LibrariesError
from mmekit.uv import shown
from mmekit_runtime.layers.listing import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mmekit.archive.contents import Contents
    from mmekit.archive.image import Image
    from mmekit.archive.layers import PackedLayer
    from mmekit.archive.requirements import Line
    from mmekit.archive.wheels import Distribution

LINKS_FOLDER = "requirements"
"""Wheels beside requirements.txt, which DJL Serving has pip find (``-f``)."""

_MOST_NAMED = 6


def make_libraries(
    contents: Contents,
    package: Path,
    image: Image | None,
    scratch: Path,
    *,
    inline: bool,
    say: Callable[[str], object],
) -> PackedLayer | None:
    """Return the layer of what a model's requirements.txt asks for; None where that is nothing.

    Parameters
    ----------
    contents
        The model's files, with the whole requirements.txt.
    package
        The package folder: requirements.lock is read and written there.
    image
        What has the rest.
    scratch
        Where the files are unpacked; the layer's are there as long as it is.
    say
        Is told when the libraries are resolved anew.

    Raises
    ------
    LibrariesError
        There is no such set of wheels, one of them is not to be had, or nothing is known of the
        image. A lock that is there stays as it was.
    MissingExtraError
        There is no uv.
    """
    lines = parse_requirements(contents.text(REQUIREMENTS_FILE) or "")
    if not any(not one.is_option for one in lines):
        return None
    if image is None:
        raise LibrariesError(
            "It is not known for which Python and platform the libraries have to be",
            where=str(package / REQUIREMENTS_FILE),
            remedy="name the image: --image mine:1=python3.11,numpy==2.4.3; or pack without "
            "--layers and option.layers",
        )
    if not remaining(lines, image):
        return None
    _expect_names(lines, package)
    asked = [one.text for one in lines] + _links(contents, package)
    options = [one for one in asked if one.startswith("-")]
    key = key_of([one.text for one in lines], image)
    lock = _read(package / LOCK_FILE)
    is_new = lock is None or lock.key != key
    if lock is None or lock.key != key:
        say(f"{package.name}: resolving {REQUIREMENTS_FILE} for {image.name}")
        lock = RequirementsLock(key, tuple(resolve(asked, image, package, scratch / "resolution")))
    members = fetch(lock.wheels, options, image, package, scratch) if lock.wheels else ()
    if is_new:
        # Only what could be fetched replaces a lock that is there.
        _write(package / LOCK_FILE, lock.to_text(image))
    if not members:
        return None
    distributions = distributions_in({one.name: one for one in members})
    named = {one.requirement.name.lower() for one in lines if one.requirement is not None}
    return make_layer(
        LIBRARIES,
        members,
        _said(distributions, named),
        sources_of(distributions, lock.wheels),
        inline=inline,
        python=image.python,
        platform=f"linux-{MACHINE}",
    )


def _said(distributions: Iterable[Distribution], named: set[str]) -> str:
    """Name what was asked for first."""
    ordered = sorted(distributions, key=lambda one: (one.name not in named, one.name))
    shown = [f"{one.name} {one.version}" for one in ordered[:_MOST_NAMED]]
    more = len(ordered) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _expect_names(lines: Iterable[Line], package: Path) -> None:
    for line in lines:
        address = line.requirement is not None and line.requirement.url is not None
        is_file = line.text.startswith(("-c", "--constraint"))
        if address or is_file or (line.requirement is None and not line.is_option):
            raise LibrariesError(
                f"{shown(line.text)!r} cannot become a part of a layer, which is made of "
                "distributions by name",
                where=str(package / REQUIREMENTS_FILE),
                remedy="name the distribution and its version (name==1.0), and put a wheel of your "
                f"own into the folder {LINKS_FOLDER} beside {REQUIREMENTS_FILE}",
            )


def _links(contents: Contents, package: Path) -> list[str]:
    has_links = any(name.startswith(f"{LINKS_FOLDER}/") for name in contents.files)
    return [f"--find-links {package / LINKS_FOLDER}"] if has_links else []


def _read(file: Path) -> RequirementsLock | None:
    try:
        return RequirementsLock.from_text(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _write(file: Path, text: str) -> None:
    try:
        write_atomically(file, text.encode())
    except OSError as error:
        raise LibrariesError(
            f"{file.name} cannot be written: {error.strerror or error}",
            where=str(file),
            remedy="give access to the package folder: the lock belongs beside requirements.txt",
        ) from error
