"""A text that is longer than anybody writes one is not read; reading is linear in its length."""

from __future__ import annotations

import io
import tarfile

import pytest

from mmekit.archive import (
    check,
    describe,
    pack,
    parse_requirements,
    read_manifest,
    read_properties,
    unpack,
    verify,
)
from mmekit.archive.describe import small_files
from mmekit.archive.files import REQUIREMENTS_LINES, most_bytes, read_text
from mmekit.archive.properties import parse_entries
from mmekit.archive.syntax import parsed
from mmekit.errors import ManifestError, TextError

NAMES = ["serving.properties", "requirements.txt", "signature.json", "manifest.json", "model.py"]


def archive_of(path, **files):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_is_too_long_is_the_finding(tmp_path, name):
    files = {"model.py": b"handle = None\n", name: b"#" * (most_bytes(name) + 1)}
    found = check(archive_of(tmp_path / "model.tar.gz", **files))

    rule = "manifest-contradicted" if name == "manifest.json" else "text-too-long"
    (error,) = [one for one in found if one.rule == rule]
    assert error.severity == "error"
    assert f"{name} is too long" in error.message
    assert str(most_bytes(name)) in error.message
    assert error.remedy


@pytest.mark.parametrize("name", ["serving.properties", "requirements.txt", "signature.json"])
def test_among_artefacts_it_is_the_finding_too(workshop, name):
    workshop.pretend_measured()
    (workshop.package / name).unlink(missing_ok=True)
    (workshop.artifacts / name).write_bytes(b"#" * (most_bytes(name) + 1))

    (error,) = check(workshop.package, artifacts=workshop.artifacts)

    assert (error.rule, error.severity) == ("text-too-long", "error")
    assert f"{name} is too long" in error.message


def test_a_measurement_that_is_too_long_is_the_finding(workshop):
    name = "measured.json"
    (workshop.artifacts / name).write_bytes(b" " * (most_bytes(name) + 1))

    (error,) = check(workshop.package, artifacts=workshop.artifacts)

    assert error.rule == "text-too-long"
    with pytest.raises(TextError, match=r"measured\.json is too long"):
        pack(workshop.package, workshop.artifacts, workshop.archive)


def test_settings_of_the_convention_that_are_too_long_are_the_finding(workshop):
    (workshop.package / "serving.properties").write_bytes(b"a=b\n" * 20_000)
    workshop.write("code/inference.py", "def model_fn(model_dir): ...\n")
    (workshop.package / "model.py").unlink()

    (error,) = check(workshop.package, artifacts=workshop.artifacts)

    assert error.rule == "text-too-long"


@pytest.mark.parametrize("name", NAMES)
def test_the_longest_text_is_read(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"#" * most_bytes(name))
    assert len(read_text(file)) == most_bytes(name)
    file.write_bytes(b"#" * (most_bytes(name) + 1))
    with pytest.raises(TextError, match="too long") as caught:
        read_text(file)
    assert caught.value.where == str(tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["serving.properties", "signature.json", "manifest.json"])
def test_what_describes_an_archive_is_short(tmp_path, name):
    archive = archive_of(tmp_path / "model.tar.gz", **{name: b" " * (most_bytes(name) + 1)})

    with pytest.raises(TextError, match=f"{name} is too long"):
        small_files(archive)
    with pytest.raises(TextError, match=f"{name} is too long"):
        describe(archive)


def test_a_manifest_that_is_too_long_is_none(tmp_path):
    archive = archive_of(tmp_path / "model.tar.gz", **{"manifest.json": b" " * (33 << 20)})
    unpack(archive, tmp_path / "model")

    for read in (lambda: verify(archive), lambda: read_manifest(tmp_path / "model")):
        with pytest.raises(ManifestError, match="too long"):
            read()


def test_properties_that_are_too_long_are_refused_in_a_folder(tmp_path):
    (tmp_path / "serving.properties").write_bytes(b"a=b\n" * 20_000)

    with pytest.raises(TextError, match=r"serving\.properties is too long"):
        read_properties(tmp_path)


def test_a_package_with_a_long_text_is_not_packed(workshop):
    workshop.pretend_measured()
    workshop.write("serving.properties", b"a=b\n" * 20_000)

    assert "text-too-long" in {one.rule for one in check(workshop.package)}
    with pytest.raises(TextError, match=r"serving\.properties is too long"):
        pack(workshop.package, workshop.artifacts, workshop.archive)
    assert not workshop.archive.exists()


def test_requirements_of_many_lines_are_refused(tmp_path):
    text = "numpy\n" * (REQUIREMENTS_LINES + 1)
    with pytest.raises(TextError, match="asks for 2001 things"):
        parse_requirements(text)

    files = {"model.py": b"handle = None\n", "requirements.txt": text.encode()}
    archive = archive_of(tmp_path / "model.tar.gz", **files)
    assert "text-too-long" in {one.rule for one in check(archive)}
    assert len(parse_requirements("# a comment\n" * 5000 + "numpy \\\n --hash=sha256:0\n")) == 1


def test_parentheses_within_parentheses_are_no_requirement():
    (line,) = parse_requirements("numpy; " + "(" * 50_000)
    assert line.requirement is None


@pytest.mark.parametrize("text", ["(" * 100_000, "-" * 100_000 + "1", "x" + ".x" * 100_000])
def test_sources_that_nest_deeply_are_no_python(text):
    assert parsed(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1\\\n  2", "12"),
        ("a=1\\\\\\\n\\\\\n", "1\\\\"),
        ("a=1\\\\\\\n\\\n2", "1\\2"),
        ("a=1\\\n\\\n\\\n2", "12"),
        ("a=1\\", "1"),
        ("a=1\\\n", "1"),
        ("a=1\\\n   \\", "1"),
    ],
)
def test_a_line_goes_on_as_in_java(text, value):
    assert [(entry.key, entry.value) for entry in parse_entries(text)] == [("a", value)]


def test_lines_that_go_on_are_joined_once():
    text = "a=" + "1\\\n" * 500_000 + "2"  # minutes, where each line copies those before it
    (entry,) = parse_entries(text)
    assert entry.value == "1" * 500_000 + "2"


def test_many_unknown_keys_are_no_hours_of_guessing(tmp_path):
    text = "".join(f"maxworkes{number}=1\n" for number in range(3000))
    files = {"model.py": b"handle = None\n", "serving.properties": text.encode()}
    found = check(archive_of(tmp_path / "model.tar.gz", **files))

    assert 0 < len([one for one in found if one.rule in ("misspelt-key", "unknown-key")]) <= 100
