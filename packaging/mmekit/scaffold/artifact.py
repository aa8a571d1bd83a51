"""What an artefact is, told from its bytes: suffixes are only what somebody called it."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmekit.errors import PackageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmekit_runtime.signature import Signature

SKLEARN = "sklearn"
SKOPS = "skops"
XGBOOST = "xgboost"
LIGHTGBM = "lightgbm"
CATBOOST = "catboost"
ONNX = "onnx"
TORCHSCRIPT = "torchscript"
SETFIT = "setfit"
SENTENCES = "sentence_transformers"
MLFLOW = "mlflow"

_HEAD = 4096
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
_NOT_SERVED = {
    b"\x89HDF\r\n\x1a\n": (
        "an HDF5 file, such as Keras writes",
        "convert it to ONNX (tf2onnx), or write a model.py of your own",
    ),
    b"GGUF": ("a GGUF file of a language model", "serve it with an engine for language models"),
    b"binf": (
        "a model in the binary format that XGBoost gave up",
        "load it with the XGBoost that wrote it and save it as model.ubj",
    ),
    b"PAR1": ("a Parquet file: data, no model", "give it as --example"),
    b"\x93NUMPY": ("a NumPy array: data, no model", "save the fitted estimator"),
}
_SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json")
_SETFIT_FILES = ("model_head.pkl", "config_setfit.json")
_MLMODEL = "MLmodel"
# No comma, no pattern and nothing that a file of properties spells otherwise.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.+@-]+")
TABLE, TEXTS, TENSORS = "a table", "texts", "arrays"


@dataclass(frozen=True)
class Artifact:
    """A file or folder that holds one model.

    Attributes
    ----------
    path
        The file or folder itself.
    kind
        What loads it: one of the constants of this module.
    form
        How it was saved, for people: ``a pickle``, ``XGBoost's JSON``.
    runs_code
        Whether loading it runs whatever code the file says, as a pickle does.
    """

    path: Path
    kind: str
    form: str
    runs_code: bool = False


def recognise(path: Path) -> Artifact:
    """Say what a file or folder holds, without running anything of it.

    Raises
    ------
    PackageError
        There is nothing there, or nothing that a handler is known for; the remedy says what to do.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise PackageError(
            "The artefact does not exist", where=str(path), remedy="name the file or folder"
        )
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if head.startswith(b"PK"):
        return _zip(path)
    return _file(path, head)


def _file(path: Path, head: bytes) -> Artifact:
    for magic, (what, remedy) in _NOT_SERVED.items():
        if head.startswith(magic):
            raise PackageError(f"This is {what}", where=str(path), remedy=remedy)
    if head.startswith(b"CBM1"):
        return Artifact(path, CATBOOST, "CatBoost's own format")
    if head.startswith((b"tree\nversion=", b"tree\r\nversion=")):
        return Artifact(path, LIGHTGBM, "LightGBM's text")
    if head.lstrip().startswith(b"{"):
        return _braces(path, head)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return Artifact(path, SKLEARN, _pickle_form(head), runs_code=True)
    for magic, compressor in _COMPRESSED.items():
        if head.startswith(magic):
            return Artifact(path, SKLEARN, f"a pickle compressed by {compressor}", runs_code=True)
    if _is_onnx(path, head):
        return Artifact(path, ONNX, "ONNX")
    raise _unknown(path)


def _braces(path: Path, head: bytes) -> Artifact:
    if b'"learner"' in head:
        return Artifact(path, XGBOOST, "XGBoost's JSON")
    # UBJSON has JSON's braces; its names have a length before them, and no quotes.
    if head.startswith(b"{") and b"learner{" in head:
        return Artifact(path, XGBOOST, "XGBoost's UBJSON")
    # A JSON file may begin with another member, and be indented.
    if path.stat().st_size < 1 << 30 and b'"gradient_booster"' in path.read_bytes():
        return Artifact(path, XGBOOST, "XGBoost's JSON")
    if b"oblivious_trees" in head or b'"features_info"' in head:
        raise PackageError(
            "This is a CatBoost model as JSON",
            where=str(path),
            remedy='save it as model.cbm: model.save_model("model.cbm")',
        )
    if b"__metadata__" in head:
        raise PackageError(
            "This is a safetensors file: weights without the network that they belong to",
            where=str(path),
            remedy="name the folder that the model was saved in",
        )
    raise _unknown(path)


def _pickle_form(head: bytes) -> str:
    if b"cloudpickle" in head:
        return "a pickle by cloudpickle"
    return "a pickle by joblib" if b"joblib" in head else "a pickle"


def _zip(path: Path) -> Artifact:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise PackageError(f"The zip file is broken: {error}", where=str(path)) from error
    # A folder around everything is called as torch likes.
    inside = {name.partition("/")[2] for name in names}
    if "schema.json" in names:
        return Artifact(path, SKOPS, "skops")
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return Artifact(path, TORCHSCRIPT, "TorchScript")
    if "data.pkl" in inside or "archive_format" in inside:
        raise PackageError(
            "This is a PyTorch file that needs the network's own classes",
            where=str(path),
            remedy='save it as TorchScript: torch.jit.script(model.eval()).save("model.pt"), or '
            "torch.jit.trace with an example; or export it to ONNX",
        )
    if "config.json" in names and "metadata.json" in names:
        raise PackageError(
            "This is a Keras model",
            where=str(path),
            remedy="convert it to ONNX (tf2onnx), or write a model.py of your own",
        )
    raise _unknown(path)


