"""The command `mme`: every room behind one door.

A module a family of commands; the order of their import is the order of `mme --help`. The rooms
behind them are imported when their command runs, so that `mme --help` answers at once.
"""

from mmekit.cli import archives, servers, images, callers, benching, notebooks  # noqa: F401, I001
from mmekit.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run `mme`."""
    app(prog_name="mme")
