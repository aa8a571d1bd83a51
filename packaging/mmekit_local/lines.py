"""Lines of a log: one a record, whatever is in the names that it tells."""

from __future__ import annotations

import logging
import re

from mmekit_local.redaction import redacted

__all__ = ["LineFormatter", "visible"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
