"""The extras of the distribution: which one brings a library that is missing, as pip names it.

What `mme` can do without is imported where it is used. `optional_libraries` stands around such
code: the failure of an import becomes an error that says what to install. `require_extras` asks
ahead, where the import is another process's. The extras are read from the metadata of the installed
distribution, so that pyproject.toml stays the only list.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import TYPE_CHECKING, Any

from mmekit.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = [
    "explain_in_notebook",
    "optional_libraries",
    "program_libraries",
    "require_extras",
]

_DISTRIBUTION = "mmekit"
# Modules that are called otherwise than the distribution that brings them.
_DISTRIBUTION_OF = {
    "mlflow": "mlflow-skinny",
    "PIL": "pillow",
    "sagemaker": "sagemaker-core",
    "sklearn": "scikit-learn",
}
# What a user installs for what a command does. The others are for who changes mmekit, or bring
# gigabytes: of those, the one library is named.
_OF_COMMANDS = ("local", "layers", "aws", "bench")
_OF_NOTEBOOKS = ("nbclient", "nbformat")


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


@contextmanager
def program_libraries(module: str) -> Iterator[None]:
    """End ``python -m MODULE`` with one line for a library that is missing, and no traceback.

    It stands in the package's ``__init__``, which Python imports before ``__main__``. For who
    imports the package, the failed import goes on.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = _missing_extra(f"`python -m {module}`", error)
        # So called as long as Python looks for the module (the documentation of sys.argv).
        if missing is None or sys.argv[0] != "-m":
            raise
        sys.exit(str(missing))


def require_extras(what: str, *extras: str) -> None:
    """Refuse to go on without what extras bring, wherever it is imported later.

    Parameters
    ----------
    what
        What needs them, as the error's sentence begins: ```mme up```.
    extras
        Their names. Of what they bring, that which not every platform has may be missing.

    Raises
    ------
    MissingExtraError
        Names the first library that is missing, and all the extras of which one is.
    """
    missing = {
        name: lacked
        for name in extras
        if (lacked := sorted(filter(_is_missing, _everywhere().get(name, ()))))
    }
    if missing:
        first = next(iter(missing.values()))[0]
        raise _error(what, first, ",".join(missing))


def explain_in_notebook() -> None:
    """Have a notebook say what to install for a library that is missing, in place of a traceback.

    Elsewhere it does nothing.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None:
        shell.set_custom_exc((ModuleNotFoundError,), _explain)


def _explain(
    shell: Any, kind: type, error: ModuleNotFoundError, traceback: Any, tb_offset: Any = None
) -> None:
    library = _library(error)
    if library in _extras().get("notebooks", ()):
        missing = _error("This notebook", library, "notebooks")
    elif (other := _missing_extra("This notebook", error)) is not None:
        missing = other
    else:
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
        return
    shell._showtraceback(kind, error, [str(missing)])  # noqa: SLF001 - what shells overwrite


def _is_missing(library: str) -> bool:
    try:
        distribution(library)
    except PackageNotFoundError:
        return shutil.which(library) is None  # uv need not be Python's
    return False


def _missing_extra(what: str, error: ModuleNotFoundError) -> MissingExtraError | None:
    library = _library(error)
    extras = [name for name, libraries in _extras().items() if library in libraries]
    if not extras:
        return None
    # Several extras may bring it: the one of the wing whose code asked is meant.
    wing = _wing(error.__traceback__)
    offered = [name for name in extras if name in _OF_COMMANDS]
    if wing not in offered and library in _OF_NOTEBOOKS:
        return _error(what, library, "notebooks")
    extra = wing if wing in offered else next(iter(offered), "")
    return _error(what, library, extra)


def _library(error: ModuleNotFoundError) -> str:
    top = (error.name or "").partition(".")[0]
    return _DISTRIBUTION_OF.get(top, top.replace("_", "-"))


def _error(what: str, library: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"{what} needs {library}, which is not installed.",
        where=sys.executable,
        remedy=f"pip install '{_DISTRIBUTION}[{extra}]'" if extra else f"pip install {library}",
        extra=extra,
    )


def _extras() -> Mapping[str, frozenset[str]]:
    """Return the canonical names of the distributions that each extra brings."""
    return _declared(with_conditions=True)


def _everywhere() -> Mapping[str, frozenset[str]]:
    """Return those of them that each extra brings on every platform and Python."""
    return _declared(with_conditions=False)


@cache
def _declared(*, with_conditions: bool) -> Mapping[str, frozenset[str]]:
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
        comparisons = getattr(one.marker, "_markers", ())
        if len(comparisons) > 1 and not with_conditions:
            continue
        for comparison in comparisons:
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
