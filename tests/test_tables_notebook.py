"""Notebook 9 alone, against a local endpoint as `make tables` has it."""

from __future__ import annotations

import pytest

from tests.executed_notebook import copy_of_the_repository, execute, shown_by

# Half a minute on two idle cores.
pytestmark = [pytest.mark.timeout(900), pytest.mark.thorough]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Return all that the notebook prints and shows."""
    root = tmp_path_factory.mktemp("tables")
    folder = copy_of_the_repository(root / "repository", "notebooks", "model_packages", "env.py")
    return shown_by(execute(folder, "9_tables", {}))


def test_the_notebook_makes_the_endpoint_that_is_not_there_and_deletes_it(text):
    assert "was made for this notebook" in text
    assert "archives and endpoint are gone" in text


def test_three_formats_are_shown(text):
    for word in ('"Horsepower":null', "98.0,,ford pinto", "application/vnd.apache.parquet"):
        assert word in text


def test_a_bad_record_is_told_column_row_value_and_what_was_expected(text):
    assert "expected a number or nothing in the column Horsepower" in text
    assert "received the text 'strong' in row 1, column Horsepower" in text
    assert "expected one of 'Europe', 'Japan', 'USA' in the column Origin" in text
    assert "received a missing value in row 1, column Origin" in text
