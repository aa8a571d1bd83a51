"""Which wheels a model needs beside what its container image has.

uv resolves for the image's Python and platform as if the image's distributions were installed:
each stands in as an empty wheel of the image's version. So a library that can do with the image's
numpy is chosen in such a version, torch of the image brings none of the wheels that it needs
elsewhere, and what the image has is left out of the result. Only where no set of versions goes with
the image's is a distribution of it replaced.
"""

from __future__ import annotations

import re
import sys
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from mmekit.archive.image import tags_of
from mmekit.archive.lock import LockedWheel
from mmekit.errors import LibrariesError
from mmekit.uv import ask_uv, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from packaging.tags import Tag

    from mmekit.archive.image import Image

REMEDY = (
    "correct requirements.txt, connect to the network, or say where the wheels are "
    "(UV_DEFAULT_INDEX, UV_FIND_LINKS, pip.conf); or pack without --layers and option.layers: "
    "requirements.txt is installed at every load then"
)
_MOST_SAID = 1200
_LACKS_EXTRA = re.compile(r"The package `([A-Za-z0-9._-]+).*?` does not have an extra named")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def uv_options(image: Image) -> list[str]:
    """Return what uv has to know of an image: wheels alone, and which ones."""
    return [
        # This one, for nothing but to run: without it, uv might fetch a Python.
        *("--python", sys.executable),
        *("--python-version", image.python, "--python-platform", image.platform),
        *("--only-binary", ":all:", "--no-progress"),
    ]


def resolve(lines: Iterable[str], image: Image, folder: Path, scratch: Path) -> list[LockedWheel]:
    """Return the wheels that requirements need beside what an image has, sorted by name.

    Parameters
    ----------
    lines
        Those of a requirements file, options among them.
    image
        What is there already.
    folder
        Where uv runs: it finds the settings of a project there.
    scratch
        A folder to work in.

    Raises
    ------
    LibrariesError
        There is no such set of wheels, or uv could not ask for it.
    MissingExtraError
        There is no uv.
    """
    asked = list(lines)
    provided = {**image.resolved, **image.pinned}
    # What the requirements themselves want in another version cannot be the image's.
    named = [Requirement(line.split(" --", 1)[0]) for line in asked if not line.startswith("-")]
    free: set[str] = {
        canonicalize_name(one.name)
        for one in named
        if image.is_meant(one) and not _fits(one, provided)
    }
    scratch.mkdir(exist_ok=True)
    versions = _versions(asked, image, free, folder, scratch)
    wanted = {name: one for name, one in versions.items() if provided.get(name) != one}
    return _wheels(asked, wanted, image, folder, scratch) if wanted else []


def _fits(requirement: Requirement, provided: Mapping[str, str]) -> bool:
    version = provided.get(canonicalize_name(requirement.name))
    return version is None or requirement.specifier.contains(version, prereleases=True)


def _versions(
    asked: list[str], image: Image, free: set[str], folder: Path, scratch: Path
) -> dict[str, str]:
    """Return name and version of all that is needed, what the image has among it."""
    provided = {**image.resolved, **image.pinned}
    real: set[str] = set()  # known by their own metadata, and in the image's version
    file = scratch / "requirements.in"
    file.write_text("".join(f"{line}\n" for line in asked), encoding="utf-8")
    while True:
        command = [
            *("pip", "compile", str(file), *uv_options(image)),
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *("--constraints", str(_constraints(provided, free, real, scratch))),
            *_excluding(image.unversioned - free, scratch),
        ]
        done = ask_uv(command, folder)
        if done.returncode == 0:
            lacking = {canonicalize_name(one) for one in _LACKS_EXTRA.findall(done.stderr)}
            more = (lacking & set(provided)) - real - free
            if not more:
                return dict(_resolved(done.stdout, provided))
            real |= more
            continue
        # uv names what contradicts what.
        culprits = {canonicalize_name(word) for word in _NAME.findall(done.stderr)}
        more = (culprits & (set(provided) | image.unversioned)) - free
        if not more:
            raise _unresolved(done.stderr, folder)
        free |= more


