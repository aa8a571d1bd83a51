"""What a log must not hold: secrets, and what would make more than one line of a record.

The list of secrets' names is one, for the lines of logs and for what the state keeps.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote

__all__ = ["LineFormatter", "is_secret", "redacted", "visible"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_WORDS = (
    "authorization",
    "cookie",
    "signature",
    "security-token",
    "session-token",
    "secret-access-key",
    "secret-key",
    "client-secret",
    "private-key",
    "customer-key",
    "password",
    "passwd",
    "api-key",
    "access-token",
    "auth-token",
    "web-identity-token",
    "saml-assertion",
)
_NAME = "|".join(word.replace("-", "(?:[-_]|%2d)?") for word in _WORDS).replace(
    # IAM's policy of passwords says how long they are, not which.
    "password",
    "(?<!minimum)(?<!max)(?<!change)password(?!reuse)",
)
_SECRET = re.compile(_NAME, re.IGNORECASE)
# What stands behind these has spaces and commas in it.
_LINE = re.compile(r"((?:authorization|cookie)\s*:\s*)(?![\s\"'])[^\r\n\"']+", re.IGNORECASE)
_GIVEN = re.compile(
    # Not from where a name begins: texts may be long.
    rf"""
    (?P<before>
        (?:{_NAME})[\w.-]{{0,40}}?
        (?: ["']\s*[,:=]\s*[bru]{{0,2}}(?=["'])  # of a dict, of JSON, of a tuple
          | ["']?\s*[:=]\s*                     # of a header, of a query
          | %3d | >(?=[^<\s])                   # of a query within one, of XML
        )
    )
    (?P<value>"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s&,;"'<>]+)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LOGIN = re.compile(r"(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,200}@")
_HIDDEN = "***"
_STEMS = ("authorization", "cookie", "signature", "token", "key", "secret", "passw", "saml", "://")
"""One of these is in whatever has a secret; most lines have none, and need no closer look."""


def is_secret(name: str) -> bool:
    """Say whether what a header, a parameter or a field has is a secret, however it is spelled.

    >>> is_secret("Proxy-Authorization"), is_secret("x%2Damz%2Dsignature"), is_secret("X-Amz-Date")
    (True, True, False)
    """
    return _SECRET.search(unquote(name)) is not None


def redacted(text: str) -> str:
    """Return a text without the secrets in it, as far as their names tell them.

    >>> redacted("PUT /kept/key?X-Amz-Date=20260101T000000Z&x-amz-signature=1f0c&x-id=PutObject")
    'PUT /kept/key?X-Amz-Date=20260101T000000Z&x-amz-signature=***&x-id=PutObject'
    >>> redacted("proxy-authorization: Basic Zm9vOmJhcg== and more")
    'proxy-authorization: ***'
    >>> redacted("[(b'authorization', b'Bearer abc'), (b'host', b'localhost')]")
    "[(b'authorization', b'***'), (b'host', b'localhost')]"
    """
    lower = text.lower()
    if not any(stem in lower for stem in _STEMS):
        return text
    text = _LINE.sub(rf"\1{_HIDDEN}", text)
    return _LOGIN.sub(f"{_HIDDEN}@", _GIVEN.sub(_hidden, text))


def _hidden(found: re.Match[str]) -> str:
    quote = found["value"][0]
    return found["before"] + (f"{quote}{_HIDDEN}{quote}" if quote in "\"'" else _HIDDEN)


def visible(text: str) -> str:
    r"""Return a text with its control characters written out, a line's end as ``\n``.

    >>> visible("a model\n12:00 INFO forged")
    'a model\\n12:00 INFO forged'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class LineFormatter(logging.Formatter):
    """Formats records; a record of what a process has printed (``printed``) stays as it is.

    Names of models come from requests: a line's end in one would begin a line of somebody else's
    making, and an escape would speak to the terminal. A traceback follows in lines of its own.
    Secrets of requests are in neither.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        text = super().format(record)
        return text if getattr(record, "printed", False) else redacted(text)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of a record."""
        if not getattr(record, "printed", False):
            record.message = visible(record.message)
        return super().formatMessage(record)
