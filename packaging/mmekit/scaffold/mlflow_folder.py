"""A model folder of MLflow, taken apart: the model itself, its signature, its example, its code."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmekit.errors import PackageError
from mmekit.scaffold import artifact as kinds
from mmekit.scaffold.artifact import Artifact, recognise
from mmekit_runtime.signature import Signature

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "MLmodel"

# Where a flavour says its file is (mlflow.<flavour>.save_model), and what it is otherwise.
_FILES = {
    "sklearn": ("pickled_model", "model.pkl"),
    "xgboost": ("data", "model.ubj"),
    "lightgbm": ("data", "model.lgb"),
    "catboost": ("data", "model.cb"),
    "onnx": ("data", "model.onnx"),
    "sentence_transformers": ("data", "model.sentence_transformer"),
}
# What every environment of MLflow lists, whether the model needs it or not.
_MLFLOW = ("mlflow", "mlflow-skinny")


@dataclass(frozen=True)
class MlflowFolder:
    """What an MLmodel file says.

    Attributes
    ----------
    folder
        The folder.
    flavour, version
        The library's flavour, and the library's version that it names; ``python_function`` where
        nothing else is known.
    native
        The model in the library's own format, where a handler reads that; None otherwise.
    signature
        What the model takes and gives; None where nobody wrote it down, or it is of arrays.
    example
        The file of the input example; None where there is none.
    code
        Modules that were saved with the model.
    trusted
        For skops: the types that whoever saved the model trusted.
    """

    folder: Path
    flavour: str
    version: str | None
    native: Artifact | None
    signature: Signature | None
    example: Path | None
    code: tuple[Path, ...]
    trusted: tuple[str, ...]

    @property
    def requirements(self) -> tuple[str, ...]:
        """The lines of requirements.txt, with mlflow-skinny for the whole of mlflow."""
        file = self.folder / "requirements.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        own = [line for line in lines if line.split("==")[0].strip() not in _MLFLOW]
        return (f"mlflow-skinny=={_mlflow_version()}", *own)


def read_mlflow(folder: Path) -> MlflowFolder:
    """Read a folder's MLmodel.

    Raises
    ------
    PackageError
        It cannot be read, or has no flavour that Python could load.
    """
    import yaml

    file = folder / FILE_NAME
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        flavours = dict(content["flavors"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise PackageError(
            f"{FILE_NAME} cannot be read: {error}",
            where=str(file),
            remedy="name the folder that mlflow.<flavour>.save_model wrote",
        ) from error
    flavour = next((name for name in _FILES if name in flavours), "python_function")
    if flavour not in flavours:
        raise PackageError(
            f"The model has the flavours {', '.join(flavours) or 'none'}, and none of them for "
            "Python",
            where=str(file),
            remedy="save it with one of MLflow's flavours for Python",
        )
    settings = flavours[flavour]
    others = [name for name in flavours if name not in ("python_function", flavour)]
    return MlflowFolder(
        folder=folder,
        flavour=flavour if flavour in _FILES or not others else others[0],
        version=next((str(v) for k, v in settings.items() if k.endswith("_version")), None),
        native=_native(folder, flavour, settings),
        signature=_signature(content.get("signature"), file),
        example=_example(folder, content.get("saved_input_example_info")),
        code=_code(folder, flavours),
        trusted=tuple(settings.get("skops_trusted_types") or ()),
    )


def _native(folder: Path, flavour: str, settings: dict[str, Any]) -> Artifact | None:
    if flavour not in _FILES:
        return None
    setting, usual = _FILES[flavour]
    path = folder / str(settings.get(setting) or usual)
    try:
        found = recognise(path)
    except PackageError:
        return None
    return None if found.kind == kinds.MLFLOW else found


def _signature(content: Any, file: Path) -> Signature | None:
    if not isinstance(content, dict) or not content.get("inputs"):
        return None
    try:
        signature = Signature.from_json(json.dumps(content))
    except ValueError as error:
        raise PackageError(f"The signature cannot be read: {error}", where=str(file)) from error
    return signature if signature.inputs else None


def _example(folder: Path, described: Any) -> Path | None:
    if not isinstance(described, dict) or "artifact_path" not in described:
        return None
    path = folder / str(described["artifact_path"])
    return path if path.is_file() else None


def _code(folder: Path, flavours: dict[str, Any]) -> tuple[Path, ...]:
    place = flavours.get("python_function", {}).get("code")
    if not place or not (folder / place).is_dir():
        return ()
    return tuple(
        entry
        for entry in sorted((folder / place).iterdir())
        if entry.suffix == ".py" or (entry / "__init__.py").is_file()
    )


def _mlflow_version() -> str:
    for name in reversed(_MLFLOW):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise ModuleNotFoundError("mlflow-skinny is not installed", name="mlflow-skinny")
