"""From an artefact to a package folder that is ready to pack."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit.errors import MmekitError, PackageError
from mmekit.scaffold import package_folder
from mmekit.scaffold.artifact import TEXTS
from mmekit.scaffold.package_folder import (
    check_place,
    place,
    unrelated_files,
    with_companions,
    write_package,
    write_signature,
)
from mmekit.scaffold.sample import SampleRows, sample_of
from mmekit.scaffold.source import (
    Source,
    Wishes,
    asked,
    converted,
    offered,
    source_of,
    with_outputs,
)

if TYPE_CHECKING:
    from mmekit.scaffold.artifact import Inspected
    from mmekit_runtime.signature import Signature

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_COMMON_NAME = "setfit"
_TOLERANCE = 1e-6
_TOLERANCE_OF_TEXTS = 1e-4


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
        source = _called(source_of(wishes), artifacts)
        skops_types = offered(source)
        if wishes.convert_to_skops:
            source, skops_types = converted(source, wishes, scratch), None
        sample = sample_of(source.inspected, source.example, source.signature, source.where)
        files = _files(wishes, source, sample, package, artifacts)
        answer = _ask(source, files, sample, scratch)
        source = with_outputs(source, answer)
        files["sample_response.json"] = json.dumps(answer, ensure_ascii=False) + "\n"
        check_place(artifacts, source.inspected, force=wishes.force)
        placed = place(source, artifacts, wishes)
        write_package(package, files, source.inspected.code)
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
        notes=source.notes + unrelated_files(artifacts, source.inspected.name),
    )


def _called(source: Source, artifacts: Path) -> Source:
    """Give an artefact of which a part is shared a name that others have, too.

    Names are a part of what is shared, in model.py as among the artefacts; training often calls
    each folder otherwise.
    """
    inspected = source.inspected
    if not inspected.shared or inspected.path.resolve().parent == artifacts.resolve():
        return source
    return replace(source, inspected=replace(inspected, called=_COMMON_NAME))


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


def _files(
    wishes: Wishes, source: Source, sample: SampleRows, package: Path, artifacts: Path
) -> dict[str, str | bytes]:
    inspected = source.inspected
    tolerance = _TOLERANCE_OF_TEXTS if inspected.environment and inspected.rows == TEXTS else None
    return {
        "model.py": package_folder.model_text(inspected.handler, inspected.name, inspected.options),
        "serving.properties": package_folder.properties_text(
            wishes.name,
            inspected.environment,
            [f"{inspected.name}/{file}" for file in inspected.shared],
        ),
        "requirements.txt": package_folder.requirements_text(inspected.requirements),
        sample.file: sample.body,
        _test_name(wishes.name): package_folder.testing_text(
            wishes.name, _expression(artifacts, package), tolerance or _TOLERANCE
        ),
    }


def _ask(source: Source, files: dict[str, str | bytes], sample: SampleRows, scratch: Path) -> Any:
    """Return the answer of the package's handler to its sample."""
    from mmekit.testing import load_handler

    package, artifacts = scratch / "package", scratch / "artifacts"
    write_package(package, files, source.inspected.code)
    artifacts.mkdir()
    for name, path in with_companions(source.inspected).items():
        (artifacts / name).symlink_to(path.resolve())
    write_signature(artifacts, source.signature)
    expected = _library_s_own(source, len(sample.instances))
    with load_handler(package, artifacts) as model:
        answer = model.invoke(sample.body, content_type=sample.content_type)
    if not answer.ok:
        said = answer.json()
        raise PackageError(
            f"The model fails on its sample request ({answer.status}): "
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


def _library_s_own(source: Source, rows: int) -> Any:
    """Return what the model itself predicts for the sample's rows; None where nobody can ask it."""
    model = source.inspected.model
    if source.example is None or source.inspected.handler != "SklearnHandler":
        return None
    given = asked(source, rows)
    try:
        predicted = model.predict(given) if hasattr(model, "predict") else model.transform(given)
    except Exception as error:
        raise PackageError(
            f"The model itself fails on the example: {type(error).__name__}: {error}",
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
            "The package predicts otherwise than the model itself: this is a bug of mmekit",
            where=where,
            remedy=f"report it, with both answers: {str(given)[:200]} and {str(expected)[:200]}",
        )


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
