"""From an artefact to a package folder that is ready to pack."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit.errors import MmekitError, PackageError
from mmekit.scaffold import artifact as kinds
from mmekit.scaffold import package_files
from mmekit.scaffold.artifact import Artifact, recognise
from mmekit.scaffold.columns import beside, signature_for
from mmekit.scaffold.conversion import convert, unknown_types
from mmekit.scaffold.example import Example, features_of, read_example
from mmekit.scaffold.inspection import TENSORS, TEXTS, Inspected, inspect, pin
from mmekit.scaffold.mlflow_folder import MlflowFolder, read_mlflow
from mmekit.scaffold.sample import SampleRows, sample_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_runtime.signature import Signature

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_TOLERANCE = 1e-6
_TOLERANCE_OF_TEXTS = 1e-4
_SIGNATURE_FILE = "signature.json"


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
class Initialised:
    """A new package.

    Attributes
    ----------
    package, artifacts
        The two folders.
    inspected
        What the artefact is.
    placed
        What became of the artefact: ``copied``, ``linked``, ``converted`` or ``left``.
    signature
        What it takes; None where rows have no columns.
    sample
        The rows of the sample request.
    answer
        The handler's answer to them.
    left_out
        Columns of the example that are no features.
    test
        The file of the test.
    skops_types
        For a pickle that skops can hold: the types in it that skops does not know; None where it
        cannot hold it, or is not a pickle.
    notes
        What else the user should know, a sentence each.
    """

    package: Path
    artifacts: Path
    inspected: Inspected
    placed: str
    signature: Signature | None
    sample: SampleRows
    answer: Any
    left_out: tuple[str, ...]
    test: Path
    skops_types: tuple[str, ...] | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Source:
    """A loaded artefact, its example and its signature, before anything is written."""

    inspected: Inspected
    example: Example | None
    signature: Signature | None
    where: str
    notes: tuple[str, ...] = ()


def init(wishes: Wishes) -> Initialised:
    """Write a package folder for an artefact, and lay the artefact beside its signature.

    The package is made in a folder of its own, asked its sample there, and moved to its place only
    when that is answered.

    Raises
    ------
    PackageError
        The artefact is nothing that a handler is known for or cannot be loaded, the example does
        not fit it, or the package is there already.
    ModelLoadError
        The handler does not load the model.
    """
    package = wishes.output or Path("model_packages") / wishes.name
    artifacts = wishes.artifacts or Path("build") / "artifacts" / wishes.name
    _check_places(wishes, package)
    with tempfile.TemporaryDirectory(prefix="mmekit-init-") as temporary:
        scratch = Path(temporary).resolve()
        source = _source(wishes)
        skops_types = unknown_types(source.inspected.model) if _is_pickle(source) else None
        if wishes.convert_to_skops:
            source, skops_types = _converted(source, wishes, scratch), None
        sample = sample_of(source.inspected, source.example, source.signature, source.where)
        files = _files(wishes, source, sample, package, artifacts)
        answer = _ask(source, files, sample, scratch)
        source = _with_outputs(source, answer)
        files["sample_response.json"] = json.dumps(answer, ensure_ascii=False) + "\n"
        _check_artifacts(artifacts, source.inspected.path, force=wishes.force)
        placed = _place(source, artifacts, wishes)
        _write_package(package, files, source.inspected.code)
    return Initialised(
        package=package,
        artifacts=artifacts,
        inspected=source.inspected,
        placed=placed,
        signature=source.signature,
        sample=sample,
        answer=answer,
        left_out=() if source.example is None else source.example.left_out,
        test=package / _test_name(wishes.name),
        skops_types=skops_types,
        notes=source.notes + _strangers(artifacts, source.inspected.path),
    )


def _check_places(wishes: Wishes, package: Path) -> None:
    if not _NAME.fullmatch(wishes.name):
        raise PackageError(
            "A model's name consists of letters, digits, dots, hyphens and underscores, and begins "
            "and ends with a letter or digit",
            where=wishes.name,
            remedy="choose another name",
        )
    if package.exists() and not wishes.force and (package.is_file() or any(package.iterdir())):
        raise PackageError(
            "There is a package already",
            where=str(package),
            remedy="choose another name or --output; --force replaces the files that init writes",
        )


def _source(wishes: Wishes) -> _Source:
    found = recognise(wishes.artifact)
    if found.kind == kinds.MLFLOW:
        return _of_mlflow(read_mlflow(found.path), wishes)
    inspected = inspect(found, code=wishes.code, trusted=wishes.trusted)
    return _with_example(inspected, wishes.example, None, wishes)


def _of_mlflow(folder: MlflowFolder, wishes: Wishes) -> _Source:
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
) -> _Source:
    where = str(file or wishes.artifact)
    example = None if file is None else read_example(file)
    if inspected.rows == TEXTS:
        if example is not None:
            example = features_of(example, None, None, wishes.target, where)
            texts_of(example, where)
        return _Source(inspected, example, None, where)
    if inspected.rows == TENSORS:
        return _Source(_with_shape(inspected, example), example, None, where)
    trained = beside(inspected.path)
    names = inspected.names if trained is None else trained.names
    if example is not None:
        example = features_of(example, names, inspected.width, wishes.target, where)
    frame = None if example is None else example.frame
    signature = trained or signature_for(
        inspected, frame, written if wishes.example is None else None
    )
    source = _Source(inspected, example, signature, where)
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


def _with_frame(source: _Source, signature: Signature) -> Signature:
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


def _with_pandas(source: _Source) -> _Source:
    if source.signature is None or not (source.signature.frame and source.inspected.frames):
        return source
    lines = _with_line(source.inspected.requirements, "pandas")
    return replace(source, inspected=replace(source.inspected, requirements=lines))


def _with_outputs(source: _Source, answer: Any) -> _Source:
    """Say what the model gives, as far as its answer to the sample tells."""
    signature, values = source.signature, answer.get("predictions")
    if signature is None or signature.outputs or not isinstance(values, list):
        return source
    import pandas as pd

    from mmekit.signatures import signature as signature_of

    try:
        frame = pd.DataFrame(values)
        series = frame[0].rename("prediction") if list(frame.columns) == [0] else frame
        outputs = signature_of(pd.DataFrame({"row": range(len(values))}), series).outputs
    except (PackageError, ValueError, KeyError):
        return source  # nested lists, or whatever no column holds
    return replace(source, signature=replace(signature, outputs=outputs))


def _with_line(lines: tuple[str, ...], name: str) -> tuple[str, ...]:
    return lines if any(re.match(rf"{name}\b", line) for line in lines) else (*lines, pin(name))


def _with_shape(inspected: Inspected, example: Example | None) -> Inspected:
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


def _is_pickle(source: _Source) -> bool:
    return source.inspected.handler == "SklearnHandler" and source.inspected.runs_code


def _converted(source: _Source, wishes: Wishes, scratch: Path) -> _Source:
    where = str(source.inspected.path)
    if not _is_pickle(source):
        raise PackageError(
            "Only a pickle of scikit-learn can become a skops file",
            where=where,
            remedy="leave --convert-to-skops out",
        )
    if source.example is None:
        raise PackageError(
            "Nobody can know whether the skops file answers as the pickle does",
            where=where,
            remedy="give rows to compare the answers on: --example FILE",
        )
    file = scratch / f"{source.inspected.path.stem}.skops"
    convert(source.inspected.model, _asked(source), file, wishes.trusted, where)
    inspected = inspect(Artifact(file, kinds.SKOPS, "skops"), trusted=wishes.trusted)
    kept = (*source.inspected.requirements, *inspected.requirements)
    requirements = tuple(line for line in dict.fromkeys(kept) if line != "joblib")
    return replace(
        source,
        inspected=replace(inspected, requirements=requirements, code=source.inspected.code),
    )


def _asked(source: _Source, rows: int | None = None) -> Any:
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


def _files(
    wishes: Wishes, source: _Source, sample: SampleRows, package: Path, artifacts: Path
) -> dict[str, str]:
    inspected = source.inspected
    tolerance = _TOLERANCE_OF_TEXTS if inspected.environment and inspected.rows == TEXTS else None
    return {
        "model.py": package_files.model_text(
            inspected.handler, inspected.path.name, inspected.options
        ),
        "serving.properties": package_files.properties_text(wishes.name, inspected.environment),
        "requirements.txt": package_files.requirements_text(inspected.requirements),
        "sample_request.json": sample.body.decode(),
        _test_name(wishes.name): package_files.testing_text(
            wishes.name, _expression(artifacts, package), tolerance or _TOLERANCE
        ),
    }


def _ask(source: _Source, files: dict[str, str], sample: SampleRows, scratch: Path) -> Any:
    """Return the answer of the package's handler to its sample."""
    from mmekit.testing import load_handler

    package, artifacts = scratch / "package", scratch / "artifacts"
    _write_package(package, files, source.inspected.code)
    artifacts.mkdir()
    for path in _with_companions(source.inspected):
        (artifacts / path.name).symlink_to(path.resolve())
    _write_signature(artifacts, source.signature)
    expected = _library_s_own(source, len(sample.instances))
    with load_handler(package, artifacts) as model:
        answer = model.invoke(sample.body)
    if not answer.ok:
        said = answer.json()
        raise PackageError(
            f"The model does not answer its sample ({answer.status}): "
            f"{said.get('error') or said.get('message')}",
            where=source.where,
            remedy="give rows that it can answer: --example FILE"
            if sample.made_up
            else "give rows as training saw them; CSV and JSON keep no types, so that dates and "
            "categories are texts: a Parquet file keeps them",
        )
    content = answer.json()
    _compare(content, expected, source.where)
    return content


