"""What a model runs: files in folders, modules' names, and DJL's handlers without code."""

from __future__ import annotations

import hashlib

import pytest
from sklearn.linear_model import Ridge

from tests import skops_files

SAYS = """
from pathlib import Path
from djl_python import Output

with Path({count!r}).open("a") as file:
    file.write(".")

def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add(__name__)
"""
PROPERTIES = (
    "engine=Python\noption.entryPoint=djl_python.sklearn_handler\nminWorkers=1\nmaxWorkers=1\n"
    "option.skops_trusted_types=numpy.ndarray\n"
)
# predict_fn has other parameters than DJL looks for, and output_fn those.
FUNCTIONS = """
import json, sys

def predict_fn(rows, estimator):
    raise ValueError("DJL takes no notice of this")

def output_fn(prediction, accept):
    return json.dumps([__name__ in sys.modules, "model" in sys.modules, prediction.tolist()])
"""


def name_of(path):
    """Return what DJL 0.36 calls the module of a file."""
    return f"model_{hashlib.md5(str(path).encode(), usedforsecurity=False).hexdigest()[:8]}"


@pytest.mark.parametrize("entry", ["code/inference.py", "other.py"])
def test_a_file_that_is_named_is_run_under_a_name_of_its_own(server, model_folder, entry, tmp_path):
    folder = model_folder("raise RuntimeError", option__entryPoint=entry)
    file = folder / entry
    file.parent.mkdir(exist_ok=True)
    file.write_text(SAYS.format(count=str(tmp_path / "count")))
    # model.py is looked at for formatters, and may not be there.
    (folder / "model.py").unlink()

    assert server.load("named", folder).status_code == 200, server.log()
    assert server.invoke("named", "x").text == name_of(file)


def test_model_py_is_run_under_a_name_of_its_own_three_times(server, model_folder, tmp_path):
    folder = model_folder(SAYS.format(count=str(tmp_path / "count")), minWorkers=1, maxWorkers=1)

    assert server.load("named", folder).status_code == 200, server.log()
    assert server.invoke("named", "x").text == name_of(folder / "model.py")
    # In a worker slot, which the process of the model has for all, once.
    assert (tmp_path / "count").read_text() == ("." if server.slots else "...")


@pytest.fixture
def ridge(tmp_path):
    """A folder with a model for DJL's handler, of nobody's packing."""
    folder = tmp_path / "ridge"
    folder.mkdir()
    (folder / "serving.properties").write_text(PROPERTIES)
    skops_files.dump(Ridge().fit([[0.0, 1.0], [1.0, 0.0]], [0.0, 2.0]), folder / "model.skops")
    return folder


def test_djls_handler_answers_as_djl_has_it(server, ridge):
    assert server.load("ridge", ridge).status_code == 200, server.log()
    json = {"Content_Type": "application/json", "Accept": "application/json"}

    answer = server.invoke("ridge", '{"inputs": [[1.0, 2.0]]}', **json)
    assert answer.status_code == 200
    assert answer.json().keys() == {"predictions"}
    assert "content-type" not in answer.headers
    csv = server.invoke("ridge", "1.0,2.0\n0.5,1.0\n", Content_Type="text/csv", Accept="text/csv")
    assert (csv.status_code, len(csv.text.split())) == (200, 2)
    assert csv.headers["content-type"] == "text/csv"
    # Where a packed archive has 400 and 406, DJL's own has what its engine says of exceptions.
    for body, accept in (("{", "application/json"), ('{"inputs": [[1.0, 2.0]]}', "text/html")):
        refused = server.invoke("ridge", body, Content_Type="application/json", Accept=accept)
        assert refused.status_code == 424
        assert refused.json()["message"] == "invoke handler failure"


def test_djls_handler_is_taken_for_a_model_that_it_can_load(server, ridge):
    properties = PROPERTIES.replace("option.entryPoint=djl_python.sklearn_handler\n", "")
    (ridge / "serving.properties").write_text(properties)
    (ridge / "model.py").write_text(FUNCTIONS)

    assert server.load("ridge", ridge).status_code == 200, server.log()
    json = {"Content_Type": "application/json", "Accept": "application/json"}
    answer = server.invoke("ridge", '{"inputs": [[1.0, 2.0], [0.0, 1.0]]}', **json)

    assert answer.status_code == 200, answer.text
    known, as_model, predictions = answer.json()
    assert (known, as_model, len(predictions)) == (True, False, 2)
