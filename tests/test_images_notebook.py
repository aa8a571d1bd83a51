"""Notebook 7, the short run of it, against a local endpoint as `make images` has it."""

from __future__ import annotations

import ast
import os
import re
import shutil

import pytest

from tests.executed_notebook import copy_of_the_repository, execute, on_an_empty_machine, shown_by

WITH_MXNET = os.environ.get("MMEKIT_TEST_MMS") == "1" and "MMEKIT_MMS_PYTHON" not in os.environ

pytestmark = [
    # A minute on two idle cores; with Multi Model Server four.
    pytest.mark.timeout(900),
    pytest.mark.thorough,
]

NOTEBOOK = "7_images"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the executed notebook."""
    names = ("notebooks", "model_packages", "infrastructure", "env.py", "images.json")
    root = tmp_path_factory.mktemp("images")
    folder = copy_of_the_repository(root / "repository", *names)
    alone = {} if WITH_MXNET else on_an_empty_machine(root / "empty")
    yield execute(folder, NOTEBOOK, alone, left_out=("MMEKIT_MMS_PYTHON",))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def text(executed):
    """Return all that the notebook prints and shows."""
    return shown_by(executed)


def test_mxnet_serves_or_is_said_to_be_left_out(text):
    left_out = "MXNet is left out, and ONNX plays its part: the environment of the server could not"
    assert ("MXNet runs on" if WITH_MXNET else left_out) in text
    server = "MXNet on Multi Model Server" if WITH_MXNET else "ONNX on DJL Serving"
    assert f"{server}: in service" in text


def test_a_first_call_is_told_from_later_ones(text):
    assert "first call, ms" in text
    assert "later calls, ms" in text


def test_a_hundred_calls_of_twelve_models_are_tallied(text):
    assert "12 models" in text
    counts = re.findall(r"^ *(\d+)  probability=[\d.]+, class=.+$", text, re.MULTILINE)
    assert sum(map(int, counts)) == 100


def test_what_is_deleted_is_served_as_long_as_it_is_loaded(text):
    assert re.search(r"deleted, but loaded: probability=[\d.]+, class=", text)
    assert "deleted before its first call: Failed to download model data" in text


def test_models_are_unloaded_when_memory_runs_out(text):
    metrics = ast.literal_eval(re.search(r"^\{'ModelLoadingTime'.*\}$", text, re.MULTILINE)[0])
    assert metrics["ModelLoadingTime"] > 6
    assert metrics["ModelUnloadingTime"] > 0
    assert 0 < metrics["LoadedModelCount"] < 6


def test_formats_are_compared(executed, text):
    assert "SetFit is left out: notebook 4 has not run" in text
    (table,) = (
        output["data"]["text/plain"]
        for cell in executed.cells
        if "table = pd.DataFrame(rows).T" in cell.source
        for output in cell.outputs
        if "data" in output
    )
    for word in ("TorchScript", "ONNX", "first load, ms", "further model, MiB"):
        assert word in table
    assert ("MXNet" in table) == WITH_MXNET


def test_charts_are_drawn(executed):
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    # The digits, one of them, the hundred calls, the comparison.
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4


def test_nothing_is_left_of_endpoints_and_archives(text):
    assert "endpoints and archives are gone" in text
