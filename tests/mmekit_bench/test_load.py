"""Loads on a real server: what is sent, what is counted, and what goes wrong."""

import sys
import threading
import time

import pytest

from mmekit.errors import EndpointError, MmekitError
from mmekit_bench import Destination, LoadPlan, Payload, Target, measure, put_load
from mmekit_bench.load import is_wrk_installed, put_load_with_wrk

BODY = b'{"instances": [[1.0]]}'


def test_every_request_that_is_counted_was_seen_by_the_server(server):
    result = server.load("plain", "other", connections=3, duration=None, requests=500)

    seen = server.seen()
    assert sum(seen["count"].values()) == result.recording.answered == 500
    assert {one.target: one.answered for one in result.recording.targets} == seen["count"]
    assert result.recording.first.count + result.recording.later.count == 500
    assert not result.recording.errors
    assert seen["heads"]["plain"]["body"] == BODY.decode()
    assert seen["heads"]["plain"]["headers"]["content-type"] == "application/json"


def test_a_closed_loop_keeps_its_connections_busy(server):
    recording = server.load("slow-20", connections=5, duration=None, requests=100).recording

    assert recording.answered == 100
    assert recording.later.percentile(50) >= 20
    # Each of the five connections waits for an answer, and none asks before it has it.
    assert server.seen()["most"] == 5


def test_an_open_loop_asks_at_its_rate_however_long_answers_take(server):
    load = server.load("slow-300", rate=100, connections=64, duration=None, requests=100)
    recording = load.recording
    assert recording.first.count + recording.later.count == 100
    assert recording.later.percentile(50) >= 300
    assert recording.waited.percentile(50) < recording.later.percentile(50)
    assert server.seen()["most"] > 5  # thirty are due while one is answered


def test_a_server_that_stalls_is_seen_by_an_open_loop_and_overlooked_by_a_closed_one(server):
    """Coordinated omission: while the server stalls, a closed loop does not ask."""
    closed = server.load("stall-20", duration=None, requests=200).recording
    opened = server.load("stall-220", rate=200, duration=1.5, connections=64).recording

    assert closed.later.percentile(100) >= 500
    assert closed.later.percentile(95) < 400  # one call in two hundred
    assert opened.later.percentile(90) >= 250  # a hundred were due meanwhile


def test_what_an_open_loop_cannot_keep_outstanding_is_dropped_and_counted(server):
    how = {"rate": 200, "connections": 2, "outstanding": 10, "duration": None, "requests": 100}
    recording = server.load("slow-300", **how).recording
    assert recording.dropped > 50
    assert recording.dropped + recording.first.count + recording.later.count == 100
    assert sum(second.dropped for second in recording.series) <= recording.dropped


def test_the_first_calls_of_every_target_are_told_apart(server):
    recording = server.load("cold-1", "cold-2", connections=1).recording

    assert recording.first.count == 2
    assert recording.first.least_ms >= 200 > recording.later.percentile(50)
    assert all(one.first_ms >= 200 for one in recording.targets)


def test_the_warm_up_counts_for_first_calls_only(server):
    recording = server.load("cold", warm_up=0.5, duration=0.5, connections=1).recording
    assert recording.first.count == 1
    # The last answer may have come after the end.
    assert recording.answered == pytest.approx(recording.targets[0].answered, abs=1)
    assert server.seen()["count"]["cold"] > recording.answered > 0


@pytest.mark.thorough
def test_a_ramp_opens_connections_one_after_the_other(server):
    recording = server.load("slow-10", ramp="1:9", duration=2.0).recording
    assert [second.level for second in recording.series] == [3, 7]
    assert 3 < server.seen()["most"] <= 9


@pytest.mark.thorough
def test_a_spike_shows_in_the_series(server):
    load = server.load("plain", rate=20, spike="10@1+1", duration=3.0, connections=32)
    series = load.recording.series
    assert [second.level for second in series] == [20, 200, 20]
    # An answer may come a second late.
    assert series[0].answered <= 21
    assert 200 < sum(second.answered for second in series) <= 241


def test_errors_are_counted_by_kind_and_end_nothing(server):
    targets = ("plain", "status-507", "status-429")
    recording = server.load(*targets, duration=None, requests=300, connections=4).recording

    seen = server.seen()["count"]
    assert recording.errors == {
        "507 OutOfMemoryException": seen["status-507"],
        "429 OutOfMemoryException": seen["status-429"],
    }
    assert recording.answered == seen["plain"]
    assert recording.first.count + recording.later.count == recording.answered


def test_a_server_that_closes_after_each_answer_is_no_error(server):
    recording = server.load("close", duration=None, requests=50, connections=2).recording
    assert recording.answered == 50
    assert not recording.errors


def test_a_server_that_hangs_up_is_an_error_and_asked_again(server):
    recording = server.load("hangup", "plain", duration=None, requests=100).recording
    assert set(recording.errors) <= {"connection closed"}
    assert recording.answered + recording.failed == 100
    assert recording.answered > 10


