"""What is looked at while nobody asks: little, and as before as soon as somebody does."""

import itertools
import subprocess
import sys

import pytest

from mmekit_local.sagemaker.aws_client import ObjectAddress
from mmekit_local.sagemaker.instances.model_disk import StoredModel
from mmekit_local.sagemaker.instances.model_loading import LoadedModel
from mmekit_local.sagemaker.instances.usage import UsageMeter
from mmekit_runtime.slots.admission import PERIOD_S, Admission

PROGRAM = """
import os, sys

for line in sys.stdin:
    if line.strip() == "work":
        until = os.times().user + 0.3
        while os.times().user < until:
            pass
    print("done", flush=True)
"""


@pytest.fixture
def container():
    """A process that stands for a container, and does what it is told."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def tell(what):
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"

        process.tell = tell
        yield process
        process.kill()


def test_a_container_at_rest_has_the_memory_that_it_had(container):
    container.tell("nothing")
    meter = UsageMeter()
    whole = meter.measure({"a": container.pid})["a"]
    rested = meter.measure_at_rest({"a": container.pid})["a"]

    assert whole.processes == {container.pid}
    assert (rested.memory_bytes, rested.processes) == (whole.memory_bytes, whole.processes)
    assert rested.cpu_percent <= 1.0


def test_a_container_that_works_unasked_is_measured_and_nothing_is_lost(container):
    meter = UsageMeter()
    meter.measure({"a": container.pid})
    container.tell("work")

    assert meter.measure_at_rest({"a": container.pid}) is None
    assert meter.measure({"a": container.pid})["a"].cpu_percent > 1.0


def test_another_container_or_an_end_is_noticed(container):
    meter = UsageMeter()
    meter.measure({"a": container.pid})
    assert meter.measure_at_rest({"a": container.pid, "b": container.pid}) is None
    assert meter.measure_at_rest({}) is None

    container.stdin.close()
    container.wait(60)
    assert meter.measure_at_rest({"a": container.pid}) is None


def test_a_model_is_described_less_the_longer_nobody_asks_it(tmp_path):
    stored = StoredModel("m", ObjectAddress("b", "m.tar.gz"), tmp_path, 1)
    model = LoadedModel("m.tar.gz", stored, b"", loaded_at=0.0, used_at=100.0)
    looks = []
    for second in range(100, 1000):
        if model.is_to_be_described(float(second)):
            looks.append(second - 100)
            model.described_at = second + 0.5
            model.described_after_s = model.described_at - model.used_at
    assert len(looks) <= 20  # and 300 if it were every three seconds
    assert max(b - a for a, b in itertools.pairwise(looks)) <= 61

    model.used_at = 2000.0
    assert model.is_to_be_described(2000.5)


def test_a_fork_server_with_gigabytes_to_spare_looks_less_often(monkeypatch):
    admission = Admission()
    assert admission.period_s == PERIOD_S
    left = admission.memory.low + (3 << 30)
    monkeypatch.setattr(admission.memory, "available", lambda: left)
    admission.look([])
    assert admission.period_s == pytest.approx(3.0)

    left = admission.memory.low + (1 << 20)
    admission.look([])
    assert admission.period_s == PERIOD_S
