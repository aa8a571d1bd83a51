"""Loading a pickle, and the code that it asks for.

Whoever runs ``mme init`` on a pickle runs the code in it: there is no other way to see what it is.
"""

from __future__ import annotations

import contextlib
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit.archive.contents import Member
from mmekit.archive.pickles import read_pickle
from mmekit.errors import PackageError
from mmekit_runtime.libraries.scikit_learn import HARMLESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OWN = frozenset({"mmekit", "mmekit_runtime"})
_DISTRIBUTIONS = {
    "catboost": "catboost",
    "cloudpickle": "cloudpickle",
    "lightgbm": "lightgbm",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "xgboost": "xgboost",
}


@dataclass(frozen=True)
class Unpickled:
    """What a pickle held.

    Attributes
    ----------
    model
        The object.
    modules
        The top-level modules whose classes and functions it names, sorted.
    code
        Files and folders of modules that belong to no installed distribution: the model needs them,
        so they travel with it.
    sklearn_version
        The version of scikit-learn that wrote it; None where nobody says.
    """

    model: Any
    modules: tuple[str, ...]
    code: tuple[Path, ...]
    sklearn_version: str | None = None


def unpickle(path: Path, code: Sequence[Path] = ()) -> Unpickled:
    """Load a pickle by joblib, which reads those of pickle and cloudpickle as well.

    Parameters
    ----------
    path
        The file.
    code
        Modules and packages of one's own that the pickle asks for. Those beside the artefact and in
        the working directory are found as well.

    Raises
    ------
    PackageError
        It names a class of ``__main__``, or a module that is not there, or it cannot be loaded.
    """
    try:
        import joblib
    except ImportError as error:
        raise missing_library("joblib", path) from error
    wrote = written_by(path)
    named: dict[str, None] = {}
    before = set(sys.modules)
    # Not resolved: what is in a folder of links is still beside them.
    places = [*(one.absolute().parent for one in code), Path.cwd(), path.absolute().parent]
    with _importable_from(places), _noting(named), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            model = joblib.load(path)
        except ModuleNotFoundError as error:
            raise _missing_module(error, path) from error
        except AttributeError as error:
            raise _missing_name(error, named, path) from error
        except PackageError:
            raise
        except Exception as error:
            raise PackageError(
                f"The pickle cannot be loaded: {type(error).__name__}: {error}",
                where=str(path),
                remedy="load it where it was written, with the same versions of its libraries",
            ) from error
        imported = {name.partition(".")[0] for name in set(sys.modules) - before} | set(named)
        own = {name: file for name in imported if (file := _file_of_own(name))}
    return Unpickled(
        model,
        tuple(sorted(set(named) - set(own))),
        tuple(sorted(own.values())),
        wrote or _sklearn_version(seen),
    )


def written_by(path: Path) -> str | None:
    """Return the version of scikit-learn that wrote a pickle or skops file, without running it.

    Raises
    ------
    PackageError
        It asks for something of ``__main__``.
    """
    pickled = read_pickle(Member(path.name, path.stat().st_size, path))
    if pickled is None:
        return None
    if pickled.of_main:
        raise _of_main(", ".join(pickled.of_main))
    return pickled.scikit_learn[0] if pickled.scikit_learn else None


def missing_library(distribution: str, path: Path) -> PackageError:
    """Return the error that says which library to install."""
    return PackageError(
        f"Reading this artefact takes {distribution}, which is not installed",
        where=str(path),
        remedy=f"install it in the version that the model was trained with: pip install "
        f"{distribution}",
    )


@contextlib.contextmanager
def _importable_from(places: Sequence[Path]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:0] = [str(place) for place in places]
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _noting(named: dict[str, None]) -> Iterator[None]:
    """Note which modules a pickle names while joblib loads it."""
    from joblib import numpy_pickle

    original = numpy_pickle.NumpyUnpickler

    class Noting(original):  # type: ignore[misc,valid-type]
        def find_class(self, module: str, name: str) -> Any:
            if module == "__main__":
                raise _of_main(name)
            named[module.partition(".")[0]] = None
            return super().find_class(module, name)

    # joblib.load takes no unpickler of one's own.
    numpy_pickle.NumpyUnpickler = Noting
    try:
        yield
    finally:
        numpy_pickle.NumpyUnpickler = original


