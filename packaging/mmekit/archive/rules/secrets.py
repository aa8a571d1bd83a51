"""Rules about secrets: whoever may read the bucket may read the archive."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mmekit.archive.findings import Finding
from mmekit.archive.package import CONTENT_TYPES, Member
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.secrets import (
    ACCEPTING,
    Manner,
    Secret,
    is_accepted,
    is_binary,
    is_to_be_hidden,
    secret_under,
    secrets_in,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject

SETTING = "option.accepted_secrets"
"""Files, separated by commas, in which no secrets are looked for; * stands for anything."""

_SEARCHED = 1 << 30  # bytes; a minute or so, and texts of a model are smaller
_SHORT = 64 << 10  # a longer one is data
_ENV = "option.env"

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
_KEY_FILES = (".pem", ".key")
_SETTINGS = frozenset(
    (
        *(".cfg", ".cnf", ".conf", ".config", ".env", ".ini", ".properties", ".sh", ".tf"),
        *(".tfvars", ".toml", ".xml", ".yaml", ".yml"),
    )
)
_SOURCES = frozenset(
    (".ipynb", ".java", ".jl", ".js", ".lua", ".pl", ".py", ".r", ".rb", ".scala", ".ts")
)
_PROSE = frozenset((".log", ".md", ".rst", ".txt"))
_BARE_NAMES = re.compile(r"(\.[^.]+|Dockerfile.*|Makefile|[^.]+)", re.IGNORECASE)


def files(subject: Subject) -> Iterator[Finding]:
    """Expect no file whose name says that it holds a secret."""
    for member in _looked_at(subject):
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
            f"{what}; everybody who reads the archive would see it.",
            "Remove it from the folder, and hand secrets to the container in another way. If it is "
            f"none: {SETTING}={member.name} in {PROPERTIES_FILE}.",
            subject.place(member.name),
        )


def texts(subject: Subject) -> Iterator[Finding]:
    """Expect no secret in a text: in code, settings, certificates, data or the sample."""
    for name, secret in subject.secrets.secrets:
        yield Finding(
            "error",
            "secret-in-text",
            f"In line {secret.line} of {name} there is what looks like {secret.what}; everybody "
            "who reads the archive would see it.",
            "Take it out, declare it invalid where it was made, and hand secrets to the container "
            f"in another way. If it is none: a comment `{ACCEPTING[0]}` in that line, or "
            f"{SETTING}={name} in {PROPERTIES_FILE}.",
            subject.place(name, secret.line),
        )
    for name in subject.secrets.unread:
        yield Finding(
            "warning",
            "secrets-not-sought",
            f"{name} is a text, and with it more than {_SEARCHED >> 20} MiB would have to be "
            "searched for secrets: it was not.",
            f"Look at it yourself, and say so: {SETTING}={name} in {PROPERTIES_FILE}.",
            subject.place(name),
        )


@dataclass(frozen=True)
class Found:
    """What a search for secrets found.

    Attributes
    ----------
    secrets
        Each with the name of its file.
    unread
        The texts that were not searched.
    hidden
        Values that nothing that is printed may hold: what was found, and whatever else a setting
        has whose name tells of a secret.
    """

    secrets: tuple[tuple[str, Secret], ...]
    unread: tuple[str, ...]
    hidden: frozenset[str]


def find(subject: Subject) -> Found:
    """Search the texts of a model, its settings and its sample."""
    found: dict[tuple[str, int], Secret] = {}
    unread, left, hidden = [], _SEARCHED, set()
    for member in _looked_at(subject):
        with member.open() as stream:
            if is_binary(stream):
                continue
            if member.size > left:
                unread.append(member.name)
                continue
            left -= member.size
            for secret in secrets_in(stream, _manner(member)):
                # One line is one finding.
                found.setdefault((member.name, secret.line), secret)
                hidden.add(secret.value)
    lines = (subject.contents.text(PROPERTIES_FILE, "latin-1") or "").splitlines()
    is_whole_accepted = _is_left_out(subject, PROPERTIES_FILE)
    for line, name, value in _settings(subject):
        what = secret_under(name, value)
        if what is not None and not (is_whole_accepted or is_accepted(lines, line)):
            # What a backslash continues or spells otherwise, the text alone does not show.
            found.setdefault((PROPERTIES_FILE, line), Secret(line, what, value))
        bare = value.strip("\"'")
        if is_to_be_hidden(name, bare):
            hidden |= {value, bare}
    by_file = sorted(found.items())
    return Found(
        tuple((name, secret) for (name, _), secret in by_file),
        tuple(unread),
        frozenset(value for value in hidden if value.strip()),
    )


def without_secrets(finding: Finding, hidden: frozenset[str]) -> Finding:
    """Take the secrets out of what any rule says."""
    message, remedy = finding.message, finding.remedy
    for value in sorted(hidden, key=len, reverse=True):
        message, remedy = message.replace(value, "\u2026"), remedy.replace(value, "\u2026")
    return replace(finding, message=message, remedy=remedy)


def _looked_at(subject: Subject) -> Iterator[Member]:
    """Yield the files in which secrets are looked for, and the sample, which the manifest holds."""
    for member in (*subject.contents, *_sample(subject)):
        if not _is_left_out(subject, member.name):
            yield member


def _is_left_out(subject: Subject, name: str) -> bool:
    patterns = subject.values.get(SETTING, "").split(",")
    return any(fnmatchcase(name, pattern.strip()) for pattern in patterns)


def _sample(subject: Subject) -> Iterator[Member]:
    example = subject.example
    if example is None:
        return
    suffixes = (suffix for suffix, kind in CONTENT_TYPES.items() if kind == example.content_type)
    yield Member.made_of(f"sample_request{next(suffixes, '')}", example.request.encode())
    if example.answer is not None:
        yield Member.made_of("sample_response.json", example.answer.encode())


def _settings(subject: Subject) -> Iterator[tuple[int, str, str]]:
    """Yield line, name and value of every setting and of what option.env sets."""
    for entry in subject.entries:
        if entry.key == _ENV:
            for item in entry.value.split(","):
                name, _, value = item.partition("=")
                yield entry.line, name.strip(), value.strip()
        else:
            yield entry.line, entry.key, entry.value.strip()


def _manner(member: Member) -> Manner:
    path = PurePosixPath(member.name)
    suffix = path.suffix.lower()
    if suffix in _SETTINGS or _BARE_NAMES.fullmatch(path.name):
        return Manner(bare=True, is_written=True)
    is_short = member.size <= _SHORT
    is_written = suffix in _SOURCES or (suffix == ".json" and is_short)
    return Manner(
        bare=suffix in _PROSE and is_short, is_written=is_written, is_key_file=suffix in _KEY_FILES
    )
