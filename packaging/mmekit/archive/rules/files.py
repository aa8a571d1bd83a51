"""Rules about the files themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmekit.archive.contents import outward_links
from mmekit.archive.package import MEASURED_FILE
from mmekit.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject

_GIB = 1 << 30
# A cold load has to fit the 60 s of an invocation, download and unpacking included.
_LARGE = 2 * _GIB
_AWKWARD = re.compile(r"[\x00-\x1f\x7f\\]")


def names(subject: Subject) -> Iterator[Finding]:
    """Expect names that every system reads alike."""
    for member in subject.contents:
        if _AWKWARD.search(member.name):
            yield Finding(
                "error",
                "awkward-name",
                f"The name {member.name!r} holds a backslash or a control character.",
                "Rename the file.",
                subject.contents.where,
            )
        elif (shown := member.name.encode("utf-8", "backslashreplace").decode()) != member.name:
            yield Finding(
                "error",
                "awkward-name",
                f'The name "{shown}" is not UTF-8, and cannot be written into an archive.',
                "Rename the file.",
                subject.contents.where,
            )


def links(subject: Subject) -> Iterator[Finding]:
    """Expect a package to hold its files: a link would pack whatever it leads to, unseen."""
    for name in outward_links(subject.contents):
        yield Finding(
            "error",
            "outward-link",
            f"The link {name} leads out of the package folder: its target would be packed.",
            "Replace the link by a copy, or move the file to the artefacts.",
            subject.place(name),
        )


def size(subject: Subject) -> Iterator[Finding]:
    """Expect a size that a first request can wait for."""
    if subject.contents.size > _LARGE:
        yield Finding(
            "warning",
            "large-archive",
            f"The files take {subject.contents.size / _GIB:.1f} GiB. The first request waits for "
            "download, unpacking and load, and an invocation ends after 60 s.",
            "Leave out what prediction does not need, or use an endpoint of its own.",
            subject.contents.where,
        )


def torchserve(subject: Subject) -> Iterator[Finding]:
    """Expect no folder MAR-INF, which makes DJL's engine look for TorchServe."""
    if any(name.startswith("MAR-INF/") for name in subject.contents.files):
        yield Finding(
            "error",
            "torchserve-archive",
            "A folder MAR-INF makes DJL Serving take this for an archive of TorchServe, whose "
            "library the image does not have.",
            "Remove the folder MAR-INF.",
            subject.place("MAR-INF"),
        )


def samples(subject: Subject) -> Iterator[Finding]:
    """Expect a sample request in a package."""
    if subject.has_sample is False:
        yield Finding(
            "note",
            "no-sample",
            "There is no sample request: measuring loads the model, but does not run a prediction.",
            "Add sample_request.json (or .csv, .txt) to the package.",
            subject.contents.where,
        )


def batches(subject: Subject) -> Iterator[Finding]:
    """Expect that answers in batches were compared with answers alone."""
    if subject.measured is not None and subject.measured.unproven is not None:
        yield Finding(
            "note",
            "batches-unproven",
            "It is not known whether a response depends on the other requests of its batch: "
            f"{subject.measured.unproven}.",
            "Add a sample request that can be varied, seed what is drawn at random, or let decode "
            "return what is never joined.",
            subject.contents.where,
        )


def stale_measurement(subject: Subject) -> Iterator[Finding]:
    """Expect a measurement of these files, not of earlier ones."""
    if (
        subject.measured is not None
        and subject.measured_files is not None
        and subject.measured.fingerprint != subject.measured_files
    ):
        yield Finding(
            "warning",
            "stale-measurement",
            f"{MEASURED_FILE} was written for other files: model or code changed since.",
            "Measure again with `mme measure`; packing does it by itself.",
            subject.contents.where,
        )
