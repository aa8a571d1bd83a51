"""Which differences between two loads mean something."""

from dataclasses import replace

import pytest

from mmekit.errors import MmekitError
from mmekit_bench import read_result
from mmekit_bench.comparison import compare


def verdicts(first, second):
    return {row.name: row.verdict for row in compare(first, second).rows}


def test_two_runs_of_one_thing_differ_within_noise(a_result):
    rows = verdicts(a_result(5, seed=1), a_result(5, seed=2))
    assert rows["requests/s"] == rows["p50"] == rows["p90"] == rows["p99"] == "within noise"


def test_what_is_clearly_faster_is_better_and_what_is_slower_is_worse(a_result):
    slow, quick = a_result(5, rate=150), a_result(4, rate=200)
    rows = verdicts(slow, quick)
    assert rows["requests/s"] == rows["p50"] == rows["p90"] == "better"
    rows = verdicts(quick, slow)
    assert rows["requests/s"] == rows["p50"] == rows["p90"] == "worse"


def test_too_short_a_load_tells_nothing(a_result):
    rows = verdicts(a_result(5, seconds=2), a_result(1, seconds=2))
    assert rows.pop("failed or dropped") == "within noise"
    assert set(rows.values()) == {"unknown"}


def test_what_is_worse_ends_with_1_and_what_cannot_be_told_with_3(a_result):
    quick, slow = a_result(5), a_result(6)
    assert compare(slow, quick).exit_code == 0
    worse = compare(quick, slow)
    assert worse.exit_code == 1
    assert "p50 (x 1." in worse.sentence
    short = compare(a_result(5, seconds=2), a_result(5, seconds=2))
    assert short.exit_code == 3
    assert "Measure longer" in short.sentence


def test_a_tolerance_allows_what_is_slower_by_less(a_result):
    quick, slow = a_result(5), a_result(6)
    assert compare(quick, slow, 0.5).exit_code == 0
    assert compare(quick, slow, 0.1).exit_code == 1


def test_more_failures_are_worse_however_fast_the_rest_is(a_result):
    quick = a_result(2)
    failing = replace(quick, recording=replace(quick.recording, errors={"500 ModelError": 40}))
    assert [row.name for row in compare(quick, failing, 0.5).worse] == ["failed or dropped"]
    assert compare(failing, quick).exit_code == 0


def test_a_ratio_is_the_second_by_the_first(a_result):
    (row,) = [row for row in compare(a_result(5), a_result(10)).rows if row.name == "p50"]
    assert row.ratio == pytest.approx(2, rel=0.05)


def test_a_result_is_the_same_after_writing_and_reading_it(a_result, tmp_path):
    result = a_result(5, seconds=3)
    path = tmp_path / "result.json"
    path.write_bytes(result.to_json())
    assert read_result(path) == result


def test_a_result_of_another_format_is_refused(a_result, tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(a_result(5, seconds=1).to_json().replace(b'"format": 1', b'"format": 0'))
    with pytest.raises(MmekitError, match="format 0"):
        read_result(path)
