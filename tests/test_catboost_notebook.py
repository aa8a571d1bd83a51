"""Notebook 6, the short run of it, against a local endpoint as `make catboost` has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmekit.engine import engine_folder
from mmekit.ports import free_port

# Half a minute a server on two idle cores.
pytestmark = [pytest.mark.timeout(900), pytest.mark.thorough]

ROOT = Path(__file__).parents[1]
NOTEBOOK = "6_catboost_on_two_servers"
WITH_MMS = "MMEKIT_MMS_PYTHON" in os.environ or os.environ.get("MMEKIT_TEST_MMS") == "1"


def without_mms(empty):
    """Return the variables of a machine without network on which nothing has been made yet."""
    return {
        "XDG_CACHE_HOME": str(empty),
        "UV_CACHE_DIR": str(empty / "uv"),
        "UV_OFFLINE": "1",
        "MMEKIT_DJL_PYTHON": str(engine_folder()),  # but this is there
    }


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the executed notebook."""
    folder = tmp_path_factory.mktemp("catboost") / "repository"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("notebooks", "model_packages", "infrastructure"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("env.py", "images.json"):
        shutil.copy(ROOT / name, folder)
    (folder / "pyproject.toml").touch()  # no .env above this folder is read
    kept = {name: os.environ[name] for name in os.environ if not name.startswith("MME_")}
    alone = {} if WITH_MMS else without_mms(folder.parent / "empty")
    up = [sys.executable, "-m", "mmekit.cli", "up", "--port", str(free_port()), "--"]
    execute = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"]
    notebooks = [f"notebooks/{name}.ipynb" for name in ("0_set_up", NOTEBOOK)]
    run = subprocess.run(
        [*up, *execute, "--output-dir", "build/notebooks", *notebooks],
        cwd=folder,
        env={**kept, **alone, "PYTHONPATH": str(folder), "MME_QUICK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    import nbformat  # takes long in each process that collects the tests

    return nbformat.read(folder / "build" / "notebooks" / f"{NOTEBOOK}.ipynb", as_version=4)


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text", "") for output in outputs]
    return "\n".join(texts + [output.get("data", {}).get("text/plain", "") for output in outputs])


def test_each_server_is_measured_or_said_to_be_left_out(executed):
    text = printed(executed)
    assert "DJL Serving: measured in" in text
    left_out = "Multi Model Server is left out: the environment of the server could not be made"
    assert ("Multi Model Server: measured in" if WITH_MMS else left_out) in text


def test_first_and_later_calls_are_told_apart(executed):
    text = printed(executed)
    for word in ("p90", "p95", "first", "later", "99.99%", "100%"):
        assert word in text


def test_every_phase_has_its_time(executed):
    tables = [
        output["data"]["text/plain"]
        for cell in executed.cells
        if "phase_table(" in cell.source
        for output in cell.get("outputs", [])
    ]
    assert len(tables) == 2
    for table in tables:
        for phase in ("init", "initialize", "handle_out", "preprocess", "inference", "handle_in"):
            assert phase in table
        # Only what happens once has no time of later calls.
        servers = 2 if "Multi Model Server" in table else 1
        assert table.count("NaN") == 2 * servers


def test_charts_are_drawn(executed):
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3


def test_nothing_is_left_of_endpoints_and_archives(executed):
    assert "endpoints and archives are gone" in printed(executed)
