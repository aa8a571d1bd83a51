"""The benchmarks run, measure and write down what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "worker_slots.py"

pytestmark = [pytest.mark.timeout(600), pytest.mark.thorough]
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="slots need Linux")


def ran(script, *options):
    """Run a benchmark, see that nothing of it is left, and return what it printed."""
    # Short, as the sockets of workers lie below it.
    with tempfile.TemporaryDirectory(prefix="b-") as temporary:
        finished = subprocess.run(
            [sys.executable, str(script), *options],
            env={**os.environ, "TMPDIR": temporary},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert finished.returncode == 0, finished.stderr
        assert users_of(temporary) == []
    return finished.stdout


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """A short run on one model; what it printed, and the folder with what it wrote."""
    output = tmp_path_factory.mktemp("benchmarks")
    options = ["--quick", "--models", "ridge", "--servers", "embedded", "--output", str(output)]
    return ran(SCRIPT, *options), output


def users_of(folder):
    """Return the command lines of processes whose temporary files are in a folder."""
    commands = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        environment = process.info["environ"] or {}
        runs = process.info["status"] != psutil.STATUS_ZOMBIE
        if runs and environment.get("TMPDIR", "").startswith(folder):
            commands.append(process.info["cmdline"])
    return commands


@linux_only
def test_worker_slots_and_the_plain_engine_are_measured_in_one_run(quick_run):
    _, output = quick_run
    content = json.loads((output / "worker_slots.json").read_text())

    modes = {run["mode"]: run for run in content["runs"]}
    assert set(modes) == {"plain", "slots"}
    assert modes["slots"]["cold"]["median_ms"] < modes["plain"]["cold"]["median_ms"]
    memory = {mode: run["memory"]["marginal_private"] for mode, run in modes.items()}
    assert 0 < memory["slots"] < memory["plain"] / 4
    for run in content["runs"]:
        assert [load["connections"] for load in run["load"]] == [1, 8]
        assert all(load["requests"] > 0 == load["errors"] for load in run["load"])
        assert all(0 < load["p50_ms"] <= load["p999_ms"] for load in run["load"])


@linux_only
def test_both_modes_give_the_same_answers(quick_run):
    _, output = quick_run
    (answers,) = json.loads((output / "worker_slots.json").read_text())["answers"]
    assert answers["compared"] > 100
    assert answers["differing"] == 0


@linux_only
def test_the_targets_are_listed_with_what_was_reached(quick_run):
    printed, output = quick_run
    assert printed.strip() == (output / "worker_slots.md").read_text().strip()
    (line,) = [line for line in printed.splitlines() if "| scikit-learn cold load" in line]
    assert line.endswith(("| yes |", "| no |"))


@pytest.fixture
def answers(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from slot_runs import answers

    return answers


def test_answers_that_differ_are_counted_and_the_largest_difference_is_told(answers):
    first, second = b'{"predictions": [1], "probabilities": [[0.5]]}', b'{"predictions": [2]}'
    other = b'{"predictions": [1], "probabilities": [[0.25]]}'
    plain = answers.Answers((first, second), ())
    slots = answers.Answers((first, second), ((other, second),))

    found = answers.compare(plain, slots)

    assert (found.compared, found.differing, found.differing_single) == (4, 1, 0)
    assert found.largest_difference == 0.25
    assert found.labels_differing == 0
    assert not found.equal


def test_an_answer_of_another_form_is_infinitely_far_away(answers):
    assert answers.difference({"predictions": ["a"]}, {"predictions": ["b"]}) == float("inf")
    assert answers.difference({"predictions": [1]}, {"message": "no"}) == float("inf")
    assert answers.difference([[1.0, 2.0]], [[1.0, 2.5]]) == 0.5


@linux_only
def test_worker_slots_are_measured_at_scale(tmp_path):
    options = ["--quick", "--servers", "embedded", "--output", str(tmp_path)]
    printed = ran(SCRIPT.with_name("at_scale.py"), *options)
    content = json.loads((tmp_path / "at_scale.json").read_text())

    assert content["waiting"][0]["ratio"] > 0
    assert len(content["parked"][0]["wake_ms"]) == content["parked"][0]["models"]
    assert content["crowds"][0]["answered"] == content["crowds"][0]["wanted"]
    container = content["container"]
    if container is None:
        assert "no control group can be made" in printed
    else:
        assert (container["loaded"], container["errors"]) == (container["models"], 0)
