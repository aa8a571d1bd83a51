"""What travels in an archive reads no text that is longer than anybody writes."""

from __future__ import annotations

import pytest

from mmekit_runtime.messages import RequestError
from mmekit_runtime.parsed_body import most_unpacked, refuse_size
from mmekit_runtime.signature import Signature
from mmekit_runtime.slots import keys
from mmekit_runtime.slots.settings import read_park_after, read_preload, read_processes
from mmekit_runtime.slots.stub import unsupported
from mmekit_runtime.texts import MANIFEST_BYTES, PROPERTIES_BYTES, SIGNATURE_BYTES, read_text

MANIFEST = '{"measured": {"imports": [], "preload": ["joblib"]}}'


def test_no_more_than_the_longest_is_read(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"x" * 10)
    assert read_text(str(file), 10) == b"x" * 10
    with pytest.raises(ValueError, match="longer than 9 bytes"):
        read_text(str(file), 9)
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        read_text("/dev/zero", 100)


def test_a_signature_that_is_too_long_fails_the_load_and_says_so(tmp_path):
    (tmp_path / "signature.json").write_bytes(b" " * (SIGNATURE_BYTES + 1))

    with pytest.raises(ValueError, match=r"signature\.json cannot be read: it is longer"):
        Signature.read(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, MANIFEST + " " * MANIFEST_BYTES])
def test_a_manifest_that_nobody_can_read_preloads_nothing(tmp_path, text):
    (tmp_path / "manifest.json").write_text(MANIFEST)
    assert read_preload(str(tmp_path)) == ["joblib"]

    (tmp_path / "manifest.json").write_text(text)

    assert read_preload(str(tmp_path)) == []


def test_settings_that_are_too_long_get_the_plain_engine(tmp_path):
    arguments = ["--sock-type", "unix", "--model-dir", str(tmp_path)]
    text = "option.processes=3\noption.park_after=7\n"
    (tmp_path / "serving.properties").write_text(text)
    assert unsupported(arguments) is None
    assert (read_processes(str(tmp_path)), read_park_after(str(tmp_path), {})) == (3, 7.0)

    (tmp_path / "serving.properties").write_text(text + "#" * PROPERTIES_BYTES)

    assert "serving.properties cannot be read" in (unsupported(arguments) or "")
    assert read_processes(str(tmp_path)) is None


def test_a_long_list_of_requirements_tells_models_apart_all_the_same(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_bytes(b"#" * 200_000 + b"1")
    first = keys.sharing_key({}, str(tmp_path))
    file.write_bytes(b"#" * 200_000 + b"2")
    assert keys.sharing_key({}, str(tmp_path)) != first


def test_what_a_body_unpacks_to_is_a_setting(monkeypatch):
    with pytest.raises(RequestError, match="at most 268435456 bytes"):
        refuse_size(300 << 20, "a body")

    monkeypatch.setenv("MMEKIT_MAX_UNPACKED_BYTES", str(400 << 20))
    refuse_size(300 << 20, "a body")

    monkeypatch.setenv("MMEKIT_MAX_UNPACKED_BYTES", "lots")
    with pytest.raises(ValueError, match="MMEKIT_MAX_UNPACKED_BYTES is 'lots'"):
        most_unpacked()
