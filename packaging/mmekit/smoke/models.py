"""Three models with known answers: two that share a body, and one that needs a library.

All numbers are whole and small, so that every machine answers the same to the last bit. They need
numpy alone. The library is a wheel that is made here; its version has a local part, which no public
index takes, and requirements.txt asks no index at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmekit.archive import Packed, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mmekit.archive import Image

__all__ = ["NAMES", "SAID", "SmokeModel", "write_models"]

SAID = "mme smoke:"
"""What the lines begin with that the models print when they are loaded."""

NAMES = ("body-one", "body-two", "library")
"""The models' names."""

_ROWS = 4096
_COLUMNS = 64
_BODY_SEED = 19
_LIBRARY = "mmekit_smoke_numbers"
_VERSION = "1.0+smoke"
_ASKED = ((3, 1), (4095, 2), (0, 5))

# Whether a model is in a slot it can tell itself: a plain engine never imports this module.
_KIND = '"a slot" if "mmekit_runtime.slots.model_process" in sys.modules else "a plain engine"'

_SHARING = f'''\
"""Part of `mme smoke`: a row of a table that two models share, weighted by numbers of its own."""

import os
import sys

import numpy as np

from mmekit_runtime import Handler


class Weighted(Handler):
    features = 2

    def load_shared(self, folder):
        return np.load(folder / "table.npy"), os.getpid()

    def load(self, folder, shared):
        table, process = shared
        name = (folder / "name.txt").read_text()
        kind = {_KIND}
        print(f"{SAID} {{name}} in {{kind}}, process {{os.getpid()}}, body {{process}}", flush=True)
        return table, np.load(folder / "weights.npy")

    def predict(self, model, rows, parameters):
        table, weights = model
        return table[rows[:, 0].astype(int)] @ weights * rows[:, 1]


handle = Weighted()
'''

_COUNTING = f'''\
"""Part of `mme smoke`: what a library says, which the image does not have."""

import os
import sys

import {_LIBRARY} as numbers

from mmekit_runtime import Handler


class Triangles(Handler):
    features = 2

    def load(self, folder):
        name = (folder / "name.txt").read_text()
        kind = {_KIND}
        print(f"{SAID} {{name}} in {{kind}}, process {{os.getpid()}}, library", flush=True)
        return numbers.triangle

    def predict(self, model, rows, parameters):
        return model(rows[:, 0]) * rows[:, 1]


handle = Triangles()
'''

_NUMBERS = '''\
"""Triangular numbers: a library that no container image has."""


def triangle(n):
    return n * (n + 1) / 2
'''


@dataclass(frozen=True)
class SmokeModel:
    """A model, and what it has to answer.

    Attributes
    ----------
    name
        Its name, which its log line says.
    package, artifacts
        Its folders.
    request, answer
        What is asked, and what has to come back: JSON.
    shares_body
        Whether its body is that of another of the models.
    thin
        Whether its archive names its layers, which the container fetches, or brings them along.
    """

    name: str
    package: Path
    artifacts: Path
    request: bytes
    answer: object
    shares_body: bool
    thin: bool

    @property
    def target(self) -> str:
        """Return the target model: its archive's key."""
        return f"{self.name}.tar.gz"

    def packed(self, folder: Path, image: Image | None, say: Callable[[str], object]) -> Packed:
        """Pack it with its layers; it is loaded here once, to measure it."""
        with _importable(self.package.glob("requirements/*.whl")):
            return pack(
                self.package,
                self.artifacts,
                folder / self.target,
                layers=not self.shares_body,
                thin=self.thin,
                image=image,
                say=say,
            )


def write_models(folder: Path) -> tuple[SmokeModel, ...]:
    """Write packages and artefacts of three models into a folder.

    Returns
    -------
    tuple of SmokeModel
        ``body-one`` and ``body-two``, which are thin and share a table of 2 MiB as their body; and
        ``library``, whose archive brings a layer with a wheel along.
    """
    table = np.random.default_rng(_BODY_SEED).integers(-9, 10, (_ROWS, _COLUMNS)).astype(float)
    models = []
    *sharing, counting = NAMES
    for step, name in enumerate(sharing, 1):
        weights = np.arange(_COLUMNS, dtype=float) * step
        answers = [float(table[row] @ weights * factor) for row, factor in _ASKED]
        model = _model(folder, name, _SHARING, answers, shares_body=True, thin=True)
        np.save(model.artifacts / "table.npy", table)
        np.save(model.artifacts / "weights.npy", weights)
        _append(model.package / "serving.properties", "option.shared=table.npy\n")
        models.append(model)
    answers = [row * (row + 1) / 2 * factor for row, factor in _ASKED]
    model = _model(folder, counting, _COUNTING, answers, shares_body=False, thin=False)
    wheels = model.package / "requirements"
    wheels.mkdir()
    _write_wheel(wheels)
    asked = f"--no-index\n{_LIBRARY.replace('_', '-')}=={_VERSION}\n"
    (model.package / "requirements.txt").write_text(asked, encoding="utf-8")
    models.append(model)
    return tuple(models)


@contextlib.contextmanager
def _importable(wheels: Iterable[Path]) -> Iterator[None]:
    """Have processes that start now import from wheels: whoever measures needs the library, too."""
    before = os.environ.get("PYTHONPATH")
    paths = [*map(str, wheels), *([before] if before else [])]
    if not paths:
        yield
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _model(
    folder: Path,
    name: str,
    code: str,
    answers: list[float],
    *,
    shares_body: bool,
    thin: bool,
) -> SmokeModel:
    package, artifacts = folder / "packages" / name, folder / "artifacts" / name
    for made in (package, artifacts):
        made.mkdir(parents=True)
    request = json.dumps({"instances": _ASKED}).encode()
    answer = {"predictions": answers}
    (package / "model.py").write_text(code, encoding="utf-8")
    (package / "serving.properties").write_text("engine=Python\n", encoding="utf-8")
    (package / "sample_request.json").write_bytes(request)
    (artifacts / "name.txt").write_text(name, encoding="utf-8")
    return SmokeModel(name, package, artifacts, request, answer, shares_body, thin)


def _append(file: Path, line: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + line, encoding="utf-8")


def _write_wheel(folder: Path) -> None:
    stem = f"{_LIBRARY}-{_VERSION}"
    files = {
        f"{_LIBRARY}.py": _NUMBERS,
        f"{stem}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {_LIBRARY.replace('_', '-')}\nVersion: {_VERSION}\n"
        ),
        f"{stem}.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: mmekit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{stem}.dist-info/RECORD"))
    files[f"{stem}.dist-info/RECORD"] = record
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            # A fixed date: the wheel is the same each time, and with it the layer and its name.
            wheel.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text)
