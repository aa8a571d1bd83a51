"""Rules about libraries and pickles: what the image has, and what the model was trained with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mmekit.archive.package import MODEL_FILE, REQUIREMENTS_FILE
from mmekit.archive.pickles import PICKLE_SUFFIXES, where_to_put
from mmekit.archive.requirements import parse_requirements, remaining, with_dependencies
from mmekit.findings import Finding
from mmekit_runtime.layers.listing import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject
    from mmekit.findings import Severity


_SCIKIT_LEARN = "scikit-learn"
_TIED_TO_A_RELEASE = (_SCIKIT_LEARN, "xgboost", "torch")
_TIED_TO_A_MAJOR = ("numpy", "scipy", "pydantic")
# A module that is run as a script asks so; whoever else names it puts something there.
_AS_A_SCRIPT = re.compile(r"""__name__\s*==\s*["']__main__["']""")


def requirements(subject: Subject) -> Iterator[Finding]:
    """Expect the image to have everything: the rest is installed at every load."""
    text = subject.contents.text(REQUIREMENTS_FILE)
    left = remaining(parse_requirements(text or ""), subject.image)
    if not left or subject.makes_libraries:
        return
    named = ", ".join(line.text for line in left if not line.is_option)
    yield Finding(
        "warning",
        "installs-at-load",
        f"The image does not provide {named}. DJL Serving runs pip at every load of this model: "
        "seconds to minutes, from the network, into the folder that all models share; a failure "
        "is only a warning in the log. The embedded server makes an environment for it, once.",
        "Pack with --layers (or option.layers=true): they travel in a layer of the archive, and "
        "nothing is installed. Or build an image of your own that has them, and serve from that.",
        subject.place(REQUIREMENTS_FILE),
    )


def missing(subject: Subject) -> Iterator[Finding]:
    """Expect the image or requirements.txt to have what the model asks for."""
    if subject.measured is None or subject.image is None:
        return
    lines = parse_requirements(subject.contents.text(REQUIREMENTS_FILE) or "")
    asked = (line.requirement for line in lines if line.requirement is not None)
    provided = with_dependencies(asked) | in_layers(subject)
    for library in subject.measured.required:
        if not subject.image.has(library) and library not in provided:
            yield Finding(
                "warning",
                "library-missing",
                f"The model needs {library} {subject.measured.libraries.get(library, '')}, which "
                f"{subject.image.name} does not have and {REQUIREMENTS_FILE} does not ask for.",
                f"Add {library} to {REQUIREMENTS_FILE}, or serve from an image that has it.",
                subject.place(REQUIREMENTS_FILE if lines else MODEL_FILE),
            )


def in_layers(subject: Subject) -> set[str]:
    """Return the distributions that the layer of libraries has, by canonical name."""
    layers = (one for one in subject.layers if one.kind == LIBRARIES)
    return {source.name for layer in layers for source in layer.sources}


def versions(subject: Subject) -> Iterator[Finding]:
    """Expect the versions that wrote the pickles, as they say themselves where they do."""
    told = [(one.name, version) for one in subject.pickled for version in one.scikit_learn]
    for file, version in told:
        yield from _compared(subject, file, _SCIKIT_LEARN, version, f"{file} says that it was made")
    files = [one.name for one in subject.pickled if one.name.endswith(PICKLE_SUFFIXES)]
    if subject.measured is None or not files:
        return
    for library in (*_TIED_TO_A_RELEASE, *_TIED_TO_A_MAJOR):
        installed = subject.measured.libraries.get(library)
        if installed is not None and not (told and library == _SCIKIT_LEARN):
            how = f"{files[0]} does not say what it was made with, and was measured"
            yield from _compared(subject, files[0], library, installed, how)


def _compared(
    subject: Subject, file: str, library: str, version: str, how: str
) -> Iterator[Finding]:
    there = None if subject.image is None else subject.image.version(library)
    # pip would bring the version that requirements.txt asks for.
    if subject.image is None or there is None or library in _replaced(subject):
        return
    severity = _severity(library, version, there)
    if severity is not None:
        yield Finding(
            severity,
            "library-version",
            f"{how} with {library} {version}; {subject.image.name} has {there}, and a pickle of "
            "one release need not load, or predict the same, in another.",
            f"Train with {library}=={there}, or serve from an image that has {version}.",
            subject.place(file),
        )


def _replaced(subject: Subject) -> set[str]:
    lines = parse_requirements(subject.contents.text(REQUIREMENTS_FILE) or "")
    return in_layers(subject) | {
        canonicalize_name(line.requirement.name)
        for line in remaining(lines, subject.image)
        if line.requirement is not None
    }


def python(subject: Subject) -> Iterator[Finding]:
    """Expect the Python that trained the model."""
    if subject.measured is None or subject.image is None:
        return
    trained = ".".join(subject.measured.python.split(".")[:2])
    if trained == subject.image.python:
        return
    by_value = "cloudpickle" in subject.measured.required or any(
        name.endswith(".cloudpkl") for name in subject.contents.files
    )
    yield Finding(
        "warning" if by_value else "note",
        "python-version",
        f"The model was made with Python {trained}; {subject.image.name} has "
        f"{subject.image.python}."
        + (" cloudpickle keeps byte code, which no other version runs." if by_value else ""),
        f"Train with Python {subject.image.python} to have what will be served.",
        subject.contents.where,
    )


def _severity(library: str, trained: str, there: str) -> Severity | None:
    try:
        own, image = Version(trained), Version(there)
    except InvalidVersion:
        return None
    if library in _TIED_TO_A_MAJOR:
        return "error" if own.major != image.major and library == "numpy" else None
    if own.release[:2] != image.release[:2]:
        return "error" if library == _SCIKIT_LEARN else "warning"
    return "warning" if own.public != image.public and library == _SCIKIT_LEARN else None


def of_main(subject: Subject) -> Iterator[Finding]:
    """Expect nothing of the script or notebook that trained the model."""
    for pickled in subject.pickled:
        if not pickled.of_main:
            continue
        names = ", ".join(pickled.of_main)
        remedy = where_to_put(*pickled.of_main)
        is_provided = _is_provided(subject)
        yield Finding(
            "warning" if is_provided else "error",
            "class-of-main",
            f"{pickled.name} looks for {names} in __main__, the script or notebook that trained "
            "the model. In a worker __main__ is DJL's engine, "
            + (
                "and the load relies on what the package's code puts there."
                if is_provided
                else "and the load fails: Can't get attribute."
            ),
            f"{remedy[0].upper()}{remedy[1:]}; or leave the file out, if the model does not load "
            "it.",
            subject.place(pickled.name),
        )


def _is_provided(subject: Subject) -> bool:
    sources = [name for name in subject.contents.files if name.endswith(".py")]
    texts = (_AS_A_SCRIPT.sub("", subject.contents.text(name) or "") for name in sources)
    return any("__main__" in text for text in texts)