def _constraints(
    provided: Mapping[str, str], free: set[str], real: set[str], scratch: Path
) -> Path:
    stand_ins = scratch / "image"
    stand_ins.mkdir(exist_ok=True)
    lines = []
    for name, version in sorted(provided.items()):
        if name in real and name not in free:
            lines.append(f"{name}=={version}\n")
        elif name not in free:
            lines.append(f"{name} @ {_stand_in(name, version, stand_ins).as_uri()}\n")
    file = scratch / "constraints.txt"
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _stand_in(name: str, version: str, folder: Path) -> Path:
    """Return a wheel with nothing in it, for what the image has."""
    stem = f"{name.replace('-', '_')}-{version}"
    file = folder / f"{stem}-py3-none-any.whl"
    if not file.exists():
        files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with zipfile.ZipFile(file, "w") as wheel:
            for one, text in files.items():
                wheel.writestr(f"{stem}.dist-info/{one}", text)
    return file


def _excluding(names: Iterable[str], scratch: Path) -> list[str]:
    if not (listed := sorted(names)):
        return []
    file = scratch / "excludes.txt"
    file.write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    return ["--excludes", str(file)]


def _resolved(text: str, provided: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        requirement = Requirement(line.split(";", 1)[0]) if line and line[0] not in "-#" else None
        if requirement is None:
            continue
        name = canonicalize_name(requirement.name)
        if requirement.url is None:
            yield name, next(iter(requirement.specifier)).version
        elif requirement.url.startswith("file:") and "/image/" in requirement.url:
            yield name, provided[name]
        else:
            raise LibrariesError(
                f"{shown(str(requirement))} is an address, and a layer is made of distributions "
                "that an index or a folder of wheels has",
                remedy=REMEDY,
            )


def _wheels(
    asked: list[str], wanted: Mapping[str, str], image: Image, folder: Path, scratch: Path
) -> list[LockedWheel]:
    """Return the wheels of versions: the one that uv takes, by the tags of the image."""
    file = scratch / "versions.txt"
    options = [line for line in asked if line.startswith("-")]
    pins = [f"{name}=={version}" for name, version in sorted(wanted.items())]
    file.write_text("".join(f"{line}\n" for line in (*options, *pins)), encoding="utf-8")
    command = ["pip", "compile", str(file), "--no-deps", "--format", "pylock.toml"]
    done = ask_uv([*command, *uv_options(image)], folder)
    if done.returncode != 0:
        raise _unresolved(done.stderr, folder)
    tags = {tag: place for place, tag in enumerate(tags_of(image))}
    return [
        LockedWheel(canonicalize_name(one["name"]), one["version"], _best(one, tags))
        for one in _toml(done.stdout)["packages"]
    ]


def _best(package: dict[str, Any], tags: Mapping[Tag, int]) -> str:
    ranked = []
    for wheel in package.get("wheels", ()):
        name = (
            wheel.get("name")
            or unquote(urlsplit(wheel.get("url") or wheel["path"]).path).rpartition("/")[2]
        )
        _, _, build, of_wheel = parse_wheel_filename(name)
        places = [tags[tag] for tag in of_wheel if tag in tags]
        if places:
            ranked.append((-min(places), build, wheel["hashes"]["sha256"]))
    if not ranked:
        raise LibrariesError(
            f"{package['name']} {package['version']} has no wheel for the image", remedy=REMEDY
        )
    return str(max(ranked)[2])


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from mmekit.extras import optional_libraries

        with optional_libraries("mme pack --layers"):
            import tomli as tomllib
    return tomllib.loads(text)


def _unresolved(said: str, folder: Path) -> LibrariesError:
    text = said.strip()
    if len(text) > _MOST_SAID:
        text = f"{text[:_MOST_SAID]} …"
    return LibrariesError(
        f"The libraries that requirements.txt asks for cannot be had:\n{text}",
        where=str(folder / "requirements.txt"),
        remedy=REMEDY,
    )
