"""Notebook 8, the short run of it, against a local endpoint as `make serverless` has it."""

from __future__ import annotations

import re

import pytest

from tests.executed_notebook import copy_of_the_repository, execute, shown_by

# Half a minute on two idle cores.
pytestmark = [pytest.mark.timeout(900), pytest.mark.thorough]

NOTEBOOK = "8_serverless_endpoint"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the executed notebook."""
    folder = tmp_path_factory.mktemp("serverless") / "repository"
    copy_of_the_repository(folder, "notebooks", "infrastructure", "env.py")
    return execute(folder, NOTEBOOK, {})


def test_the_surplus_is_throttled_without_retries_and_answered_with_them(executed):
    text = shown_by(executed)
    seconds = re.search(r"an answer shall take (\d+) s", text)[1]
    without, with_retries = (f"8 clients, {seconds} s, at most {n} retries" for n in (0, 100))
    assert f"{without}: 6 answered, 2 throttled, 0 failed" in text
    assert f"{with_retries}: 8 answered, 0 throttled, 0 failed" in text
    assert "(ThrottlingException) when calling the InvokeEndpoint operation" in text


def test_cold_and_warm_requests_are_told_apart(executed):
    assert "cold, ms" in shown_by(executed)
    assert "Init Duration" in shown_by(executed)


def test_costs_have_their_source_and_its_date_and_the_break_even_is_drawn(executed):
    text = shown_by(executed)
    for word in ("AWS Price List", "2026-", "break-even with ml.m5.large", "functions' seconds"):
        assert word in text
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) == 1


def test_what_aws_forbids_is_refused(executed):
    text = shown_by(executed)
    assert "less than or equal to 200" in text
    assert "accepted" in text


def test_nothing_is_left(executed):
    assert "endpoint, function, role and archive are gone" in shown_by(executed)
