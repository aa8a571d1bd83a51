"""The command `mme`: what one ships here, what one rehearses and measures with where that is.

A module a family of commands; the order of their import is the order of `mme --help`. The rooms
behind them are imported when their command runs, so that `mme --help` answers at once. The other
wings add their commands by an entry point in the group ``mmekit.commands``, whose module hangs
them on `mmekit.cli.application.app`: this wing knows neither of them.
"""

from importlib.metadata import PackageNotFoundError, distribution  # noqa: I001

from mmekit.cli import (
    scaffolds,  # noqa: F401
    archives,  # noqa: F401
    layers,  # noqa: F401
    endpoints,  # noqa: F401
    invoke,  # noqa: F401
    operate,  # noqa: F401
    releases,  # noqa: F401
    smoke,  # noqa: F401
)
from mmekit.cli.application import app

__all__ = ["app", "main"]


def _add_other_wings() -> None:
    # Of this distribution alone: to read those of all that are installed takes longer than `mme`.
    try:
        found = distribution("mmekit").entry_points.select(group="mmekit.commands")
    except PackageNotFoundError:  # a bare folder on the path
        return
    for wing in found:
        wing.load()


_add_other_wings()


def main() -> None:
    """Run `mme`."""
    app(prog_name="mme")
