"""Rules about files: their names, links and size, samples and measurement, and secrets in them.

Whoever may read the bucket may read the archive.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mmekit.archive.contents import outward_links
from mmekit.archive.measured import is_nothing
from mmekit.archive.package import MEASURED_FILE
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.secret_search import SEARCHED_BYTES, SETTING, searched_members
from mmekit.archive.secrets import (
    ACCEPTING,
)
from mmekit.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject

ANSWERS_NOTHING = (
    "The model answers its sample with null throughout: what it computes is no number. A client "
    "gets that with the status 200."
)
NUMBERS_AGAIN = (
    "Look for NaN in the trained weights (a fit that did not converge, an empty table) and in what "
    "predict computes, and train or mend it. If null is right for this sample, choose another."
)
_GIB = 1 << 30
# A cold load has to fit the 60 s of an invocation, download and unpacking included.
_LARGE = 2 * _GIB
_AWKWARD = re.compile(r"[\x00-\x1f\x7f\\]")
_FOLDERS = frozenset(
    {".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".kaggle", ".kube", ".oci", ".ssh"}
)
_NAMES = re.compile(
    r"(\.env(\..+)?|.+\.env|\.envrc|[._]netrc|\.pgpass|pgpass\.conf|\.my\.cnf|\.pypirc|\.npmrc"
    r"|\.yarnrc(\.yml)?|\.htpasswd|\.git-credentials|\.dockercfg|\.boto|\.s3cfg|\.passwd-s3fs"
    r"|\.vault[-_](token|pass(word)?)|\.databrickscfg|\.terraformrc|.+\.tfstate(\.backup)?|\.kube"
    r"|kubeconfig|kaggle\.json|\.jupyter_cookie_secret|jupyter_cookie_secret"
    r"|\.(bash|zsh|python|psql|mysql|node_repl)_history"
    r"|(.*[-_.])?credentials?(\.(json|csv|ini|toml|ya?ml|txt|cfg|db|xml|enc))?"
    r"|(.*[-_.])?secrets?(\.(json|csv|ini|toml|ya?ml|txt|cfg|xml|enc))?"
    r"|(.*_)?access_?keys?\.csv|rootkey\.csv|client_secret.*\.json|gha-creds-.*\.json"
    r"|service[-_]account.*\.json|accesstokens\.json|msal_token_cache.*"
    r"|(access|auth|api|hf|stored)?[-_.]?tokens?"
    r"|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|.+\.(p12|pfx|p8|pk8|ppk|kdbx?|keystore|jks|keytab))",
    re.IGNORECASE,
)


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


def answers(subject: Subject) -> Iterator[Finding]:
    """Expect a model that answers something to the sample."""
    measured = subject.measured
    if measured is None:
        return
    answer = measured.answer
    if answer is None and subject.example is not None:
        answer = subject.example.answer  # it is the package's
    if measured.answers_nothing or is_nothing(answer):
        yield Finding(
            "warning",
            "answers-nothing",
            ANSWERS_NOTHING,
            NUMBERS_AGAIN,
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


def secret_files(subject: Subject) -> Iterator[Finding]:
    """Expect no file whose name says that it holds a secret."""
    for member in searched_members(subject.contents, subject.entries, subject.example):
        path = PurePosixPath(member.name)
        folder = next((part for part in path.parts[:-1] if part.lower() in _FOLDERS), None)
        if folder is None and _NAMES.fullmatch(path.name) is None:
            continue
        what = f"{member.name} looks like a secret"
        if folder is not None:
            what += f", as it lies in {folder}"
        yield Finding(
            "error",
            "looks-like-a-secret",
            f"{what}; everybody who reads the archive can read it.",
            "Remove it from the folder, and hand secrets to the container in another way. If it is "
            f"none: {SETTING}={member.name} in {PROPERTIES_FILE}.",
            subject.place(member.name),
        )


def secret_texts(subject: Subject) -> Iterator[Finding]:
    """Expect no secret in a text: in code, settings, certificates, data or the sample."""
    for name, secret in subject.secrets.secrets:
        yield Finding(
            "error",
            "secret-in-text",
            f"In line {secret.line} of {name} there is what looks like {secret.what}; everybody "
            "who reads the archive would see it.",
            "Remove it, revoke it, and pass secrets to the container "
            f"in another way. If it is none: a comment `{ACCEPTING[0]}` in that line, or "
            f"{SETTING}={name} in {PROPERTIES_FILE}.",
            subject.place(name, secret.line),
        )
    for name in subject.secrets.unread:
        yield Finding(
            "warning",
            "secrets-not-sought",
            f"{name} is a text, and with it more than {SEARCHED_BYTES >> 20} MiB would have to be "
            "searched for secrets: it was not.",
            f"Review it, and accept it: {SETTING}={name} in {PROPERTIES_FILE}.",
            subject.place(name),
        )


def without_secrets(finding: Finding, hidden: frozenset[str]) -> Finding:
    """Take the secrets out of what any rule says."""
    message, remedy = finding.message, finding.remedy
    # The longest first: a shorter one may be a part of it, and the rest would be left to read.
    for value in sorted(hidden, key=len, reverse=True):
        message, remedy = message.replace(value, "\u2026"), remedy.replace(value, "\u2026")
    return replace(finding, message=message, remedy=remedy)
