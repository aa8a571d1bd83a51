"""What a server tells about its models."""

from __future__ import annotations

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.server_process import give_slots, wait_until

DOUBLER = """
from mmekit_runtime import Handler

class Doubler(Handler):
    features = 1

    def load(self, folder):
        return 2

    def predict(self, model, rows, parameters):
        return rows[:, 0] * model

handle = Doubler()
"""


def metrics(server) -> dict[tuple[str, ...], float]:
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, sample.labels.get("model", "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_processes_and_their_figures_are_described(server, model_folder):
    assert server.load("doubler", give_slots(model_folder(DOUBLER))).status_code == 200
    for _ in range(3):
        assert server.invoke("doubler", "[[1]]").json() == {"predictions": [2.0]}
    server.invoke("doubler", "[[1, 2]]")

    def counted():
        (process,) = server.described("doubler")["processes"]
        return process if process["calls"] == process["requests"] == 4 else None

    process = wait_until(counted)
    server.client.delete("/models/doubler")

    assert (process["requests"], process["errors"], process["calls"]) == (4, 1, 4)
    assert process["largest_batch"] == 1
    assert process["slots"] >= 1
    assert process["predict_s"] > 0
    assert 0 < process["private_bytes"] < process["proportional_bytes"] + 1
    assert process["private_bytes"] < psutil.virtual_memory().total


def test_prometheus_can_read_the_figures(server, model_folder):
    assert server.load("doubler", give_slots(model_folder(DOUBLER))).status_code == 200
    before = metrics(server)
    for _ in range(2):
        server.invoke("doubler", "[[1]]")

    # It counts when it has answered.
    wait_until(lambda: metrics(server)["mmekit_process_requests_total", "doubler"] == 2)
    after = metrics(server)
    server.client.delete("/models/doubler")

    assert before["mmekit_models", ""] == 1
    assert before["mmekit_requests_total", "doubler"] == 0
    assert after["mmekit_requests_total", "doubler"] == 2
    assert after["mmekit_process_requests_total", "doubler"] == 2
    assert after["mmekit_worker_seconds_total", "doubler"] > 0
    assert after["mmekit_process_private_bytes", "doubler"] > 0


def test_a_model_on_the_plain_engine_is_counted_by_the_server(server, model_folder):
    assert server.load("echo", model_folder()).status_code == 200
    server.invoke("echo", "x")

    found = metrics(server)
    server.client.delete("/models/echo")

    assert found["mmekit_requests_total", "echo"] == 1
    assert found["mmekit_workers", "echo"] == 1
    assert found["mmekit_model_failed", "echo"] == 0
