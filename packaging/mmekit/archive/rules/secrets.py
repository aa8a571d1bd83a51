"""Rules about secrets: whoever may read the bucket may read the archive."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.secret_search import SEARCHED_BYTES, SETTING, searched_members
from mmekit.archive.secrets import (
    ACCEPTING,
)
from mmekit.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject


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


def files(subject: Subject) -> Iterator[Finding]:
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


def texts(subject: Subject) -> Iterator[Finding]:
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
    for value in sorted(hidden, key=len, reverse=True):
        message, remedy = message.replace(value, "\u2026"), remedy.replace(value, "\u2026")
    return replace(finding, message=message, remedy=remedy)
