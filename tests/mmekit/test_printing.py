"""What commands print: tables in a terminal and in a pipe, findings, what is under way."""

import json
import os
import re
import subprocess
import sys

import pytest

from mmekit.printing import TextTable, wrapped
from tests.mme_command import mme_in_a_terminal, run_mme

KEY = "shops/europe/region-00012345678901234567890-of-2026-11.tar.gz"
HEADS = ("target model", "answered", "failed", "first ms", "mean ms", "most ms")
MANY = TextTable(
    HEADS,
    tuple((f"{number}-{KEY}", "1,234,567", "0", "", "1.23", "12,345.67") for number in range(300)),
    numbers=HEADS[1:],
)
PROSE = "The first cause of many, with a number such as 1234567890.12345 among its many words"


def printed(table, width=None):
    return [line.plain for line in table.lines(width)]


def test_a_row_is_one_line_in_a_pipe_and_its_figures_stand_below_each_other():
    lines = printed(MANY)
    assert len(lines) == 301
    assert {len(line) for line in lines if line.startswith("1")} == {len(lines[0])}
    assert lines[-1].split() == [f"299-{KEY}", "1,234,567", "0", "-", "1.23", "12,345.67"]


def test_a_name_too_long_for_a_terminal_has_a_line_of_its_own():
    lines = printed(MANY, 80)
    assert max(map(len, lines)) <= 80
    assert lines[1] == f"0-{KEY}"
    assert lines[2].split() == ["1,234,567", "0", "-", "1.23", "12,345.67"]
    assert len(lines[2]) == len(lines[0])


def test_sentences_go_on_below_themselves_and_no_number_is_broken():
    table = TextTable(("model", "requests", "cause"), (("ridge", "12", PROSE),), ("requests",))
    lines = printed(table, 60)
    assert max(map(len, lines)) <= 60
    assert " ".join(line[17:].strip() for line in lines[1:]) == PROSE
    assert "1234567890.12345" in " ".join(lines)


def test_what_does_not_fit_beside_each_other_is_a_list():
    table = TextTable(("pattern", "environment", "runs"), ((KEY, f"A={KEY}", "python"),))
    assert printed(table, 50) == [KEY, f"  environment  A={KEY}", "  runs         python"]


def test_a_cell_that_would_steer_the_terminal_is_spelled_out():
    assert printed(TextTable(("name",), (("a\x1b[31m\nb",),)))[1] == r"a\x1b[31m b"


def test_a_paragraph_that_is_indented_stays_so():
    from rich.text import Text

    lines = [line.plain for line in wrapped(Text(f"  {PROSE}"), 30, hangs=True)]
    assert all(line.startswith("  ") and line[2] != " " for line in lines)
    assert max(map(len, lines)) <= 30


@pytest.fixture
def package(tmp_path):
    """A package whose file and artefact have long names, and with which much is wrong."""
    folder = tmp_path / ("a-package-with-a-long-name-" + "x" * 40)
    folder.mkdir()
    (folder / "serving.properties").write_text("engine=Python\nminWorkers=many\n")
    return folder


def test_findings_in_a_pipe_have_no_colours_and_a_line_that_names_each(package):
    environment = {**os.environ, "COLUMNS": "80"}
    finished = run_mme("check", package, folder=package.parent, environment=environment)
    assert finished.returncode == 1
    assert "\x1b" not in finished.stdout
    heads = [line for line in finished.stdout.splitlines() if not line.startswith(" ")]
    found = run_mme("check", package, "--json", folder=package.parent, environment=environment)
    assert heads == [
        f"{one['severity']:<7}  {one['where']}  {one['rule']}" for one in json.loads(found.stdout)
    ]


def test_findings_in_a_terminal_fit_it_and_have_colours(package):
    text, ended = mme_in_a_terminal("check", package.name, folder=package.parent)
    assert ended == 1
    assert "\x1b[1;31merror" in text
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", text)
    words = [line for line in plain.splitlines() if line.startswith("  ")]
    assert words
    assert max(map(len, words)) <= 80
    assert "…" not in "".join(words)


WAITS = """
import sys, time
from mmekit import progress
progress.AGAIN_S = progress._QUIET_S = 0.05
with progress.under_way("measuring ridge") as say:
    say("first")
    print("started", flush=True)
    sys.stdin.read(1)
print("done")
"""


def test_what_takes_time_says_so_on_standard_error_alone():
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = [process.stderr.readline() for _ in range(3)]
        out, _ = process.communicate("x", timeout=60)
    assert said == ["first\n", "measuring ridge …\n", "measuring ridge: 0 s\n"]
    assert out == "started\ndone\n"
