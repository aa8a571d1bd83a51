"""What every package folder has to have, and what every handler does when things go wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmekit.archive.properties import read_properties
from mmekit.errors import ModelLoadError
from mmekit.testing import read_sample

PACKAGES = sorted(
    path.parent for path in (Path(__file__).parents[2] / "model_packages").glob("*/model.py")
)
NAMES = [package.name for package in PACKAGES]


def test_every_model_class_is_known():
    assert NAMES == [
        "cars_boosting",
        "cars_pipeline",
        "catboost_classifier",
        "extra_trees_classifier",
        "linear_regression",
        "multi_output_classifier",
        "resnet_onnx",
        "resnet_torchscript",
        "setfit_classifier",
        "setfit_onnx",
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_engine_and_workers_are_written_out(package):
    properties = read_properties(package)
    assert properties.engine == "Python"
    assert properties.min_workers == 1
    assert properties.max_workers is not None
    assert {"max_idle_time"} <= properties.raw.keys()
    assert properties.model_name == package.name


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_a_sample_request_has_its_answer(package):
    sample = read_sample(package)
    assert sample.body
    assert sample.answer


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_model_py_imports_no_heavy_library(package):
    heavy = "catboost onnxruntime pandas PIL sklearn skops torch setfit transformers"
    code = f"import model, sys; print(*sorted({set(heavy.split())} & set(sys.modules)))"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True
    )
    assert imported.stdout.strip() == ""


@pytest.mark.parametrize(
    "name", sorted({*NAMES} - {"setfit_classifier", "setfit_onnx"})
)  # they have their own
def test_a_package_without_its_artefacts_says_why_it_does_not_load(mme_model, packages, name):
    with pytest.raises(ModelLoadError, match=r"\(424\): .*(No such file|doesn't exist)"):
        mme_model(packages / name)


def test_a_model_that_runs_out_of_memory_answers_507(mme_model, artifacts, packages):
    model = mme_model(packages / "linear_regression", artifacts(Greedy()))
    answer = model.invoke("[0.05]")
    assert answer.status == 507
    assert "out of memory" in answer.message


def test_a_model_that_fails_answers_424_with_its_reason(mme_model, artifacts, packages):
    model = mme_model(packages / "linear_regression", artifacts(Broken()))
    answer = model.invoke("[0.05]")
    assert answer.status == 424
    assert "the coefficients are gone" in answer.json()["error"]


class Greedy:
    def predict(self, _rows):
        raise MemoryError("a matrix of 9 TiB")


class Broken:
    def predict(self, _rows):
        raise ArithmeticError("the coefficients are gone")