@pytest.mark.parametrize("rate", [None, pytest.param(50, marks=pytest.mark.thorough)])
def test_a_server_that_never_answers_is_given_up(server, rate):
    recording = server.load("silent", timeout=0.3, rate=rate, connections=2, duration=1.0).recording
    assert recording.errors["no answer in 0.3 s"] >= 2
    assert not recording.answered


@pytest.mark.parametrize("rate", [None, pytest.param(200, marks=pytest.mark.thorough)])
def test_a_server_that_dies_meanwhile_leaves_what_was_found_until_then(start_server, rate):
    with start_server() as server:
        plan = server.plan("plain", duration=1.0, rate=rate, connections=2)

        def kill():
            while server.seen()["count"].get("plain", 0) < 20:
                time.sleep(0.01)
            server.process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        result = put_load(plan)
        killer.join()
    recording = result.recording
    assert recording.answered > 0
    assert recording.failed > 0
    assert set(recording.errors) <= {
        "connection refused",
        "connection closed",
        "Connection reset by peer",
    }


def test_nobody_at_home_is_an_error_with_a_remedy(free_port):
    destination = Destination.of_url(f"http://127.0.0.1:{free_port}/models/m/invoke")
    with pytest.raises(EndpointError, match="connection refused") as raised:
        put_load(LoadPlan(destination, Payload(b""), ("m",)))
    assert "mme serve" in raised.value.remedy
    assert f":{free_port}/models/m/invoke" in raised.value.where


@pytest.mark.parametrize(
    ("load", "where"),
    [
        ({"rate": 1e12}, "--rate"),
        ({"rate": float("inf")}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"rate": 10.0, "spike": "1000000@0+1"}, "--rate"),
        ({"connections": 10**9}, "--connections"),
        ({"ramp": "1:1000000"}, "--connections"),
        ({"rate": 10.0, "connections": 10**9}, "--connections"),
    ],
)
def test_more_than_one_client_can_do_is_refused_before_anything_is_sent(server, load, where):
    with pytest.raises(MmekitError, match="more than one client") as raised:
        server.load("plain", **load)
    assert raised.value.where == where
    assert "at most" in raised.value.remedy
    assert server.seen()["count"] == {}


def test_who_lacks_what_the_generator_needs_is_told_before_it_starts(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "httptools", None)
    with pytest.raises(ModuleNotFoundError, match="httptools"):
        server.load("plain")


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://a/b", "http://", "http://a:b/"])
def test_what_is_no_url_of_http_is_said(url):
    with pytest.raises(MmekitError, match="no URL of HTTP"):
        Destination.of_url(url)


def test_progress_is_told_about_every_second_in_whatever_thread(server):
    told = []

    def tell(progress):
        told.append(progress)
        if progress.latest and progress.latest.answered:
            raise StopIteration  # which ends the load

    def load():
        with pytest.raises(StopIteration):
            put_load(server.plan("plain", warm_up=0.5, duration=60), tell)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert told[0].elapsed < 0
    assert told[-1].latest.answered


def test_the_client_that_takes_part_in_what_it_measures_says_so(server):
    slow = server.load("slow-100", connections=4)
    own_time = slow.recording.own_time
    assert own_time.cpu_us > 0
    assert own_time.lag.count > 0
    median_ms = own_time.cpu_us / 1e3
    assert any("is part of the figures" in said for said in own_time.limits(5 * median_ms))
    assert not any("is part of the figures" in said for said in own_time.limits(20 * median_ms))


@pytest.mark.skipif(not is_wrk_installed(), reason="wrk is not installed")
def test_wrk_sends_the_same_requests_in_the_same_shares(server):
    plan = server.plan("plain", "status-507", "other", distribution="top-2", connections=4)
    found = put_load_with_wrk(plan, 1)

    seen = server.seen()
    assert set(seen["count"]) == {"plain", "status-507"}
    assert seen["count"]["plain"] == pytest.approx(seen["count"]["status-507"], rel=0.5)
    assert found.requests == pytest.approx(sum(seen["count"].values()), abs=4)
    assert found.errors == pytest.approx(seen["count"]["status-507"], abs=4)
    assert seen["heads"]["plain"]["body"] == BODY.decode()
    assert seen["heads"]["plain"]["headers"]["content-type"] == "application/json"


@pytest.mark.parametrize(
    "tool",
    [
        "python",
        pytest.param("wrk", marks=pytest.mark.skipif(not is_wrk_installed(), reason="no wrk")),
    ],
)
def test_benchmarks_measure_with_either_generator(server, tool):
    found = measure(Target(f"{server.url}/models/slow-10/invoke", BODY), 2, 1, tool)
    assert (found.tool, found.connections, found.errors) == (tool, 2, 0)
    assert 10 <= found.p50_ms <= found.p95_ms <= found.p99_ms <= found.p999_ms
    assert 0 < found.requests_per_second <= 2 * 1000 / 10
