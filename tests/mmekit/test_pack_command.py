"""`mme pack --artifacts-in`: what it prints, how it ends, and what an interruption leaves."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.mme_command import run_mme
from tests.server_process import wait_until

MODEL = """\
import json
import time

from mmekit_runtime import Handler


class Shop(Handler):
    features = 1

    def load(self, folder):
        factor = json.loads((folder / "factor.json").read_text())
        if factor == "never":
            (folder / "sought").resolve().write_text("")
            time.sleep(600)
        return float(factor)

    def predict(self, model, rows, parameters):
        return model * rows[:, 0]


handle = Shop()
"""


class Command:
    """A package `shop`, artefacts in `shops`, and the command that packs them into `out`."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "shop").mkdir()
        (folder / "shop" / "model.py").write_text(MODEL)
        (folder / "shop" / "serving.properties").write_text("engine=Python\nretry_threshold=10\n")
        (folder / "shop" / "sample_request.json").write_text('{"instances": [[7.0]]}')
        (folder / "shop" / "sample_response.json").write_text('{"predictions": [14.0]}')
        self.words = ["pack", "shop", "--artifacts-in", "shops", "--output", "out"]
        self.environment = {**os.environ, "COLUMNS": "80"}

    def add(self, name, factor):
        """Write the artefacts of one shop."""
        shop = self.folder / "shops" / name
        shop.mkdir(parents=True)
        (shop / "factor.json").write_text(json.dumps(factor))
        return shop

    def run(self, *more):
        """Run the command."""
        return run_mme(*self.words, *more, folder=self.folder, environment=self.environment)


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def test_failures_come_at_the_end_and_the_rest_is_packed(command):
    for name, factor in (("aachen", 2.0), ("berlin", 3.0), ("cottbus", "none")):
        command.add(name, factor)

    ran = command.run()

    assert ran.returncode == 1
    assert "out: 3 models: 2 packed, 0 unchanged, 1 failed" in ran.stdout
    assert "numbers only" in ran.stdout
    assert "cottbus failed: The model failed" in ran.stderr
    assert "could not convert string to float" in ran.stderr
    assert sorted(one.name for one in (command.folder / "out").glob("*")) == [
        *(".mme-pack.json", "aachen.tar.gz", "berlin.tar.gz")
    ]

    (command.folder / "shops" / "cottbus" / "factor.json").write_text("4.0")
    again = command.run("--json")

    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert told["unchanged"] == ["aachen", "berlin"]
    assert list(told["packed"]) == list(told["reused"]) == ["cottbus"]
    assert (told["failures"], told["measured"]) == ({}, [])


@pytest.mark.thorough
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_complete_and_leaves_nothing_else(command, ending):
    command.add("aachen", 2.0)
    assert command.run().returncode == 0
    before = (command.folder / "out" / "aachen.tar.gz").read_bytes()
    sought = command.folder / "shops" / "berlin" / "sought"
    command.add("berlin", "never")
    sought.write_text("not yet")

    process = subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", *command.words],
        cwd=command.folder,
        env=command.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_until(lambda: not sought.read_text() or process.poll() is not None)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(ending)
        _, said = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGINT
    assert "1 of 2 archives are complete" in said
    assert started
    wait_until(lambda: not any(one.is_running() for one in started))
    assert sorted(one.name for one in (command.folder / "out").glob("*")) == [
        *(".mme-pack.json", "aachen.tar.gz")
    ]
    assert (command.folder / "out" / "aachen.tar.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "out"], "one of the two is needed"),
        (["-o", "out", "--artifacts", "shops", "--artifacts-in", "shops"], "only one of the two"),
        (["-o", "a.tar.gz", "--artifacts", "shops", "--measure-each"], "by itself anyway"),
        (["-o", "shop", "--artifacts", "shops"], "an archive is a file"),
        (["-o", "shop/model.py", "--artifacts-in", "shops"], "need a folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(command, words, said):
    command.add("aachen", 2.0)

    ran = run_mme("pack", "shop", *words, folder=command.folder, environment=command.environment)

    assert ran.returncode == 2
    assert said in " ".join(ran.stderr.replace("│", " ").split())
