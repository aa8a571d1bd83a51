"""Artefacts of the formats that DJL 0.36's handlers load, and what they refuse."""

from __future__ import annotations

import os
import pickle
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SKLEARN_FORMATS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "skops": ("skops",),
        "joblib": ("joblib", "jl"),
        "pickle": ("pkl", "pickle"),
        "cloudpickle": ("pkl", "pickle", "cloudpkl"),
    }
)
XGBOOST_FORMATS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "json": ("json",),
        "ubj": ("ubj",),
        "pickle": ("pkl", "pickle"),
        "xgb": ("xgb", "model", "bst"),
    }
)
RECOMMENDING = ("model.skops", "model.joblib", "model.pkl", "model.pickle", "model.cloudpkl")
"""PyModel.java, hasModelFile: beside these DJL 0.36 takes the handler for scikit-learn."""

RAW = "convention_as_is"
"""Tells a handler that the archive was not packed by mmekit; a server adds it."""

# What packing puts beside a model.json.
_NO_MODELS = frozenset({"manifest.json", "measured.json", "signature.json"})


def load_sklearn(folder: Path, properties: Mapping[str, Any]) -> Any:
    """Load what SklearnHandler.initialize loads (djl_python/sklearn_handler.py).

    Raises
    ------
    ValueError
        An unknown ``model_format``; skops without ``skops_trusted_types``; another format without
        ``trust_insecure_model_files``; several files that could be meant.
    FileNotFoundError
        There is no file of the format.
    """
    kind = properties.get("model_format", "skops")
    file = _found(folder, kind, SKLEARN_FORMATS)
    if kind == "skops":
        trusted = [one.strip() for one in properties.get("skops_trusted_types", "").split(",")]
        if not any(trusted):
            raise ValueError(
                "option.skops_trusted_types must be set to load skops models, such as "
                "option.skops_trusted_types=sklearn.linear_model._ridge.Ridge,numpy.ndarray"
            )
        import skops.io

        return skops.io.load(file, trusted=[one for one in trusted if one])
    if str(properties.get("trust_insecure_model_files", "false")).lower() != "true":
        raise ValueError(
            f"option.trust_insecure_model_files must be true to load the format {kind}: its files "
            "run code when they are loaded, those of skops do not"
        )
    if kind == "joblib":
        import joblib

        return joblib.load(file)
    # cloudpickle writes pickles; loading one imports it where it is needed.
    return _unpickled(file)


def load_xgboost(folder: Path, properties: Mapping[str, Any]) -> Any:
    """Load what XGBoostHandler.initialize loads (djl_python/xgboost_handler.py).

    Raises
    ------
    ValueError
        An unknown ``model_format``; a format other than json and ubj without
        ``trust_insecure_model_files``; several files that could be meant.
    FileNotFoundError
        There is no file of the format.
    """
    environment = os.environ
    kind = properties.get("model_format") or environment.get("MODEL_FORMAT") or "json"
    file = _found(folder, kind, XGBOOST_FORMATS)
    if kind not in ("json", "ubj"):
        trust = properties.get("trust_insecure_model_files")
        trust = trust or environment.get("TRUST_INSECURE_MODEL_FILES") or "false"
        if trust.lower() != "true":
            raise ValueError(
                f"option.trust_insecure_model_files must be true to load the format {kind}: only "
                "json and ubj run no code when they are loaded"
            )
    if kind == "pickle":
        return _unpickled(file)
    import xgboost

    model = xgboost.Booster()
    model.load_model(str(file))
    return model


def _found(folder: Path, kind: str, formats: Mapping[str, Sequence[str]]) -> Path:
    """Return the one file of a format in the folder (djl_python/utils.py, find_model_file)."""
    suffixes = formats.get(kind)
    if suffixes is None:
        raise ValueError(f"option.model_format is {kind!r}, but may be one of {', '.join(formats)}")
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.removeprefix(".") in suffixes and path.name not in _NO_MODELS
    ]
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ValueError(f"several files have the format {kind}, and one is expected: {names}")
    if not files:
        wanted = ", ".join(f"*.{suffix}" for suffix in suffixes)
        raise FileNotFoundError(f"there is no file of the format {kind} ({wanted}) in the folder")
    return files[0]


def _unpickled(file: Path) -> Any:
    with file.open("rb") as stream:
        return pickle.load(stream)  # noqa: S301  the package says that it is to be trusted
