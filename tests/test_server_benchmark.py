"""The benchmark of the embedded server runs, measures and writes down what it found."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="slots need Linux")
@pytest.mark.thorough
def test_the_servers_figures_are_measured_and_judged(root, tmp_path):
    options = ["--quick", "--servers", "embedded", "--output", str(tmp_path)]
    finished = subprocess.run(
        [sys.executable, str(root / "benchmarks" / "server.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == (tmp_path / "server.md").read_text().strip()
    content = json.loads((tmp_path / "server.json").read_text())
    assert [(bout["mode"], bout["connections"]) for bout in content["bouts"]] == [
        *(("plain", 1), ("plain", 8)),
        *(("slots", 1), ("slots", 8)),
    ]
    assert all(
        load["requests"] > 0 == load["errors"]
        for bout in content["bouts"]
        for load in bout["rounds"]
    )
    overhead = content["overhead"]
    assert 0 < overhead["engine_p50_ms"] < overhead["server_p50_ms"]
    assert content["crowd"]["asked"] == content["crowd"]["models"]
    assert content["crowd"]["found"]["errors"] == 0
    judged = [outcome["what"] for outcome in content["outcomes"]]
    assert judged[0] == "what the front adds at p50"
    assert len(judged) == 3
