"""Secrets in texts: tokens of known services, private keys, and literals under a telling name.

The rules are our own. detect-secrets, the kept detector in Python, reads 0.1 MB a second, where a
vocabulary has 80 MB; its last release is of May 2024, its issues go unanswered, and unless it is
told otherwise it tries what it finds on the services that it is for. Here nothing leaves the
machine: fixed texts are searched for, and an expression looks only at the places where they are.

Whatever has no such mark is not found: a password in prose, a token under a name like ``x``, what
is encoded, compressed or pickled.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ACCEPTING = ("pragma: allowlist secret", "gitleaks:allow")
"""A comment that says one of these accepts what is in its line, as it does for other detectors."""

ACCEPTING_NEXT = "pragma: allowlist nextline secret"
"""One that says this accepts what is in the line behind it."""

MOST = 100
"""Secrets that are told of one text."""

_CHUNK = 1 << 20
_AROUND = 4096  # bytes on either side of a place that are looked at
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD = 8192  # git takes a file for binary that has a zero byte in its first 8000
_NAME = 64
_SHORTEST_PASSWORD, _STRONG, _LONG = 4, 8, 16


@dataclass(frozen=True)
class Secret:
    """What looks like a secret.

    Attributes
    ----------
    line
        The line, from 1.
    what
        What it is, for people; nothing of the secret is in it.
    value
        The secret. Whoever prints something is to leave this out.
    """

    line: int
    what: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class Manner:
    """How literals stand in a text.

    Attributes
    ----------
    bare
        They need no quotes, as in a file of settings.
    is_written
        A person wrote the text, so that any password counts; in data, a word under the name
        ``password`` is likely to be just that.
    is_key_file
        It is there to hold keys: a key's first line is enough.
    """

    bare: bool = False
    is_written: bool = True
    is_key_file: bool = False


def secrets_in(stream: BinaryIO, manner: Manner) -> Iterator[Secret]:
    """Yield the secrets of a text in their order, `MOST` at most.

    The time it takes grows with the length of the text, and the memory does not.
    """
    head = stream.read(len(codecs.BOM_UTF16_LE))
    stream.seek(0)
    source: BinaryIO | codecs.StreamRecoder = stream
    if head in _UTF16:
        source = codecs.EncodedFile(stream, "utf-8", "utf-16", "replace")
    found = (secret for window in _windows(source.read) for secret in window.secrets(manner))
    yield from islice(found, MOST)


def is_binary(stream: BinaryIO) -> bool:
    """Return whether a file is no text, as git decides it; it is at its beginning afterwards."""
    head = stream.read(_HEAD)
    stream.seek(0)
    # UTF-16 has a zero in every other byte of plain English, and is a text.
    return b"\0" in head and not head.startswith(_UTF16)


def is_to_be_hidden(name: str, value: str) -> bool:
    """Return whether nothing that is printed may hold the value of a setting, secret or accepted.

    What is as short as a number or an ordinary word is: it stands in many a sentence.

    Examples
    --------
    >>> is_to_be_hidden("HF_TOKEN", "tulips-7"), is_to_be_hidden("option.max_token", "512")
    (True, False)
    >>> is_to_be_hidden("option.use_auth_token", "true"), is_to_be_hidden("option.env", "tulips-7")
    (False, False)
    """
    family = _family_of(name.lower().encode("utf-8", "replace"), is_setting=True)
    shortest = _SHORTEST_PASSWORD if family == "password" else _STRONG
    if family is None or len(value) < shortest:
        return False
    return _PLACEHOLDER.match(value.encode("utf-8", "replace")) is None


def secret_under(name: str, value: str) -> str | None:
    """Return what the value of a setting looks like, where that is a secret.

    Examples
    --------
    >>> secret_under("DB_PASSWORD", "tulip7"), secret_under("DB_PASSWORD", "${DB_PASSWORD}")
    ('a password', None)
    >>> secret_under("PAD_TOKEN", "<pad>"), secret_under("sort_key", "price_2024")
    (None, None)
    """
    family = _family_of(name.lower().encode("utf-8", "replace"), is_setting=True)
    if family is None or not _counts(family, value.encode("utf-8", "replace"), is_written=True):
        return None
    return _WHAT[family]


def is_accepted(lines: Sequence[str], number: int) -> bool:
    """Return whether a comment accepts what is in a line, counted from 1."""
    here, before = lines[number - 1], lines[number - 2] if number > 1 else ""
    return any(one in here for one in ACCEPTING) or ACCEPTING_NEXT in before


@dataclass(frozen=True)
class _Window:
    """A piece of a text with what is around it; hits from ``begin`` to ``end`` are its own."""

    data: bytes
    line: int
    begin: int
    end: int

    def secrets(self, manner: Manner) -> Iterator[Secret]:
        tokens = {*self._tokens(), *self._keys(manner)}
        known = {value for _, _, value in tokens}
        # What a token opens says more than the name that it stands under.
        found = sorted(tokens | {one for one in self._named(manner) if one[2] not in known})
        at, line = 0, self.line
        for start, what, value in found:
            line, at = line + self.data.count(b"\n", at, start), start
            if not self._is_accepted(start):
                yield Secret(line, what, value.decode("utf-8", "replace"))

    def _places(self, mark: bytes, data: bytes) -> Iterator[int]:
        at = data.find(mark, self.begin)
        while 0 <= at < self.end:
            yield at
            at = data.find(mark, at + len(mark))

    def _tokens(self) -> Iterator[tuple[int, str, bytes]]:
        for mark, what, expression in _TOKENS:
            for at in self._places(mark, self.data):
                match = expression.match(self.data, at)
                if match is None:
                    continue
                value = match["value"]
                if not _PLACEHOLDER.match(value):
                    yield at, what, value

    def _keys(self, manner: Manner) -> Iterator[tuple[int, str, bytes]]:
        for at in self._places(b"-----BEGIN ", self.data):
            match = _KEY_LINE.match(self.data, at)
            if match is None:
                continue
            body = _KEY_BODY.match(self.data, match.end())
            if body is not None or manner.is_key_file:
                yield at, _PRIVATE_KEY, match[0] if body is None else body[1]

    def _named(self, manner: Manner) -> Iterator[tuple[int, str, bytes]]:
        lower = self.data.lower()
        expressions = (_QUOTED, _BARE) if manner.bare else (_QUOTED,)
        for mark in _MARKS:
            for at in self._places(mark, lower):
                end = at + len(mark)
                # First, as most keys and tokens of data are none of these.
                if mark == b"key" and lower[at - 1 : at] not in _IN_NAMES:
                    continue
                rest = _REST.match(lower, end) if mark == b"pass" else None
                end = end if rest is None else rest.end()
                if lower[end : end + 1] not in _BEHIND_NAMES:
                    continue
                name = lower[max(at - _NAME, 0) : end]
                family = _family_of(name, is_setting=manner.bare)
                if family is None:
                    continue
                match = next((m for one in expressions if (m := one.match(self.data, end))), None)
                if match is None or (match["comma"] and not _DEFAULT.search(name)):
                    continue
                value = match["value"]
                if _counts(family, value, is_written=manner.is_written):
                    yield at, _WHAT[family], value

    def _is_accepted(self, at: int) -> bool:
        before, line_end, begin = self.data[max(at - _AROUND, 0) : at].rpartition(b"\n")
        rest = self.data[at : at + _AROUND].partition(b"\n")[0]
        if any(one.encode() in begin + rest for one in ACCEPTING):
            return True
        return bool(line_end) and ACCEPTING_NEXT.encode() in before.rpartition(b"\n")[2]


def _windows(read: Callable[[int], bytes]) -> Iterator[_Window]:
    data, line, begin, is_last = b"", 1, 0, False
    while not is_last:
        chunk = read(_CHUNK)
        is_last = not chunk
        data += chunk
        # A hit near the end waits for the next piece, which has the rest of its line; and what is
        # before a hit is kept, as a comment there may accept it.
        end = len(data) if is_last else max(len(data) - _AROUND, begin)
        yield _Window(data, line, begin, end)
        gone = max(end - _AROUND, 0)
        line += data.count(b"\n", 0, gone)
        data, begin = data[gone:], end - gone


def _token(mark: str, rest: str, what: str) -> tuple[bytes, str, re.Pattern[bytes]]:
    # Bounded on both sides: a part of a longer word, or of a picture in base64, is none.
    expression = rf"(?<![A-Za-z0-9+/])(?P<value>{re.escape(mark)}{rest})(?![A-Za-z0-9])"
    return mark.encode(), what, re.compile(expression.encode())


_PRIVATE_KEY = "a private key"
# Every repetition has a bound: a line of data may be megabytes long.
_TOKENS = (
    *(_token(mark, r"[A-Z0-9]{16}", "an access key of AWS") for mark in ("AKIA", "ASIA")),
    _token("gh", r"(?:[pousr]_\w{36,255}|ithub_pat_\w{22,255})", "a token of GitHub"),
    _token("glpat-", r"[\w.-]{20,255}", "a token of GitLab"),
    _token("hf_", r"[A-Za-z0-9]{30,64}", "a token of Hugging Face"),
    _token("npm_", r"[A-Za-z0-9]{36}", "a token of npm"),
    _token("pypi-AgE", r"[\w-]{40,512}", "a token of PyPI"),
    _token("xox", r"[abeoprs]-(?=[a-z_-]{0,64}\d)[\w-]{10,255}", "a token of Slack"),
    *(_token(f"{kind}k_live_", r"[A-Za-z0-9]{16,255}", "a key of Stripe") for kind in "sr"),
    _token(
        "sk-",
        # T3BlbkFJ is OpenAI in base64.
        r"(?:(?:ant|proj|svcacct)-[\w-]{20,255}|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20})",
        "a key of a language model",
    ),
    _token("AIza", r"[\w-]{35}", "a key of Google"),
    _token("ya29.", r"[\w-]{20,512}", "a token of Google"),
    _token("GOCSPX-", r"[\w-]{28}", "a client's secret of Google"),
    _token("SG.", r"[\w-]{22}\.[\w-]{43}", "a key of SendGrid"),
    _token("dapi", r"[0-9a-f]{32}", "a token of Databricks"),
    _token("dckr_pat_", r"[\w-]{20,64}", "a token of Docker"),
    _token("hvs.", r"[\w-]{24,255}", "a token of Vault"),
    _token("AccountKey=", r"[A-Za-z0-9+/]{80,100}={0,2}", "a storage key of Azure"),
    _token("AGE-SECRET-KEY-1", r"[A-Z0-9]{58}", _PRIVATE_KEY),
    _token("PuTTY-User-Key-File-", r"\d: [\w-]{4,40}", _PRIVATE_KEY),
    # Both are JSON objects, and eyJ is how base64 of {" and a letter begins.
    _token("eyJ", r"[\w-]{10,512}\.eyJ[\w-]{10,2048}\.[\w-]{10,512}", "a signed token (JWT)"),
    _token("Bearer ", r"(?=[^\d\s]{0,64}\d)[\w.~+/-]{16,512}=?=?", "a token of a request"),
    _token("Basic ", r"(?=[^\d\s]{0,64}\d)[A-Za-z0-9+/]{16,512}=?=?", "a password of a request"),
    (
        b"://",
        "a password in an address",
        re.compile(
            rb"://(?:[^\s/:@\"'<>{}$]{0,128}:(?=[^\s/@]{3,256}@[\w.\[-])"
            rb"|(?=hooks\.slack\.com/services/T\w{8}))(?P<value>[^\s@\"'<>{}$]{3,256})"
        ),
    ),
)

_KEY_LINE = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
# Line ends may be escaped, lines may be literals of their own, and headers may come before, each to
# its end: there is one way to read them.
_KEY_BODY = re.compile(
    rb"(?:\s|\\[nrt]|[\"'+,\\]|(?:Proc-Type|DEK-Info|Version|Comment)[^\n\\\"']{0,128}"
    rb"(?=[\n\\\"']|\Z)){0,256}"
    rb"([A-Za-z0-9+/=]{16,128})"
)

# What may stand between a name and its literal: the name's own quote or bracket; a type; one of
# =, ==, !=, :=, =>, : or a comma; the end of a tag.
_BETWEEN = (
    rb"[0-9]{0,2}(?:\\?[\"'])?\]?[ \t]{0,8}"
    rb"(?::[ \t]{0,4}[A-Za-z_][\w.\[\], |]{0,48}=|[:=!]?=[=>]?|:|(?P<comma>(?<=[\"']),)|>)"
    rb"[ \t]{0,16}"
)
# Only of the default in os.environ.get("NAME", "…") and the like: a list has commas, too.
_DEFAULT = re.compile(rb"(?:get|getenv|setdefault)\(\\?[\"'][\w-]*\Z")
_QUOTED = re.compile(
    _BETWEEN + rb"[rRbBuU]{0,2}\\?(?P<quote>[\"'`])(?P<value>[^\s\"'`\\<>]{3,512})\\?(?P=quote)"
)
_BARE = re.compile(_BETWEEN + rb"(?P<value>[^\s\"'`\\<>,;#(){}\[\]]{3,512})(?=[\s,;#<]|\\[nr]|\Z)")
_IN_NAMES = frozenset(bytes((one,)) for one in b"abcdefghijklmnopqrstuvwxyz_-")
_BEHIND_NAMES = frozenset(bytes((one,)) for one in b"0123456789\\\"'] \t:=!,>")
_MARKS = (b"pass", b"pwd", b"secret", b"key", b"token", b"auth")
_REST = re.compile(rb"(?<=pass)(?:word|wd|phrase)")
# How a name ends that tells of a secret, without its hyphens and underscores.
_ENDINGS: Mapping[str, tuple[bytes, ...]] = MappingProxyType(
    {
        "password": (
            *(b"password", b"passwd", b"passphrase", b"pwd"),
            *(b"adminpass", b"certpass", b"dbpass", b"ftppass", b"keypass", b"ldappass"),
            *(b"loginpass", b"mailpass", b"mysqlpass", b"pgpass", b"postgrespass", b"proxypass"),
            *(b"redispass", b"rootpass", b"smtppass", b"sshpass", b"storepass", b"userpass"),
        ),
        "secret": (b"secret",),
        "key": (
            *(b"accesskey", b"accountkey", b"apikey", b"appkey", b"authkey", b"clientkey"),
            *(b"consumerkey", b"encryptionkey", b"masterkey", b"privatekey", b"secretkey"),
            *(b"servicekey", b"sharedkey", b"signingkey", b"storagekey", b"subscriptionkey"),
        ),
        "token": (
            *(b"accesstoken", b"apitoken", b"apptoken", b"authtoken", b"bearertoken", b"bottoken"),
            *(b"csrftoken", b"deploytoken", b"githubtoken", b"ghtoken", b"gitlabtoken", b"hftoken"),
            *(b"huggingfacetoken", b"huggingfacehubtoken", b"hubtoken", b"idtoken", b"npmtoken"),
            *(b"oauthtoken", b"personaltoken", b"privatetoken", b"pypitoken", b"refreshtoken"),
            *(b"registrytoken", b"secrettoken", b"securitytoken", b"servicetoken"),
            *(b"sessiontoken", b"slacktoken", b"usertoken", b"vaulttoken"),
        ),
        "auth": (b"auth",),
    }
)
_TOKEN_ALONE = re.compile(rb"(?:\A|[^\w-])token\Z")
_WHAT = MappingProxyType(
    {
        "password": "a password",
        "secret": "a secret",
        "key": "a key",
        "token": "a token",
        "auth": "a name and a password",
    }
)
_AWS_SECRET = re.compile(rb"[A-Za-z0-9+/]{40}")
_DIGIT, _LETTER = re.compile(rb"\d"), re.compile(rb"[A-Za-z]")
_PLAIN = re.compile(rb"[\w+/=.~:!@#%^&*-]+")
_PLACEHOLDER = re.compile(
    rb"\A(?:none|null|nil|true|false|undefined|empty|string|str|bytes|redacted|masked|hidden|unset"
    rb"|(?:u?int|float|complex|bool|str|bytes|datetime)[0-9]+"
    rb"|default|optional|required|todo|tbd|test|foo|bar|user|pass|xx+|\*+|\.+|-+|change.?(?:me|it)"
    rb"|(?:your|my|the|some|an?|example|dummy|fake|placeholder|insert|enter|replace)(?:[-_.].*)?"
    rb"|[$%<{\[/~].*|\./.*|.*\{.*\}.*|!(?:vault|ref|sub|getatt|secret)|projects/.*"
    rb"|(?:arn|s3|https?|file|vault|ssm|env|secretsmanager):.*|(?:env|os|process|self|config"
    rb"|settings|args|var|data|local|module|secrets)\..*"
    rb"|[a-z_.-]*(?:pass|pwd|secret|token|key|credential)[a-z_.-]*)\Z",
    re.IGNORECASE | re.DOTALL,
)


def _family_of(name: bytes, *, is_setting: bool) -> str | None:
    """Return which kind of secret a name in lower case tells of.

    In a file of settings every token opens something; elsewhere most are parts of a text.
    """
    letters = name.translate(None, b"_-")
    for family, endings in _ENDINGS.items():
        if letters.endswith(endings):
            return family
    is_token = letters.endswith(b"token") and (is_setting or _TOKEN_ALONE.search(name[-6:]))
    return "token" if is_token else None


def _counts(family: str, value: bytes, *, is_written: bool) -> bool:
    if family == "auth":
        return _is_basic(value)
    if _PLACEHOLDER.match(value):
        return False
    # AWS's secret keys have no mark of their own, and need not hold a digit.
    if _AWS_SECRET.fullmatch(value) and family in ("key", "secret"):
        return True
    is_mixed = _DIGIT.search(value) is not None and _LETTER.search(value) is not None
    if not (is_mixed or is_written):
        return False
    if family == "password":
        return len(value) >= (_SHORTEST_PASSWORD if is_written else _STRONG)
    least = _LONG if family == "token" else _STRONG
    may_be_words = family == "secret"
    return len(value) >= least and (is_mixed or may_be_words) and bool(_PLAIN.fullmatch(value))


def _is_basic(value: bytes) -> bool:
    """Return whether it is base64 of a name and a password, as Docker and npm keep them."""
    try:
        name, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except binascii.Error:
        return False
    return bool(name and colon and password) and (name + password).isascii()
