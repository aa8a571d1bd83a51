"""The notebooks; seven of them are executed by `mme demo` as a user runs it."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest

from tests.executed_notebook import copy_of_the_repository, read_notebook, shown_by

# The demonstration takes a minute on two idle cores.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
DEMO = [*NAMES[:6], "9_tables"]  # the others measure, and have tests of their own
READ = ("notebooks", "model_packages", "env.py")
MODELS = [
    "linear_regression",
    "extra_trees_classifier",
    "multi_output_classifier",
    "setfit_classifier",
    "cars_pipeline",
    "cars_boosting",
]


def start_demo(folder):
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("MME_")}
    return subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", "demo"],
        cwd=folder,
        env=environment | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_has_env_before_any_library_that_may_be_missing(path):
    """It is env that has the shell say what to install, in place of a traceback."""
    cells = [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]
    imported = [
        name.partition(".")[0]
        for node in ast.walk(ast.parse(cells[0].source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
        )
    ]
    before = imported[: imported.index("env")]
    assert [name for name in before if name not in sys.stdlib_module_names] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_kept_without_outputs_and_with_ids(path):
    import nbformat

    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_no_notebook_asks_which_target_it_is_for(path):
    code = "".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "code")
    assert "if env.target" not in code
    assert "127.0.0.1" not in code
    assert "localhost" not in code


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = copy_of_the_repository(tmp_path_factory.mktemp("demo") / "repository", *READ)
    process = start_demo(folder)
    output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    return folder / "build", output


@pytest.mark.thorough
def test_the_demo_ends_with_a_table_of_cold_and_warm_calls(demo):
    build, output = demo
    results = json.loads((build / "results.json").read_text())
    assert [result["model"] for result in results] == MODELS
    for result in results:
        assert 0 < result["warm_ms"] < result["cold_ms"]
    table = output[output.index("model class") :]
    for name in MODELS:
        assert name in table
    assert '["delivery", "billing"]' in table


@pytest.mark.thorough
def test_the_demo_saves_every_notebook_with_its_outputs(demo):
    build, _ = demo
    for name in DEMO:
        notebook = read_notebook(build / "notebooks" / f"{name}.ipynb")
        counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))


@pytest.mark.thorough
def test_the_demo_leaves_artefacts_and_archives(demo):
    build, _ = demo
    for name in MODELS:
        assert (build / "artifacts" / name / "measured.json").is_file()
        with tarfile.open(build / "archives" / f"{name}.tar.gz") as archive:
            names = archive.getnames()
        assert {"model.py", "serving.properties", "manifest.json"} <= set(names)


@pytest.mark.thorough
def test_the_demo_shows_a_plot_wherever_a_model_is_evaluated(demo):
    build, _ = demo
    for name in DEMO[1:]:
        notebook = read_notebook(build / "notebooks" / f"{name}.ipynb")
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.thorough
def test_tables_are_asked_at_the_endpoint_of_the_others_before_it_is_deleted(demo):
    build, _ = demo
    text = shown_by(read_notebook(build / "notebooks" / "9_tables.ipynb"))
    assert "is that of notebook 5" in text
    assert "received the text 'Italy' in row 1, column Origin" in text
    others = shown_by(read_notebook(build / "notebooks" / "5_multi_model_endpoint.ipynb"))
    assert "endpoint, config, model and archives are gone" in others


def break_notebook(folder, name, source):
    import nbformat

    path = folder / "notebooks" / f"{name}.ipynb"
    notebook = read_notebook(path)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = source
    nbformat.write(notebook, path)


def test_a_cell_that_fails_is_named_with_the_end_of_its_error(tmp_path):
    folder = copy_of_the_repository(tmp_path / "repository", *READ)
    break_notebook(folder, "0_set_up", "raise ValueError('the bucket is full')")
    break_notebook(folder, "4_setfit_classifier", "import time; time.sleep(600)")
    process = start_demo(folder)
    output, _ = process.communicate(timeout=800)
    assert process.returncode == 1
    assert "0_set_up.ipynb stopped in code cell 1" in output
    assert '"The settings"' in output
    assert "ValueError: the bucket is full" in output
    assert "remedy:" in output
    assert "demo.py" not in output, "the error is the notebook's: no traceback of ours"
    assert (folder / "build" / "notebooks" / "0_set_up.ipynb").is_file()


@pytest.mark.thorough
def test_an_interrupted_demo_leaves_no_process(tmp_path):
    folder = copy_of_the_repository(tmp_path / "repository", *READ)
    for name in ("0_set_up", "4_setfit_classifier"):
        source = f"import time; open('started-{name}', 'w').close(); time.sleep(600)"
        break_notebook(folder, name, source)
    process = start_demo(folder)
    wait_until(lambda: len(list(folder.glob("started-*"))) == 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3, "two kernels and an endpoint"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert not [child for child in children if runs(child)]


def runs(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
