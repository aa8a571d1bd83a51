"""The store of layers: one copy of each, whole or not at all, and none removed that is in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mmekit_runtime
from mmekit_runtime.layers.contents import digest_of_folder
from mmekit_runtime.layers.listing import LayerError
from mmekit_runtime.layers.store import LayerStore
from tests.server_process import wait_until

CHANGING = """
import sys
from mmekit_runtime.layers.store import LayerStore

store = LayerStore(sys.argv[1])
for _ in range(100):
    store.evict(1)
    store.add(sys.argv[2], lambda new: (new / "file").write_text("content"))
"""

PACKAGES = str(Path(mmekit_runtime.__file__).parents[1])

ADDING = """
import os, sys, time
from pathlib import Path
from mmekit_runtime.layers.store import LayerStore

folder, sha256, log = sys.argv[1:]

def fill(new):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    (new / "half").write_text("of it")
    if os.path.exists(log + ".hold"):
        time.sleep(600)
    (new / "half").unlink()
    (new / "file").write_text("content")

print(LayerStore(folder).add(sha256, fill), flush=True)
"""


def added(store, *contents):
    """Add layers of one file each, the oldest first; return their names."""
    names = []
    for content in contents:
        path = store.folder.parent / "made"
        path.mkdir()
        (path / "file").write_text(content)
        names.append(digest_of_folder(path).sha256)
        store.add(names[-1], lambda new, path=path: (path / "file").rename(new / "file"))
        path.rmdir()
        times = (len(names), len(names))
        os.utime(store.folder / f"{names[-1]}.lock", times)
    return names


@pytest.fixture
def store(tmp_path):
    return LayerStore(tmp_path / "store", budget=100)


def adding(store, name, log):
    return subprocess.Popen(
        [sys.executable, "-S", "-c", ADDING, str(store.folder), name, str(log)],
        env={"PYTHONPATH": PACKAGES},
        stdout=subprocess.PIPE,
    )


@pytest.fixture
def name(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("content")
    return digest_of_folder(tmp_path / "x").sha256


def test_a_layer_that_was_added_is_there_and_no_other(store):
    assert store.sizes() == {}
    (name,) = added(store, "ten bytes.")

    assert store.get(name) == store.folder / name
    assert (store.folder / name / "file").read_text() == "ten bytes."
    assert store.sizes() == {name: 10}
    assert store.get("0" * 64) is None
    assert store.hold("0" * 64) is None


def test_processes_that_want_a_layer_at_once_have_it_made_once(store, name, tmp_path):
    processes = [adding(store, name, tmp_path / "log") for _ in range(16)]

    printed = {process.communicate()[0].decode().strip() for process in processes}

    assert printed == {str(store.folder / name)}
    assert len((tmp_path / "log").read_text().split()) == 1


def test_a_process_that_was_killed_while_it_made_a_layer_harms_nobody(store, name, tmp_path):
    (tmp_path / "log.hold").touch()
    first = adding(store, name, tmp_path / "log")
    wait_until(lambda: list(store.folder.glob(".*/half")))
    second = adding(store, name, tmp_path / "log")
    (tmp_path / "log.hold").unlink()

    assert store.get(name) is None
    first.send_signal(signal.SIGKILL)
    first.communicate()

    assert second.communicate()[0].decode().strip() == str(store.folder / name)
    assert [path.name for path in (store.folder / name).iterdir()] == ["file"]
    assert not list(store.folder.glob("*.new"))


def test_a_layer_with_other_bytes_is_not_added(store):
    with pytest.raises(LayerError, match="damaged or changed"):
        store.add("0" * 64, lambda new: (new / "file").write_text("other"))

    assert store.get("0" * 64) is None
    assert not list(store.folder.glob(".*"))


def test_what_fails_while_it_is_made_leaves_nothing(store):
    def fill(new):
        (new / "half").write_text("of it")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        store.add("0" * 64, fill)

    assert not list(store.folder.glob(".*"))


def test_what_was_used_the_longest_time_ago_is_evicted_first(store):
    first, _second, third = added(store, "a" * 30, "b" * 30, "c" * 30)

    os.close(store.hold(first))

    assert store.evict(20) == 30
    assert set(store.sizes()) == {first, third}


def test_a_layer_that_somebody_holds_is_never_evicted(store):
    first, _second = added(store, "a" * 30, "b" * 30)
    lock = store.hold(first)

    assert store.evict(1000) == 30
    assert set(store.sizes()) == {first}

    os.close(lock)
    assert store.evict(1000) == 30
    assert store.sizes() == {}


def test_a_layer_that_another_process_holds_is_never_evicted(store):
    (name,) = added(store, "a" * 30)
    lock = store.hold(name)
    # As a stub becomes a shell: what it has open goes along.
    process = subprocess.Popen(["sleep", "600"], pass_fds=(lock,))
    os.close(lock)

    assert store.evict(30) == 0
    process.kill()
    process.wait()
    assert store.evict(30) == 30


def test_room_is_made_within_the_budget_before_a_layer_is_added(store):
    _first, second, third = added(store, "a" * 30, "b" * 30, "c" * 30)
    path = store.folder.parent / "file"
    path.write_text("d" * 40)
    (path.parent / "x").mkdir()
    path.rename(path.parent / "x" / "file")
    name = digest_of_folder(path.parent / "x").sha256

    store.add(name, lambda new: (path.parent / "x" / "file").rename(new / "file"), 40)

    assert set(store.sizes()) == {second, third, name}


def test_a_layer_comes_back_after_it_was_evicted(store):
    (name,) = added(store, "a" * 30)
    store.evict(1)
    assert store.hold(name) is None

    assert added(store, "a" * 30) == [name]
    os.close(store.hold(name))


def test_what_killed_processes_have_left_is_removed_when_room_is_wanted(store, name, tmp_path):
    (tmp_path / "log.hold").touch()
    process = adding(store, name, tmp_path / "log")
    wait_until(lambda: list(store.folder.glob(".*/half")))

    assert store.evict(1) == 0
    assert list(store.folder.glob(".*/half"))
    process.kill()
    process.communicate()

    assert store.evict(1) == len("of it")
    assert not list(store.folder.glob(".*"))


def test_whoever_holds_a_layer_has_all_of_it_while_others_evict_and_add(store, name):
    arguments = [sys.executable, "-S", "-c", CHANGING, str(store.folder), name]
    environment = {"PYTHONPATH": PACKAGES}
    processes = [subprocess.Popen(arguments, env=environment) for _ in range(2)]
    held = 0
    while any(process.poll() is None for process in processes):
        lock = store.hold(name)
        if lock is not None:
            assert (store.folder / name / "file").read_text() == "content"
            os.close(lock)
            held += 1

    assert held
    assert [process.wait() for process in processes] == [0, 0]


def test_what_is_in_the_store_can_be_written_by_its_owner_alone(store):
    before = os.umask(0)
    try:
        (name,) = added(store, "x")
    finally:
        os.umask(before)

    for path in (store.folder, store.folder / name, store.folder / f"{name}.lock"):
        assert not path.stat().st_mode & 0o022


def test_a_layer_that_was_changed_is_not_used_again(tmp_path):
    store = LayerStore(tmp_path / "store")
    (name,) = added(store, "content")
    file = store.get(name) / "file"
    assert file.stat().st_mode & 0o222 == 0
    lock = store.hold(name)
    os.close(lock)

    # As root may, whatever the mode says.
    file.chmod(0o644)
    file.write_text("another")

    assert store.hold(name) is None
    assert store.get(name) is None
    assert added(store, "content") == [name]
    assert (store.get(name) / "file").read_text() == "content"
    os.close(store.hold(name))


def test_byte_code_that_python_adds_to_a_layer_changes_nothing(tmp_path):
    store = LayerStore(tmp_path / "store")
    (name,) = added(store, "content")
    (store.get(name) / "__pycache__").mkdir()
    (store.get(name) / "__pycache__" / "file.pyc").write_bytes(b"compiled")

    lock = store.hold(name)

    assert lock is not None
    os.close(lock)


def test_another_user_may_hold_what_was_added_whatever_the_umask(store):
    before = os.umask(0o077)
    try:
        (name,) = added(store, "x")
    finally:
        os.umask(before)

    # A container's user may be another than the one that unpacks for it.
    assert (store.folder / name).stat().st_mode & 0o777 == 0o755
    assert (store.folder / f"{name}.lock").stat().st_mode & 0o777 == 0o644
