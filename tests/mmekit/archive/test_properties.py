"""serving.properties means here what it means to Java and to DJL Serving."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmekit.archive import Properties, parse_properties, read_properties
from mmekit.archive.properties import parse_entries
from mmekit.errors import PropertiesError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", {"a": "b"}),
        ("a:b", {"a": "b"}),
        ("a b", {"a": "b"}),
        ("a\tb c", {"a": "b c"}),
        ("  a  =  b", {"a": "b"}),
        ("a = = b", {"a": "= b"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("=b", {"": "b"}),
        ("a=b ", {"a": "b "}),
        ("# a=b\n! c=d\n\n e=f", {"e": "f"}),
        ("a=b # no comment", {"a": "b # no comment"}),
        ("a=1\r\nb=2\rc=3\nd=4", {"a": "1", "b": "2", "c": "3", "d": "4"}),
        ("a=b\\\n   c", {"a": "bc"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        ("a=b\\\n\nc=d", {"a": "b", "c": "d"}),
        ("a=b\\\n# c", {"a": "b# c"}),
        ("a=b\\", {"a": "b"}),
        ("# a\\\nb=c", {"b": "c"}),
        ("a\\ b\\=c=d", {"a b=c": "d"}),
        ("a=\\t\\n\\q\\u0041", {"a": "\t\nqA"}),
        ("a=\\ud83d\\ude00", {"a": "\U0001f600"}),
        ("a=1\na=2", {"a": "2"}),
        ("a\\:b:c", {"a:b": "c"}),
        ("\ufeffa=1", {"\ufeffa": "1"}),
    ],
)
def test_the_syntax_is_that_of_java_properties(text, expected):
    assert dict(parse_properties(text).raw) == expected


TEXTS = st.text(alphabet="ab =:#!\\\t\n\u00e9\U0001f600", max_size=12)


@given(st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_every_text_survives_being_written_with_escapes(values):
    def escape(text):
        units = text.encode("utf-16-be").hex()
        return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))

    lines = [f"{escape(key)}={escape(value)}" for key, value in values.items()]
    assert dict(parse_properties("\n".join(lines)).raw) == values


@given(st.text(max_size=60))
def test_no_text_fails_in_any_other_way_than_with_a_properties_error(text):
    try:
        entries = parse_entries(text)
    except PropertiesError as error:
        assert "\\u" in error.what  # noqa: PT017 - both outcomes are right
    else:
        assert all(entry.line >= 1 for entry in entries)


def test_an_empty_file_has_djl_servings_defaults():
    properties = parse_properties("")

    assert properties == Properties()
    assert (properties.min_workers, properties.max_workers) == (None, None)
    assert (properties.job_queue_size, properties.batch_size) == (1000, 1)
    assert (properties.max_batch_delay_ms, properties.max_idle_time_s) == (100, 60)
    assert (properties.predict_timeout_s, properties.model_loading_timeout_s) == (120, 240)
    assert properties.required_memory_mb is None


def test_every_key_has_its_typed_member():
    properties = parse_properties(
        """\
engine=Python
minWorkers=2
maxWorkers=3
job_queue_size=10
batch_size=4
max_batch_delay=5
max_idle_time=6
required_memory_mb=7
reserved_memory_mb=8
retry_threshold=9
load_on_devices=*
option.predict_timeout=11
option.model_loading_timeout=12
option.entryPoint=other.py
option.handler=answer
option.pythonExecutable=/usr/bin/python3
option.env=A=1, B = x=y ,C
option.enable_venv=TRUE
option.parallel_loading=yes
option.modelName=ridge
option.depth=6
"""
    )

    assert properties.engine == "Python"
    assert (properties.min_workers, properties.max_workers) == (2, 3)
    assert (properties.job_queue_size, properties.batch_size) == (10, 4)
    assert (properties.max_batch_delay_ms, properties.max_idle_time_s) == (5, 6)
    assert (properties.required_memory_mb, properties.reserved_memory_mb) == (7, 8)
    assert (properties.retry_threshold, properties.load_on_devices) == (9, "*")
    assert (properties.predict_timeout_s, properties.model_loading_timeout_s) == (11, 12)
    assert (properties.entry_point, properties.handler) == ("other.py", "answer")
    assert properties.python_executable == "/usr/bin/python3"
    assert properties.env == {"A": "1", "B": "x=y"}
    assert (properties.enable_venv, properties.parallel_loading) == (True, False)
    assert properties.model_name == "ridge"
    assert properties.options["depth"] == "6"


def test_the_handler_is_told_every_key_at_initialisation_but_not_the_environment():
    properties = parse_properties("engine=Python\ndepth=1\noption.depth=2\noption.env=A=1")

    assert properties.init_parameters == {"engine": "Python", "depth": "2"}


def test_batch_size_comes_before_its_younger_name():
    assert parse_properties("max_dynamic_batch_size=8").batch_size == 8
    assert parse_properties("max_dynamic_batch_size=8\nbatch_size=2").batch_size == 2


def test_workers_for_the_cpu_come_before_those_for_any_device_and_options_before_both():
    assert parse_properties("cpu.minWorkers=3\nminWorkers=1").min_workers == 3
    assert parse_properties("minWorkers=1\noption.minWorkers=2").min_workers == 2
    assert parse_properties("maxWorkers=0").max_workers is None


@pytest.mark.parametrize("value", ["abc", "4 ", "", "1.5", "0x10", "99999999999", "1_000"])
def test_an_integer_that_java_cannot_read_is_an_error_with_line_key_value_and_remedy(value):
    with pytest.raises(PropertiesError) as caught:
        parse_properties(f"engine=Python\n\nbatch_size={value}\n", where="ridge/serving.properties")

    assert "batch_size" in caught.value.what
    assert repr(value) in caught.value.what
    assert "whole number" in caught.value.what
    assert caught.value.where == "ridge/serving.properties, line 3"
    assert caught.value.remedy


def test_only_the_last_value_of_a_key_has_to_make_sense():
    assert parse_properties("batch_size=abc\nbatch_size=+2").batch_size == 2


def test_a_bad_time_out_is_the_default_as_djl_only_logs_a_warning():
    properties = parse_properties("option.predict_timeout=soon\noption.model_loading_timeout=0")

    assert (properties.predict_timeout_s, properties.model_loading_timeout_s) == (120, 240)


@pytest.mark.parametrize("escape", ["\\u12", "\\u12g4", "\\u"])
def test_a_malformed_escape_is_an_error_with_its_line(escape):
    with pytest.raises(PropertiesError, match="four hexadecimal") as caught:
        parse_properties(f"a=b\nc={escape}")

    assert "line 2" in str(caught.value.where)


def test_a_file_is_read_as_iso_8859_1(tmp_path):
    (tmp_path / "serving.properties").write_bytes("option.name=\u00e9".encode("latin-1"))

    assert read_properties(tmp_path).options["name"] == "\u00e9"


def test_a_folder_without_the_file_has_the_defaults_and_a_missing_file_is_an_error(tmp_path):
    assert read_properties(tmp_path) == Properties()
    with pytest.raises(PropertiesError, match="does not exist"):
        read_properties(tmp_path / "serving.properties")


def test_properties_travel_between_processes():
    properties = parse_properties("option.env=A=1")

    assert pickle.loads(pickle.dumps(properties)) == properties  # noqa: S301 - our own bytes
