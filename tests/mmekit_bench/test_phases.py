"""The phases of a call, from a container's log to the table."""

from __future__ import annotations

import subprocess
import sys

from mmekit_bench.phases import PHASES, read_calls, summarise

LOG = """\
Model server started.
12:30 [INFO ] W-9000-stdout - mmekit phases: size=569368 call=0 init=0.0017 initialize=988.46
12:30 [INFO ] W-1-stdout - mmekit phases: size=569368 call=1 handle_out=0.005 inference=2.0
12:30 [INFO ] W-1-stdout - mmekit phases: size=569368 call=2 handle_out=0.003 inference=0.3
12:30 [INFO ] W-1-stdout - mmekit phases: size=569368 call=3 handle_out=0.001 inference=0.5
12:30 [INFO ] W-1-stdout - mmekit phases: size=569368 call=4 handle_out=9.0 handle_in=0.1
12:30 [INFO ] ACCESS_LOG - "POST /models/small/invoke HTTP/1.1" 200 1
"""


def test_first_calls_and_later_ones_are_told_apart():
    rows = {row.function: row for row in summarise(read_calls(LOG.splitlines()))}
    assert tuple(rows) == PHASES
    assert rows["initialize"].initial_ms == 988.46
    assert rows["initialize"].subsequent_ms is None
    assert rows["inference"].initial_ms == 2.0
    assert rows["inference"].subsequent_ms == 0.4


def test_a_call_that_was_refused_does_not_count():
    rows = {row.function: row for row in summarise(read_calls(LOG.splitlines()))}
    assert rows["handle_out"].subsequent_ms == 0.002
    assert rows["handle_in"].subsequent_ms is None


def test_a_log_without_phases_has_an_empty_table():
    rows = summarise(read_calls(["nothing of that kind", "size=3 call=1"]))
    assert {(row.initial_ms, row.subsequent_ms) for row in rows} == {(None, None)}


def test_it_reads_a_log_from_standard_input():
    program = [sys.executable, "-m", "mmekit_bench.phases"]
    shown = subprocess.run(program, input=LOG, capture_output=True, text=True, check=True).stdout
    assert "model file of 0.57 MB" in shown
    assert "988.4600" in shown
    assert "0.4000" in shown
