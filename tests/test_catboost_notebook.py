"""Notebook 6, the short run of it, against a local endpoint as `make catboost` has it."""

from __future__ import annotations

import os

import pytest

from tests.executed_notebook import copy_of_the_repository, execute, on_an_empty_machine, shown_by

# Half a minute a server on two idle cores.
pytestmark = [pytest.mark.timeout(900), pytest.mark.thorough]

NOTEBOOK = "6_catboost_on_two_servers"
WITH_MMS = "MMEKIT_MMS_PYTHON" in os.environ or os.environ.get("MMEKIT_TEST_MMS") == "1"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the executed notebook."""
    names = ("notebooks", "model_packages", "infrastructure", "env.py", "images.json")
    root = tmp_path_factory.mktemp("catboost")
    folder = copy_of_the_repository(root / "repository", *names)
    return execute(folder, NOTEBOOK, {} if WITH_MMS else on_an_empty_machine(root / "empty"))


def test_each_server_is_measured_or_said_to_be_left_out(executed):
    text = shown_by(executed)
    assert "DJL Serving: measured in" in text
    left_out = "Multi Model Server is left out: the environment of the server could not be made"
    assert ("Multi Model Server: measured in" if WITH_MMS else left_out) in text


def test_first_and_later_calls_are_told_apart(executed):
    text = shown_by(executed)
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
    assert "endpoints and archives are gone" in shown_by(executed)
