"""The folder of `mme up --state`, opened, damaged and opened again."""

import json
import subprocess
import sys
import zlib

import pytest

from mmekit.errors import EndpointError
from mmekit_local.aws.state.entry import LogEntry, line_of
from mmekit_local.aws.state.log import StateLog


def test_bytes_that_two_requests_bring_at_once_stay_for_the_one_that_is_taken(tmp_path):
    log = StateLog(tmp_path)
    with log.bodies.kept(b"same") as first:
        with log.bodies.kept(b"same") as second:
            assert first == second
        assert (tmp_path / "bodies" / first).read_bytes() == b"same"
        log.append(LogEntry(1.0, method="PUT", body=first))
    assert (tmp_path / "bodies" / first).exists()
    with pytest.raises(ValueError, match="refused"), log.bodies.kept(b"other") as other:
        raise ValueError("refused")
    assert not (tmp_path / "bodies" / other).exists()
    log.close()


def test_a_folder_in_use_is_refused_with_a_remedy(tmp_path):
    log = StateLog(tmp_path / "state")
    with pytest.raises(EndpointError, match="Another `mme up` uses") as raised:
        StateLog(tmp_path / "state")
    assert "--state" in raised.value.remedy
    log.close()
    StateLog(tmp_path / "state").close()


@pytest.fixture
def written(tmp_path):
    """A log of three entries, the second with a body."""
    log = StateLog(tmp_path)
    log.append(LogEntry(1.0, change={"number": 1}))
    with log.bodies.kept(b"content") as body:
        log.append(LogEntry(2.0, method="PUT", body=body))
    log.append(LogEntry(3.0, change={"number": 3}))
    log.close()
    return tmp_path


@pytest.mark.parametrize("written_bytes", [1, 8, 20, -1])
def test_an_entry_that_a_kill_tore_is_left_out(written, written_bytes):
    with (written / "log").open("ab") as file:
        file.write(line_of(LogEntry(4.0, change={"number": "torn"}), 4)[:written_bytes])
    log = StateLog(written)
    assert log.torn
    assert [entry.at for entry in log.entries] == [1.0, 2.0, 3.0]
    log.append(LogEntry(4.0, change={"number": 4}))
    log.close()
    log = StateLog(written)
    assert [entry.at for entry in log.entries] == [1.0, 2.0, 3.0, 4.0]
    assert log.bodies.read(log.entries[1].body) == b"content"
    log.close()


@pytest.mark.parametrize("missing", [1, 20, "the line"])
def test_an_entry_that_was_answered_and_is_not_whole_is_an_error(written, missing):
    path = written / "log"
    content = path.read_bytes()
    size = len(content.splitlines()[-1]) + 1 if missing == "the line" else missing
    path.write_bytes(content[:-size])
    with pytest.raises(EndpointError, match="last 1 of 3 entries that were answered are missing"):
        StateLog(written)
    assert path.read_bytes() == content[:-size]
    (written / "lock").unlink()  # as the remedy says
    log = StateLog(written)
    assert len(log.entries) == 2
    log.close()


@pytest.mark.parametrize("behind", [b"", b"0123"], ids=["last", "before a torn one"])
def test_a_last_line_with_a_wrong_checksum_is_not_taken_for_a_torn_one(written, behind):
    path = written / "log"
    content = path.read_bytes().replace(b'"number":3}', b'"number":5}') + behind
    path.write_bytes(content)
    with pytest.raises(EndpointError, match="line 4 is not what was written"):
        StateLog(written)
    assert path.read_bytes() == content


@pytest.mark.parametrize("left", [(1, 0, 2), (0, 2, 1), (0, 2), (1, 2), (2,)])
def test_lines_that_are_missing_or_in_another_order_are_an_error(written, left):
    path = written / "log"
    first, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"".join(lines[number] for number in left))
    with pytest.raises(EndpointError, match="lines are missing, or not in their order"):
        StateLog(written)


def test_a_line_that_stands_twice_is_an_error(written):
    path = written / "log"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
    with pytest.raises(EndpointError, match="line 5 has entry 3 where entry 4 belongs"):
        StateLog(written)


def test_a_log_of_the_first_format_is_read_and_goes_on(tmp_path):
    def line(members):
        text = json.dumps(members).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)

    (tmp_path / "log").write_bytes(
        line({"format": "mmekit-state-1"}) + line({"at": 1.0, "change": {"a": 1}})
    )
    log = StateLog(tmp_path)
    log.append(LogEntry(2.0, change={"a": 2}))
    log.close()
    log = StateLog(tmp_path)
    assert [entry.at for entry in log.entries] == [1.0, 2.0]
    log.replace(log.entries)
    log.close()
    assert b"mmekit-state-2" in (tmp_path / "log").read_bytes()
    log = StateLog(tmp_path)
    assert [entry.at for entry in log.entries] == [1.0, 2.0]
    log.close()


