"""The head of an HTTP message, looked at where it goes out.

Whatever becomes a line of one is text of somebody else's: of a handler, of a form, of an object's
metadata. A line end in it would be a header that nobody set, or a request that nobody sent.
"""

from __future__ import annotations

__all__ = ["HeadError", "is_one_line", "lines_of"]


class HeadError(ValueError):
    """A head cannot be sent: what was to be one line of it is more, or holds a zero byte."""


def lines_of(head: bytes, count: int) -> bytes:
    r"""Return (a part of) a head that consists of so many lines, each with its end.

    Raises
    ------
    HeadError
        It has more lines than that, or characters that end lines or texts elsewhere.

    Examples
    --------
    >>> lines_of(b"accept: text/csv\r\n", 1)
    b'accept: text/csv\r\n'
    >>> lines_of(b"accept: text/csv\r\nexpect: more\r\n", 1)
    Traceback (most recent call last):
    ...
    mmekit_local.http.head.HeadError: a header has a line end or a zero byte in it
    """
    ends = (head.count(b"\r\n"), head.count(b"\n"), head.count(b"\r"))
    if ends != (count, count, count) or b"\0" in head:
        raise HeadError("a header has a line end or a zero byte in it")
    return head


def is_one_line(text: str) -> bool:
    r"""Say whether a text can be a header's value.

    Examples
    --------
    >>> is_one_line("text/csv; charset=utf-8"), is_one_line("text/csv\r\nHost: x")
    (True, False)
    """
    return not any(one in text for one in "\r\n\0")
