"""What docs/benchmarks.md says was measured is what was published."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("worker_slots", "slot_runs.report"),
        ("at_scale", "slot_runs.scale"),
        ("peers", "peer_runs.report"),
    ],
)
def test_the_table_in_the_page_is_that_of_the_published_figures(name, module, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    content = json.loads((ROOT / "docs" / "benchmarks" / f"{name}.json").read_text())
    begin = f"<!-- figures: written by benchmarks/{name}.py --publish -->\n\n"
    _, _, rest = (ROOT / "docs" / "benchmarks.md").read_text().partition(begin)
    assert rest.startswith(importlib.import_module(module).summary(content))


def without(content, name, left_out):
    """Return what a run would have written that left something out."""
    key = "runs" if name == "worker_slots" else "cells"
    return {**content, key: [one for one in content[key] if not left_out(one)]}


@pytest.mark.parametrize(
    ("name", "module", "left_out", "said"),
    [
        ("worker_slots", "slot_runs.report", lambda run: run["server"] == "djl", "on DJL Serving"),
        ("worker_slots", "slot_runs.report", lambda run: run["subject"] == "setfit", "setfit on"),
        ("peers", "peer_runs.report", lambda cell: cell["peer"] == "ray", "on ray"),
        ("peers", "peer_runs.report", lambda cell: "catboost" in cell["model"], "catboost"),
    ],
)
def test_a_run_that_left_something_out_changes_nothing_that_is_published(
    name, module, left_out, said, monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    reporting = importlib.import_module("reporting")
    page, published = tmp_path / "benchmarks.md", tmp_path / "published"
    page.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    monkeypatch.setattr(reporting, "FIGURES", page)
    monkeypatch.setattr(reporting, "PUBLISHED", published)
    content = json.loads((ROOT / "docs" / "benchmarks" / f"{name}.json").read_text())
    partial = without(content, name, left_out)
    (tmp_path / f"{name}.json").write_text(json.dumps(partial))
    console = Console(file=io.StringIO(), width=200)
    summary = importlib.import_module(module).summary

    assert not reporting.publish(tmp_path, name, console, summary)

    assert said in console.file.getvalue()
    assert page.read_text() == (ROOT / "docs" / "benchmarks.md").read_text()
    assert not published.exists()

    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert reporting.publish(tmp_path, name, console, summary)
    assert page.read_text() == (ROOT / "docs" / "benchmarks.md").read_text()
    assert json.loads((published / f"{name}.json").read_text()) == content
