"""`mme init` as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture
def mme(here):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "mmekit.cli", *map(str, arguments)],
            cwd=here,
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_it_says_what_it_found_and_what_comes_next(mme, saved, customers, pipeline):
    customers[0].assign(left=customers[1]).to_csv("customers.csv", index=False)
    done = mme("init", "churn", "--artifact", saved(pipeline), "--example", "customers.csv")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    for sentence in (
        "Found Pipeline of ColumnTransformer, LogisticRegression, scikit-learn 1.7.2",
        "Loading it runs the code in it",
        "skops is the safer format",
        "age (double), income (double), city (string); left of the example dropped",
        "model_packages/churn: model.py with SklearnHandler",
        "2 rows from the example; response",
        "mme pack model_packages/churn --artifacts build/artifacts/churn",
    ):
        assert sentence in said
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_an_error_is_three_lines_and_nothing_is_written(mme, here):
    (here / "notes.txt").write_text("trained on Monday")
    done = mme("init", "churn", "--artifact", "notes.txt")
    assert done.returncode == 1
    assert [line.strip().partition(":")[0] for line in done.stderr.splitlines()] == [
        "mme",
        "where",
        "remedy",
    ]
    assert sorted(entry.name for entry in here.iterdir()) == ["notes.txt"]


def test_help_has_an_example(mme):
    said = " ".join(mme("init", "--help").stdout.split())
    assert "mme init churn --artifact model.joblib --example customers.csv" in said