def _library_s_own(source: _Source, rows: int) -> Any:
    """Return what the model itself predicts for the sample's rows; None where nobody can ask it."""
    model = source.inspected.model
    if source.example is None or source.inspected.handler != "SklearnHandler":
        return None
    asked = _asked(source, rows)
    try:
        predicted = model.predict(asked) if hasattr(model, "predict") else model.transform(asked)
    except Exception as error:
        raise PackageError(
            f"The model itself does not answer the example: {type(error).__name__}: {error}",
            where=source.where,
            remedy="give rows as training saw them; CSV and JSON keep no types, so that dates and "
            "categories are texts: a Parquet file keeps them",
        ) from error
    predicted = predicted.toarray() if hasattr(predicted, "toarray") else predicted
    return predicted.tolist() if hasattr(predicted, "tolist") else None


def _compare(content: Any, expected: Any, where: str) -> None:
    from mmekit.testing import agree

    if expected is None or not isinstance(content, dict):
        return
    given = content.get("predictions")
    if json.dumps(expected, default=str) != json.dumps(given) and not agree(given, expected, 1e-9):
        raise MmekitError(
            "The package answers otherwise than the model itself: this is a fault of mmekit's",
            where=where,
            remedy=f"report it, with both answers: {str(given)[:200]} and {str(expected)[:200]}",
        )