def test_an_entry_whose_change_is_refused_is_taken_back(written):
    before = (written / "log").read_bytes()
    log = StateLog(written)

    def refuse():
        with (
            log.bodies.kept(b"other") as body,
            log.appended(LogEntry(4.0, method="PUT", body=body)),
        ):
            assert (written / "log").read_bytes().count(b"\n") == 5
            assert (written / "bodies" / body).exists()
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refuse()
    assert (written / "log").read_bytes() == before
    assert len(list((written / "bodies").iterdir())) == 1
    log.append(LogEntry(5.0))
    log.close()
    log = StateLog(written)
    assert [entry.at for entry in log.entries] == [1.0, 2.0, 3.0, 5.0]
    log.close()


def test_an_entry_whose_change_was_being_made_is_told_from_one_that_was_answered(written):
    script = (
        "import os, pathlib, sys; from mmekit_local.aws.state.log import LogEntry, StateLog\n"
        "with StateLog(pathlib.Path(sys.argv[1])).appended(LogEntry(4.0)): os._exit(9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(written)], check=False, timeout=60)
    assert ended.returncode == 9
    for _ in range(2):  # a start that did not get as far as playing it back changes nothing
        log = StateLog(written)
        assert log.unanswered
        assert [entry.at for entry in log.entries] == [1.0, 2.0, 3.0, 4.0]
        log.close()
    log = StateLog(written)
    log.append(LogEntry(5.0))
    log.close()
    log = StateLog(written)
    assert not log.unanswered
    log.close()


def test_nobody_else_may_read_a_log(written):
    for name in ("log", "lock", "bodies"):
        assert (written / name).stat().st_mode & 0o077 == 0


def test_a_damaged_entry_before_the_last_is_an_error_that_names_its_line(written):
    path = written / "log"
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":7'))
    with pytest.raises(EndpointError, match="line 2 is not what was written") as raised:
        StateLog(written)
    assert raised.value.where == str(path)


def test_a_damaged_or_missing_body_is_an_error(written):
    log = StateLog(written)
    entry = log.entries[1]
    path = written / "bodies" / entry.body
    path.write_bytes(b"other")
    with pytest.raises(EndpointError, match="not what it was"):
        log.bodies.read(entry.body)
    path.unlink()
    with pytest.raises(EndpointError, match="cannot be read"):
        log.bodies.read(entry.body)
    log.close()


@pytest.mark.parametrize("content", ["not ended by a line end", "Dear reader,\n", "0123abcd x"])
def test_a_log_of_somebody_else_stays_as_it_is(tmp_path, content):
    (tmp_path / "log").write_text(content)
    with pytest.raises(EndpointError, match="damaged"):
        StateLog(tmp_path)
    assert (tmp_path / "log").read_text() == content


def test_files_of_somebody_else_stay_where_they_are(tmp_path):
    strange = [".log.mine", ".log.12/inside", "bodies/photo", "bodies/folder/file", "bodies/.x.1"]
    strange += [f"bodies/{'ab' * 32}/file", f"bodies/{'AB' * 32}"]
    for name in strange:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    ours = ["bodies/" + "cd" * 32, "bodies/." + "cd" * 32 + ".17", ".log.17"]
    StateLog(tmp_path).close()
    for name in ours:  # left by kills
        (tmp_path / name).write_text(name)
    log = StateLog(tmp_path)
    with log.bodies.kept(b"content") as body:
        log.append(LogEntry(1.0, method="PUT", body=body))
    log.replace(log.entries)
    log.close()
    assert [name for name in strange if (tmp_path / name).read_text() != name] == []
    assert [name for name in ours if (tmp_path / name).exists()] == []
    assert not (tmp_path / "bodies" / body).exists()


def test_something_else_is_not_taken_for_a_state_folder(tmp_path):
    (tmp_path / "log").write_text("a letter\nto somebody\n")
    with pytest.raises(EndpointError, match="damaged"):
        StateLog(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(EndpointError, match="cannot be used"):
        StateLog(tmp_path / "file")


def test_a_log_is_read_by_people_too(written):
    first = (written / "log").read_text().splitlines()[0]
    assert json.loads(first.partition(" ")[2])["format"] == "mmekit-state-2"