def _of_main(name: str) -> PackageError:
    return PackageError(
        f"The pickle asks for {name} of __main__: it was defined in the notebook or script that "
        "saved the model, and exists nowhere else",
        where=f"__main__.{name}",
        remedy=f"move {name} into a module of its own, such as features.py; import it from there, "
        "train and save again. `mme init` finds the module in the working directory, beside the "
        "artefact or by --code features.py, and puts it into the package",
    )


def _missing_module(error: ModuleNotFoundError, path: Path) -> PackageError:
    name = str(error.name or error).partition(".")[0]
    if name in _DISTRIBUTIONS:
        return missing_library(_DISTRIBUTIONS[name], path)
    return PackageError(
        f"The pickle imports the module {name}, which does not exist",
        where=str(path),
        remedy=f"if it is a library, install it; if it is your own code, name it: --code {name}.py",
    )


def _missing_name(error: AttributeError, named: dict[str, None], path: Path) -> PackageError:
    module = list(named)[-1] if named else "a module"
    return PackageError(
        f"The pickle imports a name that is not in {module}: {error}",
        where=str(path),
        remedy="install the version of the library that the model was trained with; for code of "
        "your own, name its file with --code",
    )


def _file_of_own(name: str) -> Path | None:
    """Return the file or folder of a top-level module that no distribution installed."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None or name in _OWN or name in sys.stdlib_module_names:
        return None
    path = Path(file).absolute()
    if path.name == "__init__.py":
        path = path.parent
    installed = {Path(sysconfig.get_path(kind)).absolute() for kind in ("purelib", "platlib")}
    if path.parent in installed or {"site-packages", "dist-packages"} & set(path.parts):
        return None
    return path


def _sklearn_version(seen: Sequence[warnings.WarningMessage]) -> str | None:
    for warning in seen:
        version = getattr(warning.message, "original_sklearn_version", None)
        if version is not None:
            return str(version)
    return None


def unknown_types(model: Any) -> tuple[str, ...] | None:
    """Return the types in a model that skops does not know; None when it cannot hold the model."""
    try:
        from skops.io import dumps, get_untrusted_types

        found = get_untrusted_types(data=dumps(model))
        return tuple(name for name in found if name not in HARMLESS)
    except Exception:  # noqa: BLE001  skops raises whatever it meets in what it cannot hold
        return None


def convert(model: Any, asked: Any, path: Path, trusted: Sequence[str], where: str) -> None:
    """Write a model as a skops file, once what it answers is the same.

    Parameters
    ----------
    model
        The estimator.
    asked
        Rows to compare the answers on, as the estimator takes them.
    path
        The file to write.
    trusted
        The types that skops does not know and the user does.
    where
        The pickle, for errors.

    Raises
    ------
    PackageError
        skops cannot hold the model, does not know a type of it, or the copy answers otherwise.
    """
    try:
        from skops.io import dumps, loads
    except ImportError as error:
        raise missing_library("skops", path) from error
    unknown = unknown_types(model)
    if unknown is None:
        raise PackageError(
            f"skops cannot hold this {type(model).__name__}",
            where=where,
            remedy="leave --convert-to-skops out: the pickle is served as it is",
        )
    left = [name for name in unknown if name not in trusted]
    if left:
        options = " ".join(f"--trust {name}" for name in left)
        raise PackageError(
            f"The model holds types that skops does not know: {', '.join(left)}",
            where=where,
            remedy=f"if you trust them, say so: {options}",
        )
    data = dumps(model)
    copy = loads(data, trusted=[*trusted, *HARMLESS])
    for method in ("predict", "predict_proba", "transform"):
        if hasattr(model, method) and not _equal(
            getattr(model, method)(asked), getattr(copy, method)(asked)
        ):
            raise PackageError(
                f"The model predicts otherwise after skops ({method} on the example)",
                where=where,
                remedy="leave --convert-to-skops out: the pickle is served as it is",
            )
    path.write_bytes(data)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    one, other = (part.toarray() if hasattr(part, "toarray") else part for part in (one, other))
    left, right = np.asarray(one), np.asarray(other)
    if left.dtype.kind == "f":
        return bool(np.array_equal(left, right, equal_nan=True))
    return bool(np.array_equal(left, right))