def _check_artifacts(artifacts: Path, path: Path, *, force: bool) -> None:
    there = artifacts / path.name
    if there.exists() and there.resolve() != path.resolve() and not force:
        raise PackageError(
            "The artefact folder has another file of that name",
            where=str(there),
            remedy="choose another folder (--artifacts), or --force to replace it",
        )


def _place(source: _Source, artifacts: Path, wishes: Wishes) -> str:
    artifacts.mkdir(parents=True, exist_ok=True)
    inspected, placed = source.inspected, "copied"
    if wishes.convert_to_skops:
        placed = "converted"
    elif wishes.link:
        placed = "linked"
    for path in _with_companions(inspected):
        there = artifacts / path.name
        if there.exists() and there.resolve() == path.resolve():
            placed = "left"
            continue
        _remove(there)
        if placed == "linked":
            there.symlink_to(path.resolve())
        elif path.is_dir():
            shutil.copytree(path, there)
        else:
            shutil.copyfile(path, there)
    _write_signature(artifacts, source.signature)
    return placed


def _with_companions(inspected: Inspected) -> Sequence[Path]:
    path = inspected.path
    if inspected.handler != "OnnxHandler":
        return [path]
    # Weights beyond two gigabytes are in files of their own, called after the first.
    return sorted(one for one in path.parent.iterdir() if one.name.startswith(path.name))


def _write_signature(artifacts: Path, signature: Signature | None) -> None:
    if signature is not None:
        (artifacts / _SIGNATURE_FILE).write_bytes(signature.to_json())


def _write_package(package: Path, files: dict[str, str], code: Sequence[Path]) -> None:
    package.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (package / name).write_text(text, encoding="utf-8")
    for path in code:
        there = package / path.name
        if there.exists() and there.resolve() == path.resolve():
            continue
        _remove(there)
        if path.is_dir():
            shutil.copytree(path, there, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copyfile(path, there)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _strangers(artifacts: Path, path: Path) -> tuple[str, ...]:
    """Say what else is in the artefact folder: it will be in the archive."""
    own = {path.name, _SIGNATURE_FILE, "measured.json"}
    others = sorted(
        entry.name for entry in artifacts.iterdir() if not entry.name.startswith(path.name)
    )
    strangers = [name for name in others if name not in own]
    if not strangers:
        return ()
    return (f"{artifacts} also holds {', '.join(strangers)}: packing takes that along.",)


def _test_name(name: str) -> str:
    return f"test_{re.sub(r'[^A-Za-z0-9_]', '_', name)}.py"


def _expression(artifacts: Path, package: Path) -> str:
    """Return the artefact folder as the package's test finds it."""
    there, here = artifacts.resolve(), package.resolve()
    common = Path(os.path.commonpath([there, here]))
    if common == Path(common.anchor):
        return f'Path("{there.as_posix()}")'
    up = len(here.relative_to(common).parts)
    start = "PACKAGE" if up == 0 else f"PACKAGE.parents[{up - 1}]"
    return " / ".join([start, *(f'"{part}"' for part in there.relative_to(common).parts)])
