"""The extras of the distribution: which one brings a library that is missing, as pip names it.

What `mme` can do without is imported where it is used. `optional_libraries` stands around such
code: the failure of an import becomes an error that says what to install. The extras are read from
the metadata of the installed distribution, so that pyproject.toml stays the only list.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING

from mmekit.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["optional_libraries"]

_DISTRIBUTION = "mmekit"
# Modules that are called otherwise than the distribution that brings them.
_DISTRIBUTION_OF = {"PIL": "pillow", "sagemaker": "sagemaker-core", "sklearn": "scikit-learn"}


@contextmanager
def optional_libraries(what: str) -> Iterator[None]:
    """Turn the failed import of an optional dependency into an error that names its extra.

    Parameters
    ----------
    what
        What needs it, as the error's sentence begins: ``mme up``.

    Raises
    ------
    MissingExtraError
        A module is missing that an extra brings. One that no extra brings is a fault of ours, or
        of code that is not ours: its ModuleNotFoundError goes on.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = _missing_extra(what, error)
        if missing is None:
            raise
        raise missing from error


def _missing_extra(what: str, error: ModuleNotFoundError) -> MissingExtraError | None:
    top = (error.name or "").partition(".")[0]
    library = _DISTRIBUTION_OF.get(top, top.replace("_", "-"))
    extras = [name for name, libraries in _extras().items() if library in libraries]
    if not extras:
        return None
    # Several extras may bring it: the one of the wing whose code asked is meant.
    wing = _wing(error.__traceback__)
    extra = wing if wing in extras else extras[0]
    return MissingExtraError(
        f"{what} needs {library}, which is not installed.",
        where=sys.executable,
        remedy=f"pip install '{_DISTRIBUTION}[{extra}]'",
        extra=extra,
    )


@cache
def _extras() -> Mapping[str, frozenset[str]]:
    """Return the canonical names of the distributions that each extra brings."""
    # Here, as packaging takes a while to import and only those need it whom something fails.
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, set[str]] = {}
    try:
        declared = [Requirement(text) for text in requires(_DISTRIBUTION) or ()]
    except PackageNotFoundError:  # a bare folder on the path
        return {}
    for one in declared:
        # A marker is a list of comparisons: (variable, operator, value), "and", …
        for comparison in getattr(one.marker, "_markers", ()):
            words = [str(getattr(word, "value", word)) for word in comparison]
            if words[0] == "extra":
                found.setdefault(words[2], set()).add(canonicalize_name(one.name))
    return {name: frozenset(libraries) for name, libraries in found.items()}


def _wing(traceback: TracebackType | None) -> str:
    """Return what follows ``mmekit_`` in the name of the innermost of our packages."""
    name = ""
    while traceback is not None:
        package = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        name = package.removeprefix("mmekit_") if package.startswith("mmekit_") else name
        traceback = traceback.tb_next
    return name
