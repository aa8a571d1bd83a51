"""The head to head survives what a peer does, and says of each figure where it is from."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PSS needs Linux")

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        known = self.path.strip("/") in sys.argv[2:]
        body = json.dumps({"predictions": [7.0]}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def subject(tmp_path):
    from peer_runs.subjects import Subject

    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    (artifacts / "model.joblib").write_bytes(b"a model")
    return Subject("linear_regression", "a model", "number", [0.5], artifacts, tmp_path)


@pytest.fixture
def peer_of():
    """A peer whose server is a program."""

    def make(program):
        from peer_runs.peer import Peer, Server
        from peer_runs.processes import started

        from mmekit_local.ports import free_port

        class Small(Peer):
            name, title, package, setting, pages = "small", "Small", "none", "", ()
            version = "1"
            dynamic = False

            @contextlib.contextmanager
            def running(self, subject, models, work):
                port = free_port()
                names = [folder.name for folder in models]
                command = [sys.executable, "-S", "-c", program, str(port), *names]
                with started(
                    command,
                    {},
                    work,
                    ready=lambda: self.answers(subject, port, models),
                    within_s=60,
                ):
                    yield Server(port)

        return Small()

    return make


def measured(peer, subject, work, counts=(1, 3)):
    from peer_runs.measurement import Plan, measure_cell

    work.mkdir()
    return measure_cell(peer, subject, Plan(counts, ()), 60, work, lambda _: None)


def test_a_peer_is_started_measured_and_ended(peer_of, subject, tmp_path):
    before = psutil.Process().children(recursive=True)

    cell = measured(peer_of(SERVER), subject, tmp_path / "work")

    assert cell.cold.kind == "start"
    assert cell.answer == "7.0"
    assert [(one.models, one.extrapolated) for one in cell.memory] == [(1, False), (3, False)]
    assert all(one.proportional > 1 << 20 for one in cell.memory)
    assert psutil.Process().children(recursive=True) == before


def test_a_peer_that_does_not_start_leaves_its_last_words(peer_of, subject, tmp_path):
    cell = measured(peer_of("raise SystemExit('no such option')"), subject, tmp_path / "work")

    assert (cell.cold, cell.memory, cell.loads) == (None, (), ())
    assert set(cell.missing) == {"cold", "memory", "load"}
    assert all("no such option" in why for why in cell.missing.values())


def test_a_peer_that_takes_too_much_memory_is_stopped(peer_of, subject, tmp_path, monkeypatch):
    from peer_runs import processes

    monkeypatch.setattr(processes, "CEILING", -(1 << 60))

    cell = measured(peer_of("import time; time.sleep(60)"), subject, tmp_path / "work")

    assert "more than" in cell.missing["cold"]


def test_cells_are_kept_and_come_back_whole(tmp_path):
    from peer_runs.cells import Cell, Cold, Kept, Memory

    from mmekit_bench import Load

    load = Load("wrk", 8, 100, 1.0, 1.0, 2.0, 3.0, 4.0, 0)
    memory = (Memory(1, 100, 1), Memory(50, 5000, 10))
    cold, idle = Cold("load", 9.0, 3.0, 10), Memory(50, 900, 50)
    cell = Cell("mmekit", "1", "m", "now", cold, memory, idle, (load,), "7")
    kept = Kept(tmp_path / "found")

    assert kept.get("mmekit", "m") is None
    kept.put(cell)
    assert kept.get("mmekit", "m") == cell
    (tmp_path / "found" / "mmekit-m.json").write_text("{}")
    assert kept.get("mmekit", "m") is None


@pytest.fixture
def cells():
    from peer_runs.cells import Cell, Cold, Memory

    from mmekit_bench import Load

    def cell(peer, cold, memory, rate, measured_with=50):
        loads = tuple(Load("wrk", n, rate * n, 1.0, 1.0, 2.0, 3.0, 4.0, 0) for n in (1, 8, 32))
        sizes = (Memory(1, 1 << 20, 1), Memory(50, memory << 20, measured_with))
        missing = {} if measured_with == 50 else {"memory 50": "it was late"}
        model = "catboost_classifier"
        kind = "start" if peer == "litserve" else "load"
        # Ours park what is idle.
        idle = Memory(50, 40 << 20, 50) if peer in {"mmekit", "djl-slots"} else sizes[-1]
        cold = Cold(kind, 9, cold, 10)
        return Cell(peer, "1.0", model, "now", cold, sizes, idle, loads, "1", missing)

    return [
        cell("mmekit", 20.0, 500, 1000),
        cell("djl-slots", 10.0, 100, 9000),
        cell("mms", 900.0, 4000, 500, measured_with=9),
        cell("litserve", 4000.0, 600, 300),
        cell("mlserver", 9.0, 300, 200),
    ]


def test_mmekit_is_compared_with_the_best_of_the_others(cells):
    from peer_runs.targets import judge

    met = {one.what: (one.met, one.reached) for one in judge(cells)}

    assert met["first in cold load"] == (False, "20 ms; MLServer 9.0 ms")
    assert met["first in memory for 50 models"] == (False, "500 MiB; MLServer 300 MiB")
    idle = met["first in memory for 50 models, 45 of them idle"]
    assert idle == (True, "40 MiB; MLServer 300 MiB")
    assert all(one.among_isolated for one in judge(cells) if one.what.startswith("first"))
    assert met["first in throughput at 32 connections"][0] is True
    (ratio,) = [value for what, value in met.items() if what.startswith("at least 2.5 times")]
    assert ratio == (False, "2.00 (8,000 / 4,000 a second)")


def test_what_was_never_measured_has_a_dash_and_its_reason(cells):
    from peer_runs.report import Results, markdown
    from reporting import Conditions

    text = markdown(Results(Conditions(2, 24, "Linux 6", "3.11.7", 0.0), tuple(cells), 3))

    assert "- (≈ 4,000 MiB from 9)" in text
    assert "- Multi Model Server: CatBoost, 500 trees (memory 50): it was late." in text
    assert "*start* 4,000 ms" in text
