"""A loaded artefact with all that is known of it, before anything is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmekit.errors import PackageError
from mmekit.scaffold import artifact as kinds
from mmekit.scaffold.artifact import TENSORS, TEXTS, Artifact, Inspected, recognise
from mmekit.scaffold.example import (
    ExampleRows,
    features_of,
    read_example,
    signature_beside,
    signature_for,
)
from mmekit.scaffold.inspection import inspect, pin
from mmekit.scaffold.mlflow_folder import MlflowFolder, read_mlflow
from mmekit.scaffold.pickles import convert, unknown_types
from mmekit.scaffold.sample import texts_of

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit_runtime.signature import Signature

_TAKEN = frozenset(
    {
        "layers",
        "layers.json",
        "manifest.json",
        "measured.json",
        "mmekit_layers",
        "mmekit_runtime",
        "model.py",
        "requirements.txt",
        "serving.properties",
        "signature.json",
        "sitecustomize.py",
    }
)


@dataclass(frozen=True)
class Wishes:
    """What a package is to be made of.

    Attributes
    ----------
    name
        The package's name, and the model's.
    artifact
        The file or folder that training wrote.
    example
        A file of rows as the model is asked.
    output, artifacts
        The package folder and the artefact folder; None for model_packages/NAME and
        build/artifacts/NAME.
    target
        The example's column that is no feature.
    code
        Modules of one's own that a pickle asks for.
    trusted
        Types that skops does not know and the user does.
    convert_to_skops
        Whether a pickle becomes a skops file.
    link
        Whether the artefact is linked, not copied.
    force
        Whether files of an earlier package are replaced.
    """

    name: str
    artifact: Path
    example: Path | None = None
    output: Path | None = None
    artifacts: Path | None = None
    target: str | None = None
    code: tuple[Path, ...] = ()
    trusted: tuple[str, ...] = ()
    convert_to_skops: bool = False
    link: bool = False
    force: bool = False


@dataclass(frozen=True)
class Source:
    """A loaded artefact, its example and its signature, before anything is written."""

    inspected: Inspected
    example: ExampleRows | None
    signature: Signature | None
    where: str
    notes: tuple[str, ...] = ()


def source_of(wishes: Wishes) -> Source:
    """Load the artefact, and find out what it takes.

    Raises
    ------
    PackageError
        It is nothing that a handler is known for, cannot be loaded, or the example does not fit it.
    """
    # A folder may be called "." where somebody is in it.
    path = wishes.artifact
    found = recognise(path if path.name not in ("", "..") else path.resolve())
    _check_name(found.path.name, found.path)
    if found.kind == kinds.MLFLOW:
        return _of_mlflow(read_mlflow(found.path), wishes)
    inspected = inspect(found, code=wishes.code, trusted=wishes.trusted)
    for own in inspected.code:
        _check_name(own.name, own)
    return _with_version(_with_example(inspected, wishes.example, None, wishes))


def _check_name(name: str, path: Path) -> None:
    if name in _TAKEN:
        raise PackageError(
            f"{name} is the name of a file that init or packing writes",
            where=str(path),
            remedy="rename it; a module that a pickle imports, in training too",
        )


def _of_mlflow(folder: MlflowFolder, wishes: Wishes) -> Source:
    code = (*wishes.code, *folder.code)
    if folder.native is None:
        inspected = _behind_pyfunc(folder)
    else:
        inspected = inspect(folder.native, code=code, trusted=(*wishes.trusted, *folder.trusted))
    said = f"{inspected.form}, in a model folder of MLflow ({folder.flavour} flavour)"
    inspected = replace(inspected, form=said if folder.native else inspected.form)
    example = wishes.example or folder.example
    source = _with_example(inspected, example, folder.signature, wishes)
    notes = []
    if folder.trusted:
        notes.append(
            f"MLmodel says to trust these types, which skops does not know: "
            f"{', '.join(folder.trusted)}."
        )
    return replace(source, notes=(*source.notes, *notes))


def _behind_pyfunc(folder: MlflowFolder) -> Inspected:
    try:
        from mlflow import pyfunc

        model = pyfunc.load_model(str(folder.folder.resolve()), suppress_warnings=True)
    except ModuleNotFoundError as error:
        raise PackageError(
            f"Reading this artefact takes {error.name}, which is not installed",
            where=str(folder.folder),
            remedy="install what its requirements.txt names, and mlflow-skinny",
        ) from error
    signature = folder.signature
    version = f" {folder.version}" if folder.version else ""
    return Inspected(
        path=folder.folder,
        form="a model folder of MLflow",
        title=f"{folder.flavour}{version} behind MLflow's pyfunc",
        library=pin("mlflow-skinny").replace("==", " "),
        handler="MLflowHandler",
        requirements=_with_line(folder.requirements, "pandas"),
        model=model,
        names=None if signature is None else signature.names,
        width=None if signature is None else len(signature.inputs),
        frames=True,
        runs_code=True,
    )


def _with_example(
    inspected: Inspected, file: Path | None, written: Signature | None, wishes: Wishes
) -> Source:
    where = str(file or wishes.artifact)
    example = None if file is None else read_example(file)
    if inspected.rows == TEXTS:
        if example is not None:
            example = features_of(example, None, None, wishes.target, where)
            texts_of(example, where)
        return Source(inspected, example, None, where)
    if inspected.rows == TENSORS:
        return Source(_with_shape(inspected, example), example, None, where)
    trained = signature_beside(inspected.path)
    names = inspected.names if trained is None else trained.names
    if example is not None:
        example = features_of(example, names, inspected.width, wishes.target, where)
    frame = None if example is None else example.frame
    signature = trained or signature_for(
        inspected, frame, written if wishes.example is None else None
    )
    source = Source(inspected, example, signature, where)
    if signature is not None and trained is None:
        source = replace(
            source,
            signature=_with_frame(source, signature),
            notes=_on_categories(inspected, signature),
        )
    return _with_pandas(source)


def _on_categories(inspected: Inspected, signature: Signature) -> tuple[str, ...]:
    if not inspected.coded:
        return ()
    said = "; ".join(
        f"{column.name}: {', '.join(map(str, column.categories or ()))}"
        for column in signature.inputs
        if column.name in inspected.coded
    )
    note = (
        f"The model knows categories by their places alone. Taken from the example: {said}. Were "
        "there others in training, or in another order, its answers are wrong: "
        "mmekit.signature(X) of the training's table is safer."
    )
    return (note,)


def _with_frame(source: Source, signature: Signature) -> Signature:
    """Ask a model that tells no names whether it takes an array: one may select by name."""
    if signature.frame or source.example is None or source.inspected.names is not None:
        return signature
    if source.inspected.handler != "SklearnHandler" or not source.example.names:
        return signature
    frame = source.example.frame.head(1)
    if _answers(source.inspected.model, frame.to_numpy()):
        return signature
    return replace(signature, frame=_answers(source.inspected.model, frame))


def _answers(model: Any, rows: Any) -> bool:
    try:
        model.predict(rows) if hasattr(model, "predict") else model.transform(rows)
    except Exception:  # noqa: BLE001  whatever a model raises for rows that it does not take
        return False
    return True


def _with_version(source: Source) -> Source:
    """Say it where another scikit-learn wrote the model than the one that loads it here."""
    wrote, library = source.inspected.wrote, source.inspected.library
    name, _, installed = library.partition(" ")
    if name != "scikit-learn" or wrote in (None, installed):
        return source
    note = (
        f"scikit-learn {wrote} wrote the model, and {installed} is installed here: the sample's "
        f"answer is that of {installed}. requirements.txt asks for {wrote}."
    )
    return replace(source, notes=(*source.notes, note))


def _with_pandas(source: Source) -> Source:
    if source.signature is None or not (source.signature.frame and source.inspected.frames):
        return source
    lines = _with_line(source.inspected.requirements, "pandas")
    return replace(source, inspected=replace(source.inspected, requirements=lines))


def _with_line(lines: tuple[str, ...], name: str) -> tuple[str, ...]:
    return lines if any(re.match(rf"{name}\b", line) for line in lines) else (*lines, pin(name))


def _with_shape(inspected: Inspected, example: ExampleRows | None) -> Inspected:
    """Say the shape and type of a row where the file does not: TorchScript takes anything."""
    if inspected.handler != "TorchScriptHandler" or example is None:
        return inspected
    import numpy as np
    import torch

    rows = example.rows if example.frame is None else example.frame.to_numpy().tolist()
    if any(isinstance(row, dict) for row in rows):
        return inspected
    array = np.asarray(rows)
    options: dict[str, Any] = {"shape": array.shape[1:]}
    try:
        inspected.model(torch.from_numpy(array.astype(np.float32)))
    except Exception:  # noqa: BLE001  whatever the network raises for a type that it does not take
        if array.dtype.kind in "iu":
            options["dtype"] = "int64"
    return replace(inspected, options=options)


def offered(source: Source) -> tuple[str, ...] | None:
    """Return what skops would have to be told to trust; None where it cannot hold the model."""
    lines = source.inspected.requirements
    # Classes that cloudpickle keeps by value are in no module that skops could name.
    if not _is_pickle(source) or any(line.startswith("cloudpickle") for line in lines):
        return None
    return unknown_types(source.inspected.model)


def converted(source: Source, wishes: Wishes, scratch: Path) -> Source:
    """Make a skops file of a pickle, in a folder for what does not last.

    Raises
    ------
    PackageError
        It is no pickle, there is no example to compare on, or skops cannot hold the model.
    """
    where = str(source.inspected.path)
    if not _is_pickle(source):
        raise PackageError(
            "Only a pickle of scikit-learn can become a skops file",
            where=where,
            remedy="leave --convert-to-skops out",
        )
    if source.example is None:
        raise PackageError(
            "Without an example, the skops file cannot be compared with the pickle",
            where=where,
            remedy="give rows to compare the answers on: --example FILE",
        )
    file = scratch / f"{source.inspected.path.stem}.skops"
    convert(source.inspected.model, asked(source), file, wishes.trusted, where)
    inspected = inspect(Artifact(file, kinds.SKOPS, "skops"), trusted=wishes.trusted)
    kept = (*source.inspected.requirements, *inspected.requirements)
    requirements = tuple(line for line in dict.fromkeys(kept) if line != "joblib")
    return replace(
        source,
        inspected=replace(inspected, requirements=requirements, code=source.inspected.code),
    )


def _is_pickle(source: Source) -> bool:
    return source.inspected.handler == "SklearnHandler" and source.inspected.runs_code


def asked(source: Source, rows: int | None = None) -> Any:
    """Return the example's rows as the model itself takes them."""
    example = source.example
    if example is None:
        raise ValueError("there is no example")
    if source.inspected.rows == TEXTS:
        return texts_of(example, source.where)[:rows]
    if example.frame is None:
        return list(example.rows)[:rows]
    frame = example.frame if rows is None else example.frame.head(rows)
    wants_frame = source.signature is not None and source.signature.frame
    return frame if wants_frame or source.inspected.names is not None else frame.to_numpy()


def with_outputs(source: Source, answer: Any) -> Source:
    """Say what the model gives, as far as its answer to the sample tells."""
    signature, values = source.signature, answer.get("predictions")
    if signature is None or signature.outputs or not isinstance(values, list):
        return source
    from mmekit.signatures import signature as signature_of

    try:
        import pandas as pd

        frame = pd.DataFrame(values)
        series = frame[0].rename("prediction") if list(frame.columns) == [0] else frame
        outputs = signature_of(pd.DataFrame({"row": range(len(values))}), series).outputs
    except (ImportError, PackageError, ValueError, KeyError):
        return source  # nested lists, or whatever no column holds
    return replace(source, signature=replace(signature, outputs=outputs))
