"""What model processes count goes to OpenTelemetry's collector, where an exporter is configured."""

from __future__ import annotations

import gzip
import http.server
import threading

import pytest

from tests.server_process import ServerProcess

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

FIRST = """
from mmekit_runtime import Handler

class First(Handler):
    def load(self, folder):
        return "model"

    def predict(self, model, rows, parameters):
        return rows[:, 0]

handle = First()
"""

LACKING = """
import sys
sys.modules["opentelemetry.exporter.otlp.proto.http.metric_exporter"] = None
"""

RAISING = """
from opentelemetry.sdk.metrics import Counter

def add(self, *given, **named):
    raise RuntimeError("the collector's library is broken")

for kind in (Counter, *Counter.__subclasses__()):
    kind.add = add
"""


class Collector:
    """A collector of OpenTelemetry's metrics: OTLP over HTTP, on a socket."""

    def __init__(self):
        self.requests = []
        kept = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                kept.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def totals(self, metric):
        """Return the last total of each process, by its model."""
        found = {}
        for request in list(self.requests):
            for told in request.resource_metrics:
                named = {one.key: one.value.string_value for one in told.resource.attributes}
                for one in (one for scope in told.scope_metrics for one in scope.metrics):
                    if one.name == metric:
                        kind = one.WhichOneof("data")
                        for point in getattr(one, kind).data_points:
                            said = {a.key: a.value.string_value for a in point.attributes}
                            number = point.count if kind == "histogram" else point.as_int
                            found[said["model"], named["service.instance.id"]] = number
        return found


@pytest.fixture(scope="module")
def collector():
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def server(collector):
    running = ServerProcess(
        environment={
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "OTEL_SERVICE_NAME": "shop",
        }
    )
    yield running
    running.close()


def sums(collector, metric, model):
    return sum(number for (name, _), number in collector.totals(metric).items() if name == model)


@pytest.mark.parametrize("off", ["", "MMEKIT_WORKER_SLOTS=off"])
def test_a_collector_is_told_of_requests_and_times(server, collector, model, until, off):
    name = f"told-{len(off)}"
    server.loaded(model(FIRST, name, option__modelName=name, option__env=off or "X=1"))
    for body, status in (("[[1, 2]]", 200), ("[[3, 4]]", 200), ("nonsense", 400)):
        assert server.invoke(name, body).status_code == status
    until(lambda: sums(collector, "mme_model_requests_total", name) == 3)
    assert sums(collector, "mme_model_refused_total", name) == 1
    assert sums(collector, "mme_model_predict_seconds", name) == 3
    assert sums(collector, "mme_model_memory_bytes", name) > 1 << 20
    services = {
        attribute.value.string_value
        for request in collector.requests
        for told in request.resource_metrics
        for attribute in told.resource.attributes
        if attribute.key == "service.name"
    }
    assert services == {"shop"}
    server.unload(name)


def test_a_process_that_parks_has_told_all_and_its_successor_counts_on_its_own(
    server, collector, model, until
):
    name = "parking"
    server.loaded(model(FIRST, name, option__modelName=name, option__park_after="0.1"))
    for times in (1, 2):
        assert server.invoke(name, "[[1, 2]]").status_code == 200
        until(lambda times=times: sums(collector, "mme_model_parks_total", name) == times)
    assert sums(collector, "mme_model_requests_total", name) == 2
    assert sums(collector, "mme_model_wakes_total", name) == 1
    server.unload(name)


def test_what_is_not_installed_is_said_in_one_line_and_the_model_answers(server, model):
    server.loaded(model(LACKING + FIRST, "lacking"))
    assert server.invoke("lacking", "[[1, 2]]").status_code == 200
    server.wait_for("no metrics go to OpenTelemetry, as the model's environment lacks")
    server.unload("lacking")


@pytest.mark.parametrize("off", ["", "MMEKIT_WORKER_SLOTS=off"])
def test_what_opentelemetry_raises_costs_no_answer(server, model, off):
    name = f"raising-{len(off)}"
    server.loaded(model(RAISING + FIRST, name, option__modelName=name, option__env=off or "X=1"))
    assert [server.invoke(name, "[[1, 2]]").status_code for _ in range(3)] == [200] * 3
    server.wait_for("metrics are not complete, and the model answers all the same: RuntimeError")
    server.unload(name)
