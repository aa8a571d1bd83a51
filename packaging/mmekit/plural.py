"""A number with its noun and verb: 1 model is, 2 models are."""

from __future__ import annotations

__all__ = ["are", "counted"]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural ends with an s.

    Examples
    --------
    >>> counted(1, "model"), counted(0, "model")
    ('1 model', '0 models')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """Return the verb of so many.

    Examples
    --------
    >>> f"there {are(1)} one", f"there {are(2)} two"
    ('there is one', 'there are two')
    """
    return "is" if number == 1 else "are"
