"""The files of a new package folder, and where its artefact is laid."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from mmekit.errors import PackageError
from mmekit_runtime.signature import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmekit.scaffold.artifact import Inspected
    from mmekit.scaffold.source import Source, Wishes
    from mmekit_runtime.signature import Signature

_PROPERTIES = """\
# Written out: left to guess, DJL Serving takes the engine from file names.
engine=Python
# Worker slots: all workers share one process, so that one more costs milliseconds and 0.1 MiB. The
# server adds workers when requests queue up, and ends them after ten minutes without work.
minWorkers=1
maxWorkers=16
max_idle_time=600
# Without it, one time-out marks the model as failed, and SageMaker may replace the instance.
retry_threshold=10
# The name under which the model appears in the server's log.
option.modelName={name}
"""

_ON_SHARED = """\
# The sentence model: models that have the same one share it, so that it is stored, shipped and
# loaded once.
"""
_CONTINUED = ",\\\n  "

_TEST = '''\
"""{name} answers its sample request as it did when the package was made."""

from pathlib import Path

from mmekit.testing import agree, read_sample

PACKAGE = Path(__file__).resolve().parent
ARTIFACTS = {artifacts}


def test_the_sample_request_gets_the_sample_answer(mme_model):
    sample = read_sample(PACKAGE)
    model = mme_model(PACKAGE, ARTIFACTS)
    answer = model.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200, answer.text
    assert agree(answer.json(), sample.answer, tolerance={tolerance:g})
'''


def model_text(handler: str, file: str, options: Mapping[str, Any] | None) -> str:
    """Return model.py: three lines."""
    further = "".join(f", {name}={_literal(value)}" for name, value in (options or {}).items())
    return (
        f"from mmekit_runtime import {handler}\n\nhandle = {handler}({_literal(file)}{further})\n"
    )


def properties_text(
    name: str, environment: Mapping[str, str] | None, shared: Sequence[str] = ()
) -> str:
    """Return serving.properties; ``shared`` are names among the artefacts."""
    text = _PROPERTIES.format(name=name)
    if environment:
        pairs = ",".join(f"{variable}={value}" for variable, value in environment.items())
        text += f"# What the libraries read when they are imported.\noption.env={pairs}\n"
    if shared:
        text += f"{_ON_SHARED}option.shared={_CONTINUED.join(shared)}\n"
    return text


def requirements_text(lines: Sequence[str]) -> str:
    """Return requirements.txt."""
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def testing_text(name: str, artifacts: str, tolerance: float) -> str:
    """Return the test, which says where the artefacts are as ``artifacts``, an expression."""
    return _TEST.format(name=name, artifacts=artifacts, tolerance=tolerance)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(_literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)


def check_place(artifacts: Path, inspected: Inspected, *, force: bool) -> None:
    """Expect that the artefact takes no other file's place; PackageError if it would."""
    there = artifacts / inspected.name
    if there.exists() and there.resolve() != inspected.path.resolve() and not force:
        raise PackageError(
            "The artefact folder has another file of that name",
            where=str(there),
            remedy="choose another folder (--artifacts), or --force to replace it",
        )


def place(source: Source, artifacts: Path, wishes: Wishes) -> str:
    """Lay the artefact and its signature into their folder.

    Returns
    -------
    str
        What became of the artefact: ``copied``, ``linked``, ``converted`` or ``left``.
    """
    artifacts.mkdir(parents=True, exist_ok=True)
    inspected, placed = source.inspected, "copied"
    if wishes.convert_to_skops:
        placed = "converted"
    elif wishes.link:
        placed = "linked"
    for name, path in with_companions(inspected).items():
        there = artifacts / name
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
    write_signature(artifacts, source.signature)
    return placed


def with_companions(inspected: Inspected) -> dict[str, Path]:
    """Return the artefact, and what it cannot do without, by the names in the package."""
    path = inspected.path
    if inspected.handler != "OnnxHandler":
        return {inspected.name: path}
    # Weights beyond two gigabytes are in files of their own, called after the first.
    found = sorted(one for one in path.parent.iterdir() if one.name.startswith(path.name))
    return {one.name: one for one in found}


def write_signature(artifacts: Path, signature: Signature | None) -> None:
    """Write signature.json, if there is something to say."""
    if signature is not None:
        (artifacts / FILE_NAME).write_bytes(signature.to_json())


def write_package(package: Path, files: Mapping[str, str | bytes], code: Sequence[Path]) -> None:
    """Write a package folder's files, and copy the modules that travel in it."""
    package.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (package / name).write_bytes(content if isinstance(content, bytes) else content.encode())
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


def unrelated_files(artifacts: Path, name: str) -> tuple[str, ...]:
    """Say what else is in the artefact folder than one artefact: it will be in the archive."""
    own = {name, FILE_NAME, "measured.json"}
    others = sorted(entry.name for entry in artifacts.iterdir() if not entry.name.startswith(name))
    unrelated_files = [name for name in others if name not in own]
    if not unrelated_files:
        return ()
    return (f"{artifacts} also holds {', '.join(unrelated_files)}: packing takes that along.",)
