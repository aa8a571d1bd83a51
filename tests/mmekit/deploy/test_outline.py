"""A plan as text: what is alike in one line, totals at the end, 80 columns."""

import pytest

from mmekit.deploy import Action, Difference, Step
from mmekit.deploy.outline import folded, plan_lines, plan_members, totals_line


def done(_):
    pass


def archives(number, action=Action.CREATE, **others):
    names = [f"ridge-{index:04}.tar.gz" for index in range(1, number + 1)]
    return [Step(action, "archive", name, size=70_000, perform=done, **others) for name in names]


def test_many_that_are_alike_are_one_line_with_the_first_and_the_last():
    steps = [Step(Action.KEEP, "bucket", "b"), *archives(198), Step(Action.KEEP, "role", "r")]
    assert plan_lines(steps) == [
        "  keep   bucket b",
        "+ create 198 archives (ridge-0001.tar.gz … ridge-0198.tar.gz; 13.2 MiB to upload)",
        "  keep   role r",
    ]
    assert len(plan_lines(steps, verbose=True)) == 200


def test_what_differs_in_one_way_is_told_and_what_differs_in_many_is_named():
    one = Difference("key", "none", "arn")
    assert plan_lines(archives(5, Action.CHANGE, differences=(one,)))[1] == (
        "      key: none -> arn"
    )
    steps = [
        Step(Action.CHANGE, "archive", str(n), (Difference("sha256", str(n), "9"),), perform=done)
        for n in range(5)
    ]
    assert plan_lines(steps)[1] == "      sha256 of each (--verbose lists them)"


def test_few_and_those_with_notes_of_their_own_are_told_one_by_one():
    assert len(plan_lines(archives(4))) == 4
    noted = [Step(Action.KEEP, "archive", str(n), note=f"kept for {n}") for n in range(9)]
    assert len(plan_lines(noted)) == 9


def test_totals_are_counted_by_what_is_done():
    steps = [*archives(200), *archives(3, Action.REMOVE), Step(Action.KEEP, "role", "r")]
    assert totals_line(steps) == (
        "In all: 200 to create, 0 to change, 3 to remove, 1 to keep; 13.6 MiB to upload"
    )
    members = plan_members(steps)
    assert members["totals"]["create"] == 200
    assert members["has_changes"]
    assert not plan_members(steps[-1:])["has_changes"]


@pytest.mark.parametrize("width", ["80", "40"])
def test_lines_are_folded_between_words_and_names_stay_whole(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    name = "a" * 100
    told = list(folded([f"+ create archive {name} (one of very many words, of which each fits)"]))
    assert any(name in line for line in told)
    assert all(len(line) <= int(width) or name in line for line in told)
    assert list(folded(["      short: 1 -> 2"])) == ["      short: 1 -> 2"]
