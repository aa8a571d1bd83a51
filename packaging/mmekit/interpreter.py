"""How this Python is started again."""

from __future__ import annotations

import sys

__all__ = ["module_command"]


def module_command(module: str) -> list[str]:
    """Return the command that runs a module, and finds no other one in the working directory.

    ``python -m`` looks there first: a file of the user's that is called like one of the standard
    library (cmd.py, random.py) would run in its place. Python 3.10 has no way to leave that out.

    Examples
    --------
    >>> module_command("mmekit.cli")[-2:]
    ['-m', 'mmekit.cli']
    """
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe, "-m", module]
