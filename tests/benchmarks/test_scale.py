"""A benchmark at scale is resumed: what was found stays, and what is found anew replaces it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from reporting import Conditions
    from slot_runs.parked import Parked
    from slot_runs.scale import Results, Scale

    def make(left_out, seconds, **parked):
        found = tuple(
            Parked(kind, 20, size, 10, (1.0, 2.0), (0.5, 0.7)) for kind, size in parked.items()
        )
        machine = Conditions(2, 24, "Linux 6", "3.11.7", 0.0)
        return Results(machine, Scale(parked=found), left_out, seconds)

    return make


def test_what_was_written_is_read(results, tmp_path):
    from slot_runs import scale

    written = results({"crowd, DJL Serving": "**failed**: it ended"}, 60.0, embedded=1, djl=2)

    assert scale.read(tmp_path) is None
    scale.write(written, tmp_path)
    assert scale.read(tmp_path) == written
    (tmp_path / "at_scale.json").write_text('{"parked": 1}')
    assert scale.read(tmp_path) is None


def test_a_later_run_replaces_what_it_has_measured(results):
    former = results(
        {"parked, DJL Serving": "late", "crowd, DJL Serving": "later"}, 60.0, embedded=1
    )
    later = results({"container, DJL Serving": "no control group"}, 30.0, djl=3)

    both = former.with_more(later)
    again = both.with_more(results({}, 5.0, embedded=4))

    assert [(one.server, one.private) for one in both.scale.parked] == [("embedded", 1), ("djl", 3)]
    assert set(both.left_out) == {"crowd, DJL Serving", "container, DJL Serving"}
    assert both.seconds == 90.0
    assert [one.private for one in again.scale.parked] == [4, 3]