def _folder(path: Path) -> Artifact:
    def has(*names: str) -> bool:
        return any((path / name).is_file() for name in names)

    if has(_MLMODEL):
        return Artifact(path, MLFLOW, "a model folder of MLflow")
    # Before sentence-transformers, whose files are in such a folder as well.
    if has(*_SETFIT_FILES):
        # The head is a pickle of scikit-learn.
        return Artifact(path, SETFIT, "a model folder of SetFit", runs_code=has("model_head.pkl"))
    if has(*_SENTENCE_FILES):
        return Artifact(path, SENTENCES, "a model folder of sentence-transformers")
    if has("saved_model.pb"):
        raise PackageError(
            "This is a SavedModel of TensorFlow",
            where=str(path),
            remedy="convert it to ONNX (tf2onnx), or write a model.py of your own",
        )
    return _only_one_in(path)


def body_of_setfit(folder: Path) -> tuple[str, ...]:
    """Return the files and folders of a SetFit folder that are the sentence model's.

    None where ``option.shared`` could not name them all.
    """
    from mmekit_runtime.libraries.sentences import NOT_OF_THE_BODY

    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name not in NOT_OF_THE_BODY
        and (entry.is_file() or any(one.is_file() for one in entry.rglob("*")))
    )
    return tuple(names) if all(map(_PLAIN_NAME.fullmatch, names)) else ()


def _only_one_in(folder: Path) -> Artifact:
    """Return the one artefact among a folder's files and folders."""
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "measured.json":
            continue
        try:
            found.append(recognise(entry))
        except PackageError:
            continue
    if len(found) == 1:
        return found[0]
    if not found:
        raise _unknown(folder)
    names = ", ".join(one.path.name for one in found)
    raise PackageError(
        f"The folder holds several models: {names}",
        where=str(folder),
        remedy=f"name one of them: --artifact {found[0].path}",
    )


def _is_onnx(path: Path, head: bytes) -> bool:
    # ModelProto: field 1 (ir_version, a varint) comes first in what every exporter writes.
    if len(head) < 2 or head[0] != 0x08 or not 1 <= head[1] <= 20:  # noqa: PLR2004
        return False
    try:
        import onnxruntime
    except ImportError:
        return path.suffix.lower() == ".onnx"
    try:
        # A protobuf has no magic number: only loading it tells.
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a tree of its own
        if path.suffix.lower() != ".onnx":
            return False
        raise PackageError(
            f"onnxruntime does not load it: {' '.join(str(error).split())}", where=str(path)
        ) from error
    return True


def _unknown(path: Path) -> PackageError:
    return PackageError(
        "`mme init` does not recognise this artefact",
        where=str(path),
        remedy="it knows scikit-learn (joblib, pickle, cloudpickle, skops), XGBoost (.ubj, .json), "
        "LightGBM (.txt), CatBoost (.cbm), ONNX, TorchScript, and folders of SetFit, "
        "sentence-transformers and MLflow; for anything else write model.py by hand, as "
        "docs/handlers.md shows",
    )


@dataclass(frozen=True)
class Inspected:
    """An artefact that was loaded once.

    Attributes
    ----------
    path
        The file or folder that the package takes.
    form
        How it was saved, for people.
    title
        The model's class, and what it consists of.
    library
        The library's name and version.
    handler, options
        The handler of mmekit_runtime, and what it is given beside the artefact's name.
    requirements
        Lines of requirements.txt.
    rows
        What a row is: `TABLE`, `TEXTS` or `TENSORS`.
    model
        The loaded model.
    names, width
        The model's own columns and their number, where it knows them.
    environment
        What belongs into ``option.env``.
    shared
        The files and folders in it that other models have as well, for ``option.shared``.
    called
        Its name in the package, where that is not the one that it has.
    signature
        The columns and their types, where the file itself names them: ONNX.
    categories
        The categories of columns, in the order of training, where the file names them: LightGBM.
    coded
        The names of columns of categories that the file knows by their places alone: XGBoost.
    computes
        Whether every column without a name is a number to the model.
    frames
        Whether the handler can give the model a DataFrame.
    wrote
        The version of scikit-learn that the file says wrote it; None where it says none.
    code
        Files and folders of modules that travel in the package.
    runs_code
        Whether loading it runs code that is in it.
    """

    path: Path
    form: str
    title: str
    library: str
    handler: str
    requirements: tuple[str, ...]
    rows: str = TABLE
    model: Any = None
    names: tuple[str, ...] | None = None
    width: int | None = None
    options: Mapping[str, Any] | None = None
    environment: Mapping[str, str] | None = None
    shared: tuple[str, ...] = ()
    called: str | None = None
    signature: Signature | None = None
    categories: Mapping[str, tuple[Any, ...]] | None = None
    coded: frozenset[str] = frozenset()
    computes: bool = False
    frames: bool = False
    wrote: str | None = None
    code: tuple[Path, ...] = ()
    runs_code: bool = False

    @property
    def name(self) -> str:
        """What the package calls the file or folder."""
        return self.called or self.path.name
