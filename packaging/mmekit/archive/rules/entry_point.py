"""Rules about what DJL's engine runs: PyModel.load and findModelFile, service_loader.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit.archive.findings import Finding
from mmekit.archive.package import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject


def entry_point(subject: Subject) -> Iterator[Finding]:
    """Expect something to run; what was made for a convention, rules/rungs.py looks at."""
    entry = subject.properties.entry_point
    if subject.convention is not None:
        return
    if entry is None:
        yield from _without_entry_point(subject)
        return
    where = subject.place_of("option.entryPoint")
    if entry.lower().startswith("http"):
        yield Finding(
            "warning",
            "entry-point-from-the-net",
            f"The handler is downloaded from {entry}: once for a container, and never compared "
            "with anything.",
            "Put the file into the package.",
            where,
        )
    elif entry.startswith("/"):
        yield Finding(
            "warning",
            "entry-point-absolute",
            f"{entry} has to exist in the container; it is no part of the archive.",
            "Put the file into the package, and name it without a folder.",
            where,
        )
    elif not entry.startswith("djl_python.") and not _provides(subject, entry):
        yield Finding(
            "error",
            "entry-point-missing",
            f"option.entryPoint names {entry}, which is not there: the worker ends at once.",
            f"Put the file into the package, or remove the line to use {MODEL_FILE}.",
            where,
        )


def _without_entry_point(subject: Subject) -> Iterator[Finding]:
    if MODEL_FILE in subject.contents:
        return
    tops = {name.split("/", 1)[0] for name in subject.contents.files}
    nested = {name for name in tops if not name.startswith(".")}
    inside = next(iter(nested)) if len(nested) == 1 else None
    remedy = f"Write a {MODEL_FILE} with a handle."
    if inside is not None and f"{inside}/{MODEL_FILE}" in subject.contents:
        remedy = f"Check the folder {inside}, which is the package."
        if subject.is_archive:
            remedy = "Pack it flat: servers look into one folder, and no deeper."
    yield Finding(
        "error",
        "model-file-missing",
        f"There is no {MODEL_FILE}, nor an option.entryPoint: DJL Serving has nothing to run.",
        remedy,
        subject.contents.where,
    )


def _provides(subject: Subject, entry: str) -> bool:
    if subject.code_file in subject.contents:
        return True
    package = f"{entry.replace('.', '/')}/__init__.py"
    if not entry.endswith(".py") and package in subject.contents:
        return True
    # A module of an installed library, as far as anybody knows here.
    return not entry.endswith(".py") and "." in entry
