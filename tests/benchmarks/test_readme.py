"""What the README says was measured is what was published."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("name", "module"),
    [("worker_slots", "slot_runs.summary"), ("peers", "peer_runs.summary")],
)
def test_the_table_in_the_readme_is_that_of_the_published_figures(name, module, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    content = json.loads((ROOT / "docs" / "benchmarks" / f"{name}.json").read_text())
    begin = f"<!-- figures: written by benchmarks/{name}.py --publish -->\n\n"
    _, _, rest = (ROOT / "README.md").read_text().partition(begin)
    assert rest.startswith(importlib.import_module(module).summary(content))
