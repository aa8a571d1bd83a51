"""The command `mme`: every room behind one door.

A module a family of commands; the order of their import is the order of `mme --help`. The rooms
behind them are imported when their command runs, so that `mme --help` answers at once.
"""

from mmekit.cli import (  # noqa: I001
    scaffolds,  # noqa: F401
    archives,  # noqa: F401
    describing,  # noqa: F401
    servers,  # noqa: F401
    images,  # noqa: F401
    callers,  # noqa: F401
    deployment,  # noqa: F401
    assemblies,  # noqa: F401
    benching,  # noqa: F401
    clients,  # noqa: F401
    notebooks,  # noqa: F401
)
from mmekit.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run `mme`."""
    app(prog_name="mme")
