"""What a recognised artefact is when it is loaded, and what a package needs to serve it."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from mmekit.errors import PackageError
from mmekit.scaffold import artifact as kinds
from mmekit.scaffold.artifact import TABLE, TENSORS, TEXTS, Inspected
from mmekit.scaffold.pickles import missing_library, unpickle, written_by
from mmekit_runtime.estimators import names_of, takes_missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmekit.scaffold.artifact import Artifact


# The hub would be asked although the model is here; and tokenizers' threads stand in the way of
# a fork.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
# What a pickle names beside the libraries that the model is of, and comes with them.
_COMES_ALONG = frozenset({"numpy", "scipy", "joblib"})


def inspect(
    found: Artifact, *, code: Sequence[Path] = (), trusted: Sequence[str] = ()
) -> Inspected:
    """Load an artefact with its library.

    Parameters
    ----------
    found
        What `recognise` returned; a folder of MLflow is taken apart before.
    code
        Modules of one's own that a pickle asks for.
    trusted
        Types of a skops file that skops does not know and the user does.

    Raises
    ------
    PackageError
        The library is not installed, or does not load it.
    """
    loaders = {
        kinds.SKLEARN: lambda: _pickle(found, code),
        kinds.SKOPS: lambda: _skops(found, trusted),
        kinds.XGBOOST: lambda: _xgboost(found),
        kinds.LIGHTGBM: lambda: _lightgbm(found),
        kinds.CATBOOST: lambda: _catboost(found),
        kinds.ONNX: lambda: _onnx(found),
        kinds.TORCHSCRIPT: lambda: _torchscript(found),
        kinds.SETFIT: lambda: _setfit(found),
        kinds.SENTENCES: lambda: _sentences(found),
    }
    try:
        return loaders[found.kind]()
    except ModuleNotFoundError as error:
        raise missing_library(_distribution(error.name or ""), found.path) from error
    except PackageError:
        raise
    except Exception as error:
        raise PackageError(
            f"{found.form} cannot be loaded: {type(error).__name__}: {error}",
            where=str(found.path),
            remedy="load it with the version of the library that wrote it",
        ) from error


def pin(distribution: str, version: str | None = None) -> str:
    """Return the line of requirements.txt for a version: the installed one, if none is named.

    A distribution that is not installed is left to pip.
    """
    if version is None:
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return distribution
    # PyPI has torch 2.7.1, and not the 2.7.1+cpu that may be installed.
    return f"{distribution}=={Version(version).public}"


def _pickle(found: Artifact, code: Sequence[Path]) -> Inspected:
    loaded = unpickle(found.path, code)
    model = loaded.model
    where = str(found.path)
    if type(model).__module__.startswith("xgboost.core"):
        raise PackageError(
            "The pickle holds a Booster of XGBoost",
            where=where,
            remedy='save it in its own format, which runs no code: booster.save_model("model.ubj")',
        )
    if type(model).__module__ == "lightgbm.basic":
        raise PackageError(
            "The pickle holds a Booster of LightGBM",
            where=where,
            remedy='save it in its own format, which runs no code: booster.save_model("model.txt")',
        )
    if not hasattr(model, "predict") and not hasattr(model, "transform"):
        raise PackageError(
            f"The pickle holds a {type(model).__name__}, which has neither predict nor transform",
            where=where,
            remedy="save the fitted estimator itself (clustering without predict, such as DBSCAN, "
            "cannot answer new rows), or write model.py by hand, as docs/handlers.md shows",
        )
    inspected = _estimator(found, model, ("joblib",))
    versions = {"scikit-learn": loaded.sklearn_version} if loaded.sklearn_version else {}
    named = _distributions(set(loaded.modules) | _imported_by(loaded.code))
    lines = tuple(pin(name, versions.get(name)) for name in named if name not in _COMES_ALONG)
    return replace(
        inspected,
        requirements=("joblib", *lines),
        wrote=loaded.sklearn_version,
        code=loaded.code,
        runs_code=True,
    )


def _skops(found: Artifact, trusted: Sequence[str]) -> Inspected:
    from skops.io import get_untrusted_types, load

    from mmekit_runtime.libraries.scikit_learn import HARMLESS

    wrote = written_by(found.path)
    known = (*trusted, *HARMLESS)
    unknown = [name for name in get_untrusted_types(file=found.path) if name not in known]
    if unknown:
        options = " ".join(f"--trust {name}" for name in unknown)
        raise PackageError(
            f"The file holds types that skops does not know: {', '.join(unknown)}",
            where=str(found.path),
            remedy=f"if you trust them, say so: {options}",
        )
    model = load(found.path, trusted=list(known))
    modules = {name.partition(".")[0] for name in trusted} | {type(model).__module__}
    named = _distributions({one.partition(".")[0] for one in modules} | {"sklearn"})
    lines = tuple(
        pin(name, wrote if name == "scikit-learn" else None)
        for name in named
        if name not in _COMES_ALONG
    )
    inspected = _estimator(found, model, ())
    options_ = {"trusted": tuple(trusted)} if trusted else None
    # Unpinned, as its format has a version of its own, which the image's skops reads.
    return replace(inspected, requirements=(*lines, "skops"), wrote=wrote, options=options_)


def _estimator(found: Artifact, model: Any, requirements: tuple[str, ...]) -> Inspected:
    from mmekit_runtime.libraries.scikit_learn import takes_texts

    package = type(model).__module__.partition(".")[0]
    return Inspected(
        path=found.path,
        form=found.form,
        title=_titled(model),
        library=_library(package),
        handler="SklearnHandler",
        requirements=requirements,
        rows=TEXTS if takes_texts(model) else TABLE,
        model=model,
        names=names_of(model),
        width=getattr(model, "n_features_in_", None),
        frames=True,
        coded=_coded(model.get_booster()) if hasattr(model, "get_booster") else frozenset(),
        computes=package == "sklearn" and takes_missing(model) is not None,
    )


def _coded(booster: Any) -> frozenset[str]:
    """Return the columns whose categories XGBoost knows by their numbers alone."""
    names, types = booster.feature_names, booster.feature_types or ()
    return frozenset(
        names[place] if names else str(place) for place, one in enumerate(types) if one == "c"
    )


def _xgboost(found: Artifact) -> Inspected:
    import xgboost

    booster = xgboost.Booster(model_file=str(found.path))
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    names = booster.feature_names
    return Inspected(
        path=found.path,
        form=found.form,
        title=f"Booster ({objective})",
        coded=_coded(booster),
        computes=True,
        library=_library("xgboost"),
        handler="XGBoostHandler",
        requirements=(pin("xgboost"),),
        model=booster,
        names=tuple(names) if names else None,
        width=booster.num_features(),
    )


def _lightgbm(found: Artifact) -> Inspected:
    import lightgbm

    from mmekit_runtime.libraries.boosting import lightgbm_categories

    booster = lightgbm.Booster(model_file=str(found.path))
    # Of one tree: all of them would become objects of Python's, for one word.
    objective = booster.dump_model(num_iteration=1).get("objective", "no objective")
    names = tuple(booster.feature_name())
    # LightGBM's own, where training had none.
    unnamed = names == tuple(f"Column_{place}" for place in range(len(names)))
    categories = lightgbm_categories(booster)
    return Inspected(
        path=found.path,
        form=found.form,
        title=f"Booster ({objective})",
        library=_library("lightgbm"),
        handler="LightGBMHandler",
        categories=(
            None
            if categories is None
            else {names[place]: tuple(values) for place, values in categories.items()}
        ),
        computes=True,
        requirements=(pin("lightgbm"),),
        model=booster,
        names=None if unnamed else names,
        width=booster.num_feature(),
    )


def _catboost(found: Artifact) -> Inspected:
    import catboost

    model = catboost.CatBoost().load_model(str(found.path))
    names = tuple(map(str, model.feature_names_))
    unnamed = names == tuple(str(place) for place in range(len(names)))
    return Inspected(
        path=found.path,
        form=found.form,
        title=f"CatBoost ({model.get_all_params().get('loss_function', 'no loss function')})",
        library=_library("catboost"),
        handler="CatBoostHandler",
        requirements=(pin("catboost"),),
        model=model,
        names=None if unnamed else names,
        width=len(names),
    )


def _onnx(found: Artifact) -> Inspected:
    import onnxruntime

    from mmekit_runtime.libraries.networks import onnx_signature

    session = onnxruntime.InferenceSession(str(found.path), providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    flat = all(one.shape[1:] in ([], [1]) for one in inputs) and len(inputs) > 1
    rank_two = len(inputs) == 1 and len(inputs[0].shape) == 2  # noqa: PLR2004
    lengths = inputs[0].shape[1:]
    width = lengths[0] if rank_two and isinstance(lengths[0], int) else None
    return Inspected(
        path=found.path,
        form=found.form,
        title=f"{_shapes(inputs)} to {_shapes(outputs)}",
        library=_library("onnxruntime"),
        handler="OnnxHandler",
        requirements=(pin("onnxruntime"),),
        rows=TABLE if flat else TENSORS,
        model=session,
        signature=onnx_signature(session) if flat else None,
        names=tuple(one.name for one in inputs) if flat else None,
        width=len(inputs) if flat else width,
        environment=_NO_TELEMETRY,
    )


def _torchscript(found: Artifact) -> Inspected:
    import torch

    load: Any = torch.jit.load
    # It may have been saved on a GPU.
    network = load(str(found.path), map_location="cpu").eval()
    return Inspected(
        path=found.path,
        form=found.form,
        title=str(network.original_name),
        library=_library("torch"),
        handler="TorchScriptHandler",
        requirements=(pin("torch"),),
        rows=TENSORS,
        model=network,
    )


def _setfit(found: Artifact) -> Inspected:
    from mmekit_runtime.libraries.sentences import SetFitHandler

    model = SetFitHandler(found.path.name).load(found.path.parent)
    head = model.model_head
    by_sklearn = type(head).__module__.startswith("sklearn.")
    return Inspected(
        path=found.path,
        form=found.form,
        title=f"SetFitModel with {type(head).__name__}",
        library=_library("setfit"),
        handler="SetFitHandler",
        requirements=(*((pin("scikit-learn"),) if by_sklearn else ()), pin("setfit")),
        rows=TEXTS,
        model=model,
        environment=_OFFLINE,
        shared=kinds.body_of_setfit(found.path),
        runs_code=found.runs_code,
    )


def _sentences(found: Artifact) -> Inspected:
    from mmekit_runtime.libraries.sentences import SentenceTransformersHandler

    model = SentenceTransformersHandler(found.path.name).load(found.path.parent)
    return Inspected(
        path=found.path,
        form=found.form,
        title=f"SentenceTransformer, {model.get_sentence_embedding_dimension()} dimensions",
        library=_library("sentence-transformers"),
        handler="SentenceTransformersHandler",
        requirements=(pin("sentence-transformers"),),
        rows=TEXTS,
        model=model,
        environment=_OFFLINE,
    )


def _titled(model: Any) -> str:
    name = type(model).__name__
    steps = getattr(model, "steps", None)
    if isinstance(steps, list):
        return f"{name} of {', '.join(type(step).__name__ for _, step in steps)}"
    best = getattr(model, "best_estimator_", None)
    return name if best is None else f"{name} with {_titled(best)}"


def _shapes(described: Sequence[Any]) -> str:
    return ", ".join(
        f"{one.name} [{' x '.join(str(n) if isinstance(n, int) else 'n' for n in one.shape)}]"
        for one in described
    )


def _library(package: str) -> str:
    name = _distribution(package)
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return package


@cache
def _providers() -> Mapping[str, Sequence[str]]:
    # It reads the records of all that is installed, which takes a second.
    return importlib.metadata.packages_distributions()


def _distribution(module: str) -> str:
    top = module.partition(".")[0]
    known = {"sklearn": "scikit-learn", "sentence_transformers": "sentence-transformers"}
    if top in known:
        return known[top]
    names = _providers().get(top)
    return names[0] if names else top


def _distributions(modules: set[str]) -> list[str]:
    """Return the installed distributions that those top-level modules come from, sorted."""
    provided = _providers()
    found = {_distribution(module) for module in modules if module in provided}
    return sorted(name for name in found if name != "mmekit")


def _imported_by(code: Sequence[Path]) -> set[str]:
    """Return the top-level modules that files of one's own import."""
    import ast

    names: set[str] = set()
    for path in code:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.partition(".")[0])
    return names
