"""Environments of Multi Model Server, which are made on first use."""

import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import psutil
import pytest

from mmekit.errors import MissingExtraError, ServerError
from mmekit.uv import find_uv
from mmekit_local import environments
from mmekit_local.containers.mms_environment import PYTHON_VARIABLE, key_of, python_of

METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
MAKE = (
    "import sys\n"
    "from mmekit_local.containers.mms_environment import python_of\n"
    "python_of(sys.argv[1:])\n"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder for environments, empty."""
    monkeypatch.setattr(
        environments.platformdirs, "user_cache_dir", lambda _: str(tmp_path / "cache")
    )
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path):
    """A requirement that needs no network: a wheel with one module."""
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return [f"tiny @ {wheel.as_uri()}"]


def answer(python):
    command = [str(python), "-c", "import tiny; print(tiny.ANSWER)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def folders(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_an_environment_is_made_once(cache, tiny):
    python = python_of(tiny)
    made = python.parent.stat().st_ctime_ns

    assert python_of(tiny) == python
    assert python.parent.stat().st_ctime_ns == made
    assert answer(python) == "42"
    assert folders(cache) == [key_of(tiny)]


def test_it_has_pip_as_every_image_does(cache, tiny):
    python = python_of(tiny)

    for command in ([python, "-m", "pip"], [python.parent / "pip"]):
        shown = subprocess.run([*command, "list"], capture_output=True, text=True, check=True)
        assert "tiny" in shown.stdout


def test_other_requirements_are_another_environment(tiny):
    keys = {
        key_of(tiny),
        key_of([*tiny, "more"]),
        key_of(tiny, "3.9"),
    }

    assert len(keys) == 3


def test_who_asks_meanwhile_waits(cache, tiny, caplog):
    caplog.set_level("INFO", "mmekit.environments")
    found = []
    threads = [threading.Thread(target=lambda: found.append(python_of(tiny))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert answer(found[0]) == "42"
    assert sum(line.startswith("making ") for line in caplog.messages) == 1


def test_one_that_is_killed_while_it_installs_leaves_nothing_for_the_next(tmp_path, tiny):
    real = find_uv()
    fifo = tmp_path / "installing"
    os.mkfifo(fifo)
    stub = tmp_path / "bin" / "uv"
    stub.parent.mkdir()
    stub.write_text(
        f'#!/bin/sh\n[ "$1" = pip ] || exec "{real}" "$@"\necho $$ > "{fifo}"\nexec sleep 600\n'
    )
    stub.chmod(0o755)
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    slow = {**variables, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", MAKE, tiny[0]]
    with subprocess.Popen(command, env=slow) as process:
        installing = int(fifo.read_text())
        process.kill()
    psutil.Process(installing).send_signal(signal.SIGKILL)
    (key,) = tmp_path.rglob("mms-*.lock")
    assert not key.with_suffix("").exists()
    assert list(key.parent.glob(".mms-*"))

    subprocess.run(command, env=variables, check=True)

    assert answer(key.with_suffix("") / "bin" / "python") == "42"
    assert not list(key.parent.glob(".mms-*"))


def test_an_environment_whose_python_has_gone_is_made_anew(cache, tiny):
    python = python_of(tiny)
    python.unlink()

    assert answer(python_of(tiny)) == "42"


def test_without_a_network_the_error_says_what_to_do(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))

    with pytest.raises(ServerError) as refused:
        python_of(["tiny==1.0"])

    assert "connect to the network" in refused.value.remedy
    assert PYTHON_VARIABLE in refused.value.remedy
    assert folders(cache) == []


def test_without_uv_the_error_says_how_to_get_it(cache, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setitem(sys.modules, "uv", None)

    with pytest.raises(MissingExtraError, match="uv, which") as refused:
        python_of(tiny)

    assert refused.value.remedy == "pip install 'mmekit[local]'"
    assert folders(Path(cache)) == []


def test_without_the_python_that_is_wanted_the_error_names_it(cache, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(ServerError, match=r"no Python 3\.99 on this machine") as refused:
        python_of(["tiny"], "3.99")
    assert "install Python 3.99" in refused.value.remedy
    assert PYTHON_VARIABLE in refused.value.remedy
    assert folders(cache) == []
