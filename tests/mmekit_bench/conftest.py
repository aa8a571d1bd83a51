"""A server to put load on, and loads on it."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from mmekit_bench import Destination, LoadPlan, LoadResult, Payload, put_load
from mmekit_bench.clock import OwnTimeMeter
from mmekit_bench.recording import LoadRecorder
from mmekit_bench.result import this_machine, versions
from mmekit_bench.traffic import Profile

BODY = b'{"instances": [[1.0]]}'


@dataclasses.dataclass
class Server:
    process: subprocess.Popen
    url: str

    def seen(self):
        with urllib.request.urlopen(f"{self.url}/seen") as answer:
            return json.load(answer)

    def plan(self, *targets, **more):
        """A short load; whatever is not said is half a second on one connection."""
        more = {"duration": 0.5, **more}
        return LoadPlan(Destination.of_url(self.url), Payload(BODY), targets or ("plain",), **more)

    def load(self, *targets, **more):
        return put_load(self.plan(*targets, **more))


@contextlib.contextmanager
def _running_server():
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield Server(process, f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


@pytest.fixture(scope="session")
def start_server():
    """A context manager that runs a server of one's own."""
    return _running_server


@pytest.fixture
def server():
    """A server that nobody has asked before."""
    with _running_server() as running:
        yield running


def _drawn_result(median_ms, seconds=20, rate=200, seed=0, target="m"):
    """A load with answers that were drawn, not waited for."""
    random = np.random.default_rng(seed)
    plan = LoadPlan(Destination.of_url("http://h/m"), Payload(b""), (target,), duration=seconds)
    recorder = LoadRecorder(plan.targets, 0.0, Profile.of(1, seconds))
    recorder.end = seconds
    for second in range(seconds):
        pace = random.normal(1, 0.03)  # no second is like the other
        for number in range(int(rate / pace)):
            due = second + number / rate * pace
            took = median_ms / 1e3 * random.lognormal(0, 0.3) * pace
            recorder.add(due + took, due, due, 0, first=False)
        recorder.fold(second + 1)
    recording = recorder.result(OwnTimeMeter().result(1))
    return LoadResult(1, "2026-01-01T00:00:00+00:00", plan, recording, this_machine(), versions())


@pytest.fixture
def a_result():
    """A function that makes up the result of a load."""
    return _drawn_result
