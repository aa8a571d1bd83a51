"""The real DJL Serving as a server of ours; the first tests need neither it nor Java."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading

import httpx
import psutil
import pytest

from mmekit.errors import ServerError
from mmekit_local.server.djl import HOME_VARIABLE, distribution, java_version

MAIN = """
import sys
from mmekit.errors import MmekitError
from mmekit_local.server import ServerOptions
from mmekit_local.server.djl import run_djl

try:
    run_djl(ServerOptions(port=0, exit_with_stdin=True))
except MmekitError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Make a command that says which Java it is."""

    def make(text, code=0):
        file = tmp_path / "java"
        file.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
        file.chmod(0o755)
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))

    return make


def test_without_a_home_one_is_told_how_to_name_it(monkeypatch):
    monkeypatch.delenv(HOME_VARIABLE, raising=False)

    with pytest.raises(ServerError, match="MMEKIT_DJL_HOME is not set") as error:
        distribution()

    assert "bin/serving" in str(error.value.remedy)


def test_a_folder_that_is_no_distribution_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))

    with pytest.raises(ServerError, match="names no distribution of DJL Serving") as error:
        distribution()

    assert error.value.where == str(tmp_path.resolve())


def test_a_distribution_is_found(tmp_path, monkeypatch):
    for name in ("bin", "lib", "conf"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "serving").touch()
    (tmp_path / "lib" / "serving-0.36.0.jar").touch()
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))

    assert distribution() == tmp_path.resolve()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "11.0.2"', 11),
    ],
)
def test_java_tells_its_version(java, text, version):
    java(text)

    assert java_version() == version


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('java version "1.8.0_452"', 0, "needs Java 11 or later, this is 8"),
        ("something else", 0, "needs Java 11 or later, this is unknown"),
        ("no", 1, "this one does not run"),
    ],
)
def test_a_java_that_does_not_do_is_refused(java, text, code, message):
    java(text, code)

    with pytest.raises(ServerError, match=message) as error:
        java_version()

    assert "openjdk-17" in str(error.value.remedy)


def test_without_java_one_is_told_to_install_it(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ServerError, match="there is none on PATH"):
        java_version()


class Running:
    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN],
            env={**os.environ, "TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if "serving on http://" in line:
                break
        else:
            pytest.fail("".join(self.lines))
        self.base = self.lines[-1].split()[-1]
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout))
        self._reader.start()

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self._reader.join()
        self.process.stdout.close()


@pytest.fixture
def running():
    if not os.environ.get(HOME_VARIABLE):
        pytest.skip(f"{HOME_VARIABLE} names no DJL Serving")
    # Short, as the sockets of workers lie below it; and gone when its server was killed, too.
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        running = Running(folder)
        yield running
        running.close()


def test_it_serves_until_it_is_told_to_end_and_leaves_nothing(running, model_folder):
    content = {"model_name": "echo", "url": str(model_folder(minWorkers=1, maxWorkers=1))}
    assert httpx.post(f"{running.base}/models", json=content, timeout=60).status_code == 200
    assert httpx.post(f"{running.base}/models/echo/invoke", content=b"x").content == b"x"
    family = running.family()
    assert len(family) >= 3

    running.process.send_signal(signal.SIGTERM)

    assert running.process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert any("DJL" in line or "djl" in line for line in running.lines)


def test_it_ends_with_its_standard_input(running):
    family = running.family()

    running.process.stdin.close()

    assert running.process.wait(timeout=60) == 0
    assert psutil.wait_procs(family, timeout=60)[1] == []


def test_java_does_not_outlive_who_started_it(running):
    family = running.family()

    running.process.kill()

    assert psutil.wait_procs(family, timeout=60)[1] == []
