"""Notebook 8, the short run of it, against a local endpoint as `make serverless` has it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmekit.ports import free_port

# Half a minute on two idle cores.
pytestmark = [pytest.mark.timeout(900), pytest.mark.thorough]

ROOT = Path(__file__).parents[1]
NOTEBOOK = "8_serverless_endpoint"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the executed notebook."""
    folder = tmp_path_factory.mktemp("serverless") / "repository"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("notebooks", "infrastructure"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "env.py", folder)
    (folder / "pyproject.toml").touch()  # no .env above this folder is read
    kept = {name: os.environ[name] for name in os.environ if not name.startswith("MME_")}
    port = free_port()
    up = [sys.executable, "-m", "mmekit.cli", "up", "--port", str(port), "--"]
    execute = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"]
    notebooks = [f"notebooks/{name}.ipynb" for name in ("0_set_up", NOTEBOOK)]
    run = subprocess.run(
        [*up, *execute, "--output-dir", "build/notebooks", *notebooks],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(folder), "MME_QUICK": "1"},
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


def test_the_surplus_is_throttled_without_retries_and_answered_with_them(executed):
    text = printed(executed)
    seconds = re.search(r"an answer shall take (\d+) s", text)[1]
    without, with_retries = (f"8 clients, {seconds} s, at most {n} retries" for n in (0, 100))
    assert f"{without}: 6 answered, 2 throttled, 0 failed" in text
    assert f"{with_retries}: 8 answered, 0 throttled, 0 failed" in text
    assert "(ThrottlingException) when calling the InvokeEndpoint operation" in text


def test_cold_and_warm_requests_are_told_apart(executed):
    assert "cold, ms" in printed(executed)
    assert "Init Duration" in printed(executed)


def test_costs_have_their_source_and_its_date_and_the_break_even_is_drawn(executed):
    text = printed(executed)
    for word in ("AWS Price List", "2026-", "break-even with ml.m5.large", "functions' seconds"):
        assert word in text
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) == 1


def test_what_aws_forbids_is_refused(executed):
    text = printed(executed)
    assert "less than or equal to 200" in text
    assert "accepted" in text


def test_nothing_is_left(executed):
    assert "endpoint, function, role and archive are gone" in printed(executed)
