"""The benchmark of layers: what it found is judged, written down and drawn; a quick run does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 1 << 20


@pytest.fixture
def results(monkeypatch):
    """Return a function that makes the results of a run in which layers reached their targets."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from layer_runs.first_call import FirstCall
    from layer_runs.libraries import Libraries
    from layer_runs.many import Many
    from layer_runs.one_more import Found, OneMore, SameAnswers
    from layer_runs.report import Results
    from layer_runs.unchanged import Aged, Unchanged
    from reporting import Conditions
    from slot_runs.answers import Comparison

    equal = Comparison(24, 0, 0, 0.0, 0)
    loads = {"plain": 5200.0, "now": 160.0, "inline": 45.0, "thin": 40.0}
    private = {"plain": 507, "now": 72, "inline": 7, "thin": 7}

    def make(**changed):
        forms = tuple(
            OneMore("embedded", form, 9000.0, (load, load, 2 * load), private[form] * MIB, 90 * MIB)
            for form, load in (loads | changed.get("loads", {})).items()
        )
        calls = {"now": (700.0, 92_000_000), "inline": (300.0, 92_000_000), "thin": (50.0, 43_000)}
        before = Aged("before", (10.0,), 7 * MIB, (0.5, 0.5), (4000.0, 4100.0), 500_000)
        now = Aged("now", (10.0,), 7 * MIB, (0.5, 0.52), (4000.0, 4100.0), 510_000)
        answers = changed.get("answers", equal)
        return Results(
            Conditions(2, 24, "Linux 6", "3.11.7", 0.0),
            one_more=(Found(forms, (SameAnswers("embedded", "thin", answers),)),),
            many=(
                Many(
                    *("embedded", False, 200, 200, changed.get("own", 200), None, 0.01),
                    *(20.0, 40.0, 2.0, 200, 7 * MIB, 2000 * MIB, 2100 * MIB, 200),
                ),
            ),
            first_calls=tuple(
                FirstCall(form, 9000.0, (ms,), 20.0, size, 83_000_000 if form == "thin" else 0)
                for form, (ms, size) in calls.items()
            ),
            libraries=tuple(
                Libraries(way, (first,), (more,), 1_000_000, equal=True)
                for way, first, more in (
                    ("layer", 1000.0, 50.0),
                    ("pip", 25_000.0, 1100.0),
                    ("pip, wheels at hand", 20_000.0, 1100.0),
                )
            ),
            unchanged=(Unchanged("embedded", "ridge", before, now, equal),),
            seconds=60.0,
        )

    return make


def test_each_target_has_a_line_that_says_what_was_reached(results):
    outcomes = {one.what: one for one in results().outcomes}

    assert all(one.met is not False for one in outcomes.values())
    load = outcomes["SetFit: cold load of one more customer, embedded server"]
    assert load.reached == (
        "inline 45.0 ms; thin 40.0 ms (without layers: 160 ms, plain engine: 5,200 ms)"
    )
    fetched = outcomes["SetFit: bytes fetched for one more customer, thin"]
    assert (fetched.target, fetched.reached[:7]) == ("at most 50 KB", "43.0 KB")


def test_what_is_not_reached_is_said(results):
    from slot_runs.answers import Comparison

    given = results(loads={"inline": 51.0}, own=199, answers=Comparison(24, 1, 1, 1e-7, 0))

    assert {one.what for one in given.outcomes if one.met is False} == {
        "SetFit: cold load of one more customer, embedded server",
        "200 SetFit customers at once, embedded server",
        "answers of SetFit, thin against without layers, embedded server",
    }


def test_turns_are_compared_in_pairs(results):
    (pair,) = results().unchanged

    assert pair.p50 == pytest.approx(1.02)
    assert pair.throughput == 1.0


def test_figures_are_written_and_drawn(results, tmp_path):
    pytest.importorskip("matplotlib")
    from layer_runs import report

    report.write(results(), tmp_path)
    report.draw(results(), tmp_path)

    content = json.loads((tmp_path / "layers.json").read_text())
    assert [one["form"] for one in content["first_calls"]] == ["now", "inline", "thin"]
    assert (tmp_path / "layers.md").read_text().startswith("# Layers\n")
    assert "<svg" in (tmp_path / "layers.svg").read_text()


@pytest.mark.thorough
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="slots need Linux")
def test_a_quick_run_compares_models_without_layers_with_what_they_were(tmp_path):
    options = ["--quick", "--parts", "unchanged", "--servers", "embedded"]
    finished = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "layers.py", *options, "--output", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    content = json.loads((tmp_path / "layers.json").read_text())
    if "everything" in content["left_out"]:
        pytest.skip("a clone without its history")
    assert not content["left_out"], finished.stderr
    assert [one["subject"] for one in content["unchanged"]] == ["ridge", "forest", "catboost"]
    assert all(one["comparison"]["differing"] == 0 for one in content["unchanged"])
