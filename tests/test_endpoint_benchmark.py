"""The benchmark of the endpoint runs, and knows what an ideal cache would do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def crowd(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from endpoint_runs import crowd

    return crowd


@pytest.mark.parametrize(
    ("trace", "capacity", "hits"),
    [
        ([1, 1, 1, 1], 1, 3),
        ([1, 2, 1, 2], 1, 0),
        ([1, 2, 1, 3, 1, 2], 2, 2),
        ([1, 2, 3, 1, 2, 3], 3, 3),
    ],
)
def test_the_ideal_cache_forgets_what_was_not_used_for_longest(crowd, trace, capacity, hits):
    assert crowd.ideal_hits(trace, capacity) == hits / len(trace)


def test_whoever_came_while_a_model_was_loading_waited_for_it_too(crowd):
    import numpy as np

    # Model, due, taken, status, first answer of its process.
    answers = np.array(
        [
            (1, 0.0, 0.5, 200, 1),
            (1, 0.4, 0.2, 200, 0),
            (1, 0.6, 0.1, 200, 0),
            (2, 0.4, 0.1, 200, 0),
        ]
    )
    assert crowd._waited_for_load(answers).tolist() == [True, True, False, False]


@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="slots need Linux")
@pytest.mark.thorough
def test_first_calls_at_once_are_measured_and_written_down(tmp_path):
    finished = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "endpoint.py"),
            *("--quick", "--parts", "together", "--output", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stderr
    content = json.loads((tmp_path / "endpoint.json").read_text())
    assert content["together"] == {"calls": 64, "answers": 64, "downloads": 1.0, "loads": 1.0}
    assert content["left_out"] == {}
    assert (tmp_path / "endpoint.md").read_text() in finished.stdout
