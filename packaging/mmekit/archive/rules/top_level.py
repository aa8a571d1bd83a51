"""Rules about what lies at the top of a layer of libraries, where Python looks by itself."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from mmekit.archive.package import REQUIREMENTS_FILE
from mmekit.archive.wheels import owners_in
from mmekit.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit.archive.rules.subject import Subject

# Of the standard library, by the release of Python 3 that had it first, or no more. What the
# Python has that runs this need not be what the image's has.
_SINCE = {"tomllib": 11, "annotationlib": 14, "compression": 14}
_UNTIL = {
    "binhex": 11,
    **dict.fromkeys(("asynchat", "asyncore", "distutils", "imp", "smtpd"), 12),
    **dict.fromkeys(
        (
            "aifc",
            "audioop",
            "cgi",
            "cgitb",
            "chunk",
            "crypt",
            "imghdr",
            "lib2to3",
            "mailcap",
            "msilib",
            "nis",
            "nntplib",
            "ossaudiodev",
            "pipes",
            "sndhdr",
            "spwd",
            "sunau",
            "telnetlib",
            "uu",
            "xdrlib",
        ),
        13,
    ),
}
_AT_START = ("sitecustomize.py", "usercustomize.py")
_TAKEN = {
    "model": "the model's own code",
    "djl_python": "DJL Serving's engine",
    "mmekit_runtime": "what packing adds",
    "mmekit_layers": "what packing adds",
}
_SHOWN = 8


def hides_python(subject: Subject) -> Iterator[Finding]:
    """Expect no module in a layer that Python has itself."""
    for who, modules in _by_owner(subject, lambda name: _hidden(name, subject)).items():
        yield Finding(
            "error",
            "layer-hides-python",
            f"{_said(who)} in the layer of libraries has {_listed(modules)}, as Python itself "
            "has. A layer comes before the standard library on a worker's path, and hides what is "
            "there from the model and all its libraries.",
            f"Leave {who.partition(' ')[0] or 'that backport'} out of {REQUIREMENTS_FILE}, or "
            "what requires it: the image's Python has it.",
            subject.contents.where,
        )


def path_files(subject: Subject) -> Iterator[Finding]:
    """Expect no ``*.pth`` at the top of a layer: Python runs those of site-packages alone."""

    def named(name: str) -> str | None:
        return name if "/" not in name and name.endswith(".pth") else None

    for who, names in _by_owner(subject, named).items():
        yield Finding(
            "warning",
            "layer-pth",
            f"{_said(who)} in the layer of libraries has {_listed(names)}, which Python runs in "
            "site-packages when it starts, and not in a layer: the layer does without it.",
            "If the library needs it, build an image of your own that has the library, and serve "
            "from that; many do without.",
            subject.contents.where,
        )


def startup(subject: Subject) -> Iterator[Finding]:
    """Expect nothing in a layer that runs when a worker starts, or has a name of its own."""
    for who, names in _by_owner(subject, lambda it: it if it in _AT_START else None).items():
        yield Finding(
            "warning",
            "layer-startup",
            f"{_said(who)} in the layer of libraries has {_listed(names)}, which Python imports "
            "when it starts: it runs in every worker, unless another of that name is found first.",
            "See that it does no harm there, or build an image of your own that has the library.",
            subject.contents.where,
        )
    for who, names in _by_owner(subject, _taken).items():
        whose = "; ".join(f"{name} is {_TAKEN[name]}" for name in names)
        yield Finding(
            "error",
            "layer-startup",
            f"{_said(who)} in the layer of libraries has {_listed(names)}, a name that is taken in "
            f"a worker: {whose}. One of the two would be imported in the place of the other.",
            f"Leave {who.partition(' ')[0] or 'that distribution'} out of {REQUIREMENTS_FILE}, or "
            "what requires it.",
            subject.contents.where,
        )


def _by_owner(subject: Subject, named: Callable[[str], str | None]) -> dict[str, list[str]]:
    """Return what a function calls the files of a layer, by the distribution that has them."""
    called = {file: name for file in subject.libraries if (name := named(file)) is not None}
    if not called:
        return {}
    owners = owners_in(subject.libraries)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file, name in called.items():
        found[owners.get(file, "")].add(name)
    return {who: sorted(found[who]) for who in sorted(found)}


def _said(who: str) -> str:
    return who or "A wheel"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _module(file: str) -> str | None:
    """Return the module at the top of a layer that a file is, or that it makes a package."""
    top, _, rest = file.partition("/")
    stem, _, suffix = (rest or top).partition(".")
    is_code = suffix in ("py", "so") or suffix.endswith(".so")
    if not is_code or (rest and stem != "__init__"):
        # A folder without __init__ is no package where a later one has it: it hides nothing.
        return None
    return top if rest else stem


def _hidden(file: str, subject: Subject) -> str | None:
    module = _module(file)
    if module is None or module not in sys.stdlib_module_names:
        return None
    release = None if subject.image is None else subject.image.python.partition(".")[2]
    if release is None or not release.isdecimal():
        return module
    return module if _SINCE.get(module, 0) <= int(release) < _UNTIL.get(module, 99) else None


def _taken(file: str) -> str | None:
    top, _, rest = file.partition("/")
    name = _module(file) if not rest or top == "model" else top
    return name if name in _TAKEN else None
