"""Lines of an endpoint's log: whose they are, which are failures, and which say figures."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mmekit.errors import EndpointError
from mmekit.operate import (
    ContainerLine,
    FailedLines,
    OperatedEndpoint,
    cause_of,
    drawn_view,
    model_lines,
    rehearsal_view,
)
from mmekit.operate.causes import FailureCause, grouped
from mmekit.operate.lines import failures_among, workers_of
from mmekit.operate.metered import is_metered, metered_models
from mmekit.printing import TextTable
from mmekit.settings import Settings

ENDPOINT = OperatedEndpoint("fleet", "123456789012", "InService", ("v",), ("s3://models/mine/",))
EMBEDDED = "2026-11-28 22:12:07,934 INFO W-ridge: "
DJL = "[WARN ] PyProcess - W-4711-gradient_boosti-stderr: "
TRACEBACK = (
    "ERROR::the request failed",
    "Traceback (most recent call last):",
    '  File "/opt/ml/models/1bd9/model/model.py", line 13, in predict',
    "    raise RuntimeError(row)",
    "RuntimeError: row 360.0 of /opt/data/x360/weights.bin is too large",
)


def lines(*texts, before=EMBEDDED, instance="v/i-1"):
    return [ContainerLine(number, instance, before + text) for number, text in enumerate(texts)]


def test_both_servers_put_the_name_of_a_worker_before_what_it_prints():
    (ours,) = lines("loaded")
    (djls,) = lines("loaded: yes", before=DJL)
    assert (ours.worker, ours.said) == ("ridge", "loaded")
    assert (djls.worker, djls.said) == ("gradient_boosti", "loaded: yes")
    assert ContainerLine(0, "v/i-1", "serving on http://0.0.0.0:8080").worker == ""


def test_lines_of_a_model_are_told_by_key_name_and_the_services_hash():
    hashed = hashlib.sha256(b"s3://models/mine/shops/ridge.tar.gz").hexdigest()[:32]
    given = [
        *lines("one"),
        *lines("other", before=DJL),
        *lines(f"Model {hashed} loaded in 12 ms.", "Model 0123 loaded in 9 ms.", before=""),
    ]

    def found(key, name=None):
        return [line.said for line in model_lines(given, key, name, ENDPOINT)]

    assert found("shops/ridge.tar.gz") == ["one", f"Model {hashed} loaded in 12 ms."]
    assert found("ridge-0123456789ab.tar.gz") == ["one"]
    assert found("kiosk.tar.gz", "gradient_boosting") == ["other"]
    assert workers_of(given) == ["gradient_boosti", "ridge"]


def test_a_traceback_belongs_to_a_failure_as_a_whole_and_is_one_failure():
    given = lines("hello", *TRACEBACK, "and on")
    failed = FailedLines()
    assert [line.said for line in given if failed.has(line)] == list(TRACEBACK)
    assert [line.said for line in failures_among(given)] == [TRACEBACK[-1]]


def test_tracebacks_of_two_models_at_once_are_told_apart():
    ours, theirs = lines(*TRACEBACK), lines("hello", *TRACEBACK[1:], before=DJL)
    given = [line for pair in zip(ours, theirs, strict=True) for line in pair]
    failed = FailedLines()
    assert [line for line in given if not failed.has(line)] == [theirs[0]]
    assert len(list(failures_among(given))) == 2


def test_of_exceptions_that_follow_from_each_other_the_last_is_the_failure():
    follows = "During handling of the above exception, another exception occurred:"
    given = lines(*TRACEBACK, "", follows, "", TRACEBACK[1], "ValueError: no row")
    assert [line.cause for line in failures_among(given)] == ["ValueError: no row"]


def test_failures_that_differ_in_numbers_ids_and_paths_are_of_one_cause():
    texts = (
        "row 3.5 of /opt/ml/models/0a1b/x.bin at 0x7f00 for 12 MiB, s3://a/b 4f3a99d0b1c2",
        "row -17 of /opt/ml/models/ffee/y.bin at 0x81ab for 9 MiB, s3://c/d 99d0b1c24f3a",
    )
    assert len({cause_of(text) for text in texts}) == 1
    causes = [
        FailureCause(cause_of(text), "ridge", None, 1, at, at, text)
        for at, text in enumerate(texts, 1)
    ]
    (one,) = grouped(causes)
    assert (one.count, one.first, one.last, one.example) == (2, 1, 2, texts[1])
    assert one.models == "ridge"


def test_failures_of_several_models_with_one_cause_are_no_single_models():
    given = [
        FailureCause("no row <n>", target, 400, count, at, at, "no row 7")
        for target, count, at in (("ridge-3", 97, 1.0), ("ridge-17", 1, 2.0), ("", 1, 0.0))
    ]
    (one,) = grouped(given)
    assert (one.count, one.first, one.target) == (99, 0.0, "ridge-17")
    assert one.models == "ridge-17 and 1 other"


def metered(model, instance="v/i-1", namespace="mmekit", **figures):
    named = {f"mme_model_{name}": value for name, value in figures.items()}
    about = {"Timestamp": 1, "CloudWatchMetrics": [{"Namespace": namespace}]}
    text = json.dumps({"_aws": about, "Endpoint": "fleet", "Model": model, **named})
    return ContainerLine(0, instance, text)


def test_figures_of_models_add_up_over_lines_and_instances():
    spread = {"Values": [0.001, 0.1], "Counts": [98, 2]}
    given = [
        metered("ridge", requests_total=100, predict_seconds=spread, memory_bytes=7),
        metered("ridge", "v/i-2", requests_total=1, errors_total=1, memory_bytes=5),
        metered("ridge", requests_total=1, loads_total=1, predict_seconds=0.001, memory_bytes=9),
        *lines("hello", '{"_aws": 1}', before=""),
    ]
    (one,) = metered_models(given)
    assert (one.target, one.requests, one.errors, one.cold_loads) == ("ridge", 102, 1, 1)
    assert (one.p50_ms, one.p99_ms, one.memory_bytes) == (1.0, 100.0, 14)
    assert one.where == (("v/i-1", "loaded"), ("v/i-2", "loaded"))


@pytest.mark.parametrize(
    "text",
    [
        metered(["a"], requests_total=1).text,
        metered("mine", namespace="mine", requests_total=7).text,
        '{"_aws": {"CloudWatchMetrics": [{"Namespace": ["mmekit"]}]}, "Model": "mine"}',
        '{"_aws": {"CloudWatchMetrics": {}}, "Model": "mine", "mme_model_errors_total": 1}',
        '{"_aws": 1, "Model": "mine", "mme_model_errors_total": 1}',
        '{"_aws": {"CloudWatchMetrics": []}, "Model": "mine", "latency": 3}',
        '{"_aws": ' + "[" * 100_000,
        '{"_aws": null} and more',
    ],
)
def test_a_models_own_lines_of_that_format_are_lines_like_any_other(text):
    line = ContainerLine(0, "v/i-1", text)
    assert not is_metered(line)
    assert metered_models([line]) == ()


@pytest.mark.parametrize(
    "odd",
    [
        {"requests_total": "x", "memory_bytes": [], "predict_seconds": {"Values": 1}},
        {"requests_total": float("nan"), "predict_seconds": {"Values": [None], "Counts": [1]}},
        {"requests_total": 10**400, "memory_bytes": float("inf"), "predict_seconds": {}},
        {"requests_total": True, "predict_seconds": {"Values": [[1]], "Counts": [-1, {}]}},
    ],
)
def test_odd_figures_are_passed_over(odd):
    (one,) = metered_models([metered("ridge", **odd), metered("ridge", requests_total=2)])
    assert (one.requests, one.p50_ms, one.memory_bytes) == (2, None, None)


def content(models=()):
    """What the local service answers."""
    failure = {"cause": "ModelError: 400 row <n>", "target": "bad.tar.gz", "status": 400}
    failure |= {"count": 3, "first": 1.0, "last": 1795904152.0, "targets": 2}
    failure |= {"example": "ModelError: 400 row 3"}
    instance = {"variant": "v", "instance": "fleet/v/1", "memoryBytes": 1 << 30, "loaded": 12}
    return {
        "endpoint": "fleet",
        "at": 1795904153.0,
        "windowSeconds": 300,
        "instances": [{**instance, "memoryLimit": 8 << 30, "parked": 3}],
        "models": list(models),
        "hitRate": 0.973,
        "errors": [failure],
    }


def model(target, requests=0, errors=0, *, loaded=True):
    return {
        "target": target,
        "where": [{"instance": "fleet/v/1", "state": "parked"}] if loaded else [],
        "requests": requests,
        "errors": errors,
        "hits": requests,
        "coldLoads": 0,
        "p50Ms": 1.5 if requests else None,
        "p99Ms": 20.25 if requests else None,
        "memoryBytes": 64 << 20 if loaded else None,
    }


@pytest.fixture
def service():
    """Something that answers as the local service does; its content may be exchanged."""
    known = {"fleet": content()}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked = self.path
            found = next((known[name] for name in known if f"endpoint={name}&" in self.path), None)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(found or "there are: fleet").encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.known = known
        yield server
        server.shutdown()
        thread.join()


def settings(service):
    return Settings(target="local", local_url=f"http://127.0.0.1:{service.server_port}")


def printed(parts, width=None):
    for part in parts:
        if isinstance(part, TextTable):
            yield from (line.plain for line in part.lines(width))
        else:
            yield from part.plain.splitlines()


def test_what_the_local_service_tells_is_shown_with_what_matters_first(service):
    long = f"shops/{'region-' * 8}1.tar.gz"
    models = [model("idle.tar.gz", loaded=False), model("ok.tar.gz", 900), model(long, 9, 3)]
    service.known["fleet"] = content(models)
    view = rehearsal_view(settings(service), ENDPOINT)
    assert "account=123456789012&region=us-east-1" in service.asked
    text = list(printed(drawn_view(view)))
    assert "errors 3, cold loads 0, hit rate 97.3%" in text[1]
    rows = [line.split() for line in text if line.startswith(("ok", "shops"))]
    assert rows == [
        [long, "9", "3", "0", "1.50", "20.2", "64", "v/1", "(parked)"],
        ["ok.tar.gz", "900", "0", "0", "1.50", "20.2", "64", "v/1", "(parked)"],
    ]
    assert "other models of S3, neither loaded nor asked for: 1" in text
    (failure,) = [line for line in text if "row <n>" in line]
    whose = ["400", "bad.tar.gz", "and", "1", "other", "ModelError:", "400", "row", "<n>"]
    assert failure.split()[-9:] == whose
    # They are counted for longer than the figures above: since when is told, and of another day.
    assert "Failures since the endpoint was made" in text
    assert re.match(r" +3  (1970-01-01|1969-12-31) \d\d:\d\d  \d\d:\d\d:\d\d ", failure)
    assert max(map(len, printed(drawn_view(view), 80))) <= 80


def test_of_two_hundred_models_a_screen_shows_some_and_says_so(service):
    service.known["fleet"] = content([model(f"{number}.tar.gz", number) for number in range(200)])
    view = rehearsal_view(settings(service), ENDPOINT)
    shown = [line for line in printed(drawn_view(view, most_models=5)) if ".tar.gz  " in line]
    assert [line.split()[0] for line in shown[:2]] == ["199.tar.gz", "198.tar.gz"]
    assert "and 195 models more: --once prints all" in list(
        printed(drawn_view(view, most_models=5))
    )
    assert len(view.members()["models"]) == 200


def test_what_the_service_does_not_know_or_who_does_not_answer_is_said(service):
    other = OperatedEndpoint("other", "1", "InService", (), ())
    with pytest.raises(EndpointError, match="there are: fleet"):
        rehearsal_view(settings(service), other)
    nobody = Settings(target="local", local_url="http://127.0.0.1:1")
    with pytest.raises(EndpointError, match="does not answer") as raised:
        rehearsal_view(nobody, ENDPOINT)
    assert "mme up" in raised.value.remedy
