"""serving.properties says to us what it says to Java: asked of Java itself, where there is one."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmekit.archive.properties import find_problems, parse_entries, properties_of
from mmekit.errors import PropertiesError

thoroughly = settings.get_profile("fuzz")

PROGRAM = Path(__file__).with_name("Load.java")
# What means something to the syntax, a few letters, and what only looks like a line's end.
WORDS = ("\\u", "\\u00e9", "\\uD83D", "\\uDE00", "\\u12g4", "\\", *"=:#!uab", "0041")
BLANKS = (" ", "\t", "\f", "\x0b", "\x1c", "\x85", "\0", "\xe9", "\n", "\r", "\r\n", "\\\n")
pieces = st.sampled_from([*WORDS, *BLANKS])
files = st.lists(pieces, max_size=24).map("".join)
lengths = st.sampled_from([0, 1, 9, 10, 11, 6000])
integers = st.one_of(
    st.integers().map(str),
    st.sampled_from([2**31 - 1, 2**31, -(2**31), -(2**31) - 1]).map(str),
    st.text("+-0123456789 .eE_x\u0663\uff11", max_size=12),
    st.builds(lambda zeros, digits: "0" * zeros + "7" * digits, lengths, lengths),
)


class Java:
    """A Java that reads properties, one file after the other."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def read(self, file):
        """Return keys with their values and the integers in them; None when it refuses."""
        self.process.stdin.write(struct.pack(">i", len(file)) + file)
        self.process.stdin.flush()
        count = self.integer()
        if count < 0:
            return None
        return {self.text(): (self.text(), self.text()) for _ in range(count)}

    def integer(self):
        data = self.process.stdout.read(4)
        assert len(data) == 4, "Java has ended"
        return struct.unpack(">i", data)[0]

    def text(self):
        units = self.process.stdout.read(2 * self.integer())
        # Half a character is all that we cannot keep.
        return units.decode("utf-16-be", "replace")


@pytest.fixture(scope="module")
def java():
    """A running Java that can compile."""
    if shutil.which("java") is None:
        pytest.skip("there is no java")
    modules = subprocess.run(
        ["java", "--list-modules"], capture_output=True, text=True, check=False
    )
    if "jdk.compiler" not in modules.stdout:
        pytest.skip("this java cannot compile")
    found = Java()
    with found.process:
        yield found
        found.process.stdin.close()


def escaped(text):
    """Escape a text as java.util.Properties.store does, and every blank."""
    written = []
    for character in text:
        if character in "\t\n\r\f":
            written.append("\\" + {"\t": "t", "\n": "n", "\r": "r", "\f": "f"}[character])
        elif character in "\\ =:#!":
            written.append("\\" + character)
        elif " " < character < "\x7f":
            written.append(character)
        else:
            units = character.encode("utf-16-be").hex()
            written += [f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)]
    return "".join(written)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
separators = st.sampled_from(["=", ":", " ", "\t", " = ", "\t:\f", "=\\\n  ", "\\\r\n\t="])
ends = st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\n# a comment \\\n", "\r  ! another\r"])


@thoroughly
@given(st.lists(st.tuples(texts.filter(bool), separators, texts, ends), max_size=5))
def test_what_is_written_as_java_writes_it_is_read_back(lines):
    text = "".join(
        f"{escaped(key)}{between}{escaped(value)}{end}" for key, between, value, end in lines
    )

    entries = parse_entries(text)

    assert [(entry.key, entry.value) for entry in entries] == [
        (key, value) for key, _, value, _ in lines
    ]


@thoroughly
@given(st.one_of(files, st.binary(max_size=60).map(lambda data: data.decode("latin-1"))))
def test_any_file_means_what_it_means_to_java(java, text):
    # There Java has a key without a name, unless the last line's end is of two characters.
    assume(not re.search(r"(^|[\r\n])[ \t\f]*\\(\r\n|\r|\n)?$", text))
    expected = java.read(text.encode("latin-1"))
    if expected is None:
        with pytest.raises(PropertiesError):
            parse_entries(text)
        return

    found = {entry.key: entry.value for entry in parse_entries(text)}

    assert found == {key: value for key, (value, _) in expected.items()}


@thoroughly
@given(integers)
def test_any_number_is_one_where_it_is_one_to_java(java, number):
    text = f"batch_size={escaped(number)}"
    value = java.read(text.encode("latin-1"))["batch_size"][1]
    entries = parse_entries(text)

    assert bool(find_problems(entries)) == (value == "")
    assert properties_of(entries).batch_size == int(value or 1)


@thoroughly
@given(st.text(max_size=60), integers)
def test_no_setting_does_worse_than_a_properties_error(text, number):
    keys = ("batch_size", "option.predict_timeout", "maxWorkers", "required_memory_mb")
    lines = "\n".join(f"{key}={escaped(number)}" for key in keys)
    try:
        entries = parse_entries(f"{text}\n{lines}")
    except PropertiesError:
        return
    find_problems(entries)
    properties_of(entries)
