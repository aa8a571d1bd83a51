"""What processes print, on its way into a log that can bear only so much."""

from __future__ import annotations

import re

import pytest

from mmekit.errors import SettingsError
from mmekit_local.printed import VARIABLE, LineRateLimit, LineSplitter, lines_per_second
from tests.server_process import wait_until


def numbered(start, stop):
    return b"".join(b"%d\n" % number for number in range(start, stop))


def told(line):
    return int(re.fullmatch(rb"mmekit: (\d+) lines left out: .*", line)[1])


def test_lines_come_whole_however_their_bytes_come():
    splitter = LineSplitter(LineRateLimit(100))

    lines = [line for byte in b"one\ntwo\r\n\nthree" for line in splitter.feed(bytes([byte]))]

    assert lines == [b"one", b"two\r", b""]
    assert splitter.end() == [b"three"]


def test_a_line_without_an_end_comes_in_parts():
    splitter = LineSplitter(LineRateLimit(1000))

    lines = [line for _ in range(10) for line in splitter.feed(b"x" * 30_000)]

    assert len(lines) == 3
    assert sum(map(len, (*lines, *splitter.end()))) == 300_000


def test_what_is_beyond_the_ration_is_counted_and_its_last_lines_are_shown():
    splitter = LineSplitter(LineRateLimit(10))

    shown = splitter.feed(numbered(0, 1000))
    for start in range(1000, 100_000, 1000):
        assert splitter.feed(numbered(start, start + 1000)) == []

    assert shown == [b"%d" % number for number in range(len(shown))]
    assert 50 <= len(shown) < 100
    note, *last = splitter.gap()
    assert last == [b"%d" % number for number in range(99_980, 100_000)]
    assert len(shown) + told(note) + len(last) == 100_000
    assert not splitter.has_gap
    assert splitter.gap() == []


def test_a_few_lines_beyond_the_ration_are_shown_late():
    splitter = LineSplitter(LineRateLimit(10))

    shown = splitter.feed(numbered(0, 55))

    assert [*shown, *splitter.gap()] == numbered(0, 55).split()


def test_lines_pass_again_after_a_while_and_say_first_what_is_missing():
    splitter = LineSplitter(LineRateLimit(1000))
    shown = splitter.feed(numbered(0, 20_000))
    fed, again = 20_000, []

    def passes():
        nonlocal fed, again
        again = splitter.feed(b"%d\n" % fed)
        fed += 1
        return again

    wait_until(passes)

    assert len(shown) + told(again[0]) + len(again) - 1 == fed
    assert again[-1] == b"%d" % (fed - 1)


def test_a_line_that_is_cut_by_the_end_of_the_ration_is_no_two_lines():
    splitter = LineSplitter(LineRateLimit(1))
    splitter.feed(numbered(0, 20) + b"begun, ")

    assert splitter.feed(b"and ended\nand") == []

    assert splitter.gap()[-1] == b"begun, and ended"
    assert splitter.end() == [b"and"]


def test_long_lines_take_more_of_the_ration():
    splitter = LineSplitter(LineRateLimit(100))

    assert len(splitter.feed(b"".join(b"x" * 10_240 + b"\n" for _ in range(100)))) < 50


def test_without_a_limit_every_line_passes():
    assert len(LineSplitter(LineRateLimit(0)).feed(numbered(0, 100_000))) == 100_000


def test_the_limit_is_a_setting(monkeypatch):
    monkeypatch.setenv(VARIABLE, " 20 ")
    assert LineRateLimit().per_s == lines_per_second() == 20
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(SettingsError, match="not a number: 'many'"):
        lines_per_second()
