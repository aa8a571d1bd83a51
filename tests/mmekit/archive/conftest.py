"""A ridge model in a package of three short files, and its artefacts."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mmekit.archive import Measured, MeasuredMemory, measure, read_package
from mmekit.archive.measure import fingerprint
from mmekit.archive.package import merge, read_artifacts

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.archive.contents import Contents

MODEL = """\
import joblib

from mmekit_runtime import Handler


class RidgeModel(Handler):
    def load(self, folder):
        return joblib.load(folder / "model.joblib")

    def predict(self, model, rows, parameters):
        return model.predict(rows)


handle = RidgeModel()
"""


@dataclass(frozen=True)
class Workshop:
    """A package folder and an artefact folder, and where the archive goes."""

    package: Path
    artifacts: Path
    archive: Path

    def write(self, name: str, text: str | bytes) -> None:
        """Write a file of the package; an indented text is dedented."""
        target = self.package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())

    def contents(self) -> Contents:
        """Return the files of both folders, as packing sees them."""
        return merge(read_package(self.package), read_artifacts(self.artifacts))

    def pretend_measured(self, **changes: object) -> None:
        """Put a measurement of these very files beside them, without loading anything."""
        content: dict[str, object] = {
            "python": "3.11.9",
            "libraries": {"scikit-learn": "1.7.2", "numpy": "2.4.3", "joblib": "1.5.3"},
            "required": ("joblib", "scikit-learn"),
            "imports": ("joblib", "numpy", "sklearn"),
            "modules": ("sklearn.linear_model",),
            "preload": ("joblib", "sklearn", "sklearn.linear_model"),
            "threads": {},
            "memory": MeasuredMemory(
                120_000_000, 100_000_000, 150_000_000, "smaps_rollup", 20_000_000
            ),
            "fork_failure": None,
            "fingerprint": fingerprint(self.contents()),
        }
        measured = Measured(**(content | changes))  # type: ignore[arg-type]
        (self.artifacts / "measured.json").write_bytes(measured.to_json())


def build(root: Path) -> Workshop:
    """Make the package, fit the model, and leave out the measurement."""
    # Imported here: every process that collects the tests reads this file.
    import joblib
    from sklearn.linear_model import Ridge

    workshop = Workshop(root / "ridge", root / "artifacts", root / "out" / "ridge.tar.gz")
    workshop.write("model.py", MODEL)
    workshop.write("serving.properties", "engine=Python\nminWorkers=1\nretry_threshold=10\n")
    workshop.write("requirements.txt", "scikit-learn==1.7.2\njoblib\n")
    workshop.write("sample_request.json", json.dumps({"instances": [[1.0, 2.0]]}))
    workshop.write("sample_response.json", json.dumps({"predictions": [3.0]}))
    workshop.artifacts.mkdir()
    rows = np.arange(12.0).reshape(6, 2)
    joblib.dump(Ridge().fit(rows, rows.sum(axis=1)), workshop.artifacts / "model.joblib")
    return workshop


@pytest.fixture
def workshop(tmp_path):
    return build(tmp_path)


@pytest.fixture(scope="session")
def measurement(tmp_path_factory):
    """Return what a real process shows of the ridge model."""
    workshop = build(tmp_path_factory.mktemp("measured"))
    return measure(workshop.package, workshop.artifacts)
