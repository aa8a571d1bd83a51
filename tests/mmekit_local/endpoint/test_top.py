"""What /_mme/top tells of models: where they are, what they were asked, what failed by cause."""

import json
import urllib.error
import urllib.request

import pytest

from mmekit.operate import cause_of
from mmekit_local.sagemaker.failures import FailureCounts
from mmekit_local.sagemaker.observability.targets import TargetMetrics


def top(service, query):
    with urllib.request.urlopen(f"{service.url}/_mme/top?{query}", timeout=60) as answer:
        assert answer.headers["content-type"] == "application/json"
        return json.load(answer)


def models_of(told):
    return {model["target"]: model for model in told["models"]}


@pytest.fixture(scope="module")
def endpoint(service):
    """An endpoint of one instance with room for two models, asked a few times."""
    for key in ("a.tar.gz", "b.tar.gz", "team/c.tar.gz", "never.tar.gz"):
        service.put(key, service.echo_archive())
    service.put("current.json", b"{}")
    name = service.create_endpoint("asked", environment={"CAPACITY": "2"})
    runtime = service.client("sagemaker-runtime")
    for target in ("a.tar.gz", "a.tar.gz", "b.tar.gz", "team/c.tar.gz", "team/c.tar.gz"):
        service.invoke(name, target)
    for row in (3, 17):
        with pytest.raises(runtime.exceptions.ModelError):
            service.invoke(name, "team/c.tar.gz", json.dumps({"status": 400, "row": row}).encode())
    with pytest.raises(runtime.exceptions.ClientError):
        service.invoke(name, "nowhere.tar.gz")
    return name


def test_each_model_tells_what_it_was_asked_in_the_last_five_minutes(service, endpoint):
    told = top(service, f"endpoint={endpoint}")

    assert (told["endpoint"], told["windowSeconds"]) == ("asked", 300)
    assert told["at"] > 1.7e9
    first, last = models_of(told)["a.tar.gz"], models_of(told)["team/c.tar.gz"]
    assert (first["requests"], first["errors"], first["hits"], first["coldLoads"]) == (2, 0, 1, 1)
    assert (last["requests"], last["errors"], last["hits"], last["coldLoads"]) == (4, 2, 3, 1)
    assert 0 < first["p50Ms"] <= first["p99Ms"]
    # Of eight requests one found no model at all, and three had to wait for theirs.
    assert told["hitRate"] == pytest.approx(4 / 8)


def test_it_tells_where_each_model_is_and_which_are_in_s3_alone(service, endpoint):
    def settled():
        told = top(service, f"endpoint={endpoint}")
        return told if told["instances"][0]["loaded"] == 2 else None

    # The instances are looked at twice a second at most.
    told = service.wait_until(settled, what="two loaded models")
    (instance,) = told["instances"]
    assert (instance["variant"], instance["instance"]) == ("AllTraffic", "asked/AllTraffic/1")
    models = models_of(told)
    assert models["team/c.tar.gz"]["where"] == [
        {"instance": "asked/AllTraffic/1", "state": "loaded"}
    ]
    assert models["a.tar.gz"]["where"][0]["state"] == "disk"  # evicted for the third
    never = models["never.tar.gz"]
    assert (never["where"], never["stored"], never["requests"]) == ([], True, 0)
    assert never["p50Ms"] is None
    nowhere = models["nowhere.tar.gz"]
    assert (nowhere["where"], nowhere["stored"], nowhere["errors"]) == ([], False, 1)
    assert "current.json" not in models


def test_a_model_that_is_parked_is_told_as_such(service, endpoint):
    parking = {"since": "2026-01-02T03:04:05.000Z", "wakes": 2}
    service.put("parked/p.tar.gz", service.echo_archive(parking=parking))
    name = service.create_endpoint("resting", data_url="s3://models/parked/")
    service.invoke(name, "p.tar.gz")

    def where():
        return models_of(top(service, "endpoint=resting"))["p.tar.gz"]["where"]

    parked = [{"instance": "resting/AllTraffic/1", "state": "parked"}]
    service.wait_until(lambda: where() == parked, what="the parked model")
    assert top(service, "endpoint=resting")["instances"][0]["parked"] == 1


def test_failures_of_one_cause_are_one_with_their_count(service, endpoint):
    errors = top(service, f"endpoint={endpoint}")["errors"]

    missing, refused = errors  # the latest first
    assert (refused["status"], refused["count"], refused["target"]) == (400, 2, "team/c.tar.gz")
    assert refused["first"] <= refused["last"] <= missing["last"]
    assert refused["example"].startswith("ModelError: 400 ")
    assert (missing["status"], missing["count"], missing["targets"]) == (400, 1, 1)
    assert "<model>" in missing["cause"]
    assert "nowhere.tar.gz" in missing["example"]


def test_an_endpoint_that_was_deleted_and_made_anew_begins_with_nothing(service):
    name = service.create_endpoint("again", environment={"COLOUR": "red"})
    with pytest.raises(service.client("sagemaker-runtime").exceptions.ClientError):
        service.invoke(name, "nowhere.tar.gz")
    assert len(top(service, "endpoint=again")["errors"]) == 1
    sagemaker = service.client("sagemaker")
    sagemaker.delete_endpoint(EndpointName=name)
    service.wait_for("endpoint_deleted", name)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    service.wait_for("endpoint_in_service", name)

    told = top(service, "endpoint=again")
    assert (told["errors"], told["hitRate"]) == ([], None)
    assert sum(model["requests"] for model in told["models"]) == 0


@pytest.mark.parametrize("query", ["endpoint=askd", "", "endpoint=asked&region=eu-west-1"])
def test_an_endpoint_that_is_not_there_is_404_with_those_that_are(service, endpoint, query):
    with pytest.raises(urllib.error.HTTPError) as refused:
        top(service, query)
    with refused.value as error:
        assert error.code == 404
        assert b"asked" in error.read()


class TestFigures:
    def test_percentiles_are_right_to_two_per_cent(self):
        metrics = TargetMetrics()
        for number in range(1, 1001):
            metrics.asked("a", number * 1000.0, failed=False)
            metrics.asked("b", 70.0, failed=number > 900)
        one, other = metrics.figures()

        assert (one.p50_ms, one.p99_ms) == (
            pytest.approx(500, rel=0.02),
            pytest.approx(990, rel=0.02),
        )
        assert (other.requests, other.errors) == (1000, 100)
        assert other.p99_ms == pytest.approx(0.07, rel=0.02)

    def test_what_is_five_minutes_old_is_let_go_and_its_room_is_another_model_s(self):
        metrics = TargetMetrics()
        for target in ("a", "b", "c"):
            metrics.asked(target, 1000.0, failed=False)
        metrics.settle(now=0.0)
        metrics.looked_up("b", found=True)
        metrics.settle(now=200.0)
        assert len(metrics.figures(now=299.0)) == 3
        (kept,) = metrics.figures(now=311.0)
        assert (kept.target, kept.requests, kept.hits, kept.p50_ms) == ("b", 0, 1, None)

        for target in ("d", "e"):
            metrics.asked(target, 1000.0, failed=False)
        assert {one.target for one in metrics.figures(now=320.0)} == {"b", "d", "e"}
        assert metrics.figures(now=1000.0) == []

    def test_names_without_end_are_not_kept(self):
        metrics = TargetMetrics()
        for number in range(12_000):
            metrics.asked(f"{number}", 1000.0, failed=True)
        assert len(metrics.figures()) == 10_000
        assert metrics.left_out == 2000


class TestCauses:
    @pytest.mark.parametrize(
        ("said", "cause"),
        [
            ("ModelError: 400 row 17: no number", "ModelError: 400 row <n>: no number"),
            ("took 1.5e-3 s, -7 left", "took <n> s, <n> left"),
            ("no file /tmp/mme-x8/models/abc/model.joblib", "no file <path>"),
            ("s3://models/a/b.tar.gz is not there", "<address> is not there"),
            ("no answer from 10.0.0.7:8080", "no answer from <address>"),
            ("Request 3f0c1a52-8c1d-4bb0-9a6c-000000000001 failed", "Request <id> failed"),
            ("object at 0x7f3a2c is deadbeef01", "object at <id> is <id>"),
            ("expected float32 and 4 columns, got x1", "expected float32 and <n> columns, got x1"),
            ("a and/or b", "a and/or b"),
            ("400 rows at 12:30, 1_000.5ms", "400 rows at <n>, <n>ms"),
            ("see https://a/b?c=1, or /tmp", "see <address>, or <path>"),
            ("received the text 'x' in row 3", "received the text <text> in row <n>"),
            ('received the text "O\'Hara" in row 3', "received the text <text> in row <n>"),
            (r"the text 'O\'Hara \"x\"' in row 3", "the text <text> in row <n>"),
            ("could not convert 'O'Hara' to float", "could not convert <text> to float"),
            ("the cell b'x', in the columns' names", "the cell <text>, in the columns' names"),
            ("it's cut: 'Ann", "it's cut: <text>"),
            ("KeyError: 'Ann'", "KeyError: <text>"),
            ('{"name": "Ann", "ok": true}', "{<text>: <text>, <text>: true}"),
            ("No such file: '/tmp/x.bin'", "No such file: '<path>'"),
            ("No module named 'sklearn.x'", "No module named 'sklearn.x'"),
            ("'Frame' object has no attribute 'x'", "'Frame' object has no attribute <text>"),
            ("'<' between 'str' and 'float'", "'<' between 'str' and 'float'"),
            (
                "expected arrays called a, b; received Ann",
                "expected arrays called a, b; received <text>",
            ),
            (
                "expected columns of equal length; received Ann of 3",
                "expected columns of equal length; received <text>",
            ),
            (
                "expected x; received a JSON object with Ann",
                "expected x; received a JSON object with <text>",
            ),
            ("expected a, b; received also Ann, Bob", "expected a, b; received also <text>"),
            (
                "expected a; received in record 3 none called b; also Ann; Ann twice",
                "expected a; received in record <n> none called b; also <text>; <text> twice",
            ),
            (
                "expected a; received an object with Ann",
                "expected a; received an object with <text>",
            ),
        ],
    )
    def test_a_cause_is_without_what_differs_each_time(self, said, cause):
        assert cause_of(said, status=400) == cause

    def test_only_so_many_causes_are_kept_and_the_rest_is_counted(self):
        failures = FailureCounts()
        for word in range(150):
            failures.add(f"cause {'x' * word}", "a", 500, at=float(word))
        assert len(failures.latest()) == 100
        assert failures.left_out == 50
        assert failures.latest()[0].last == 149

    def test_whoever_was_told_is_told_of_what_came_since(self):
        failures = FailureCounts()
        failures.add("one", "a", 500, at=1.0)
        failures.add("two", "a", 500, at=2.0)
        assert len(failures.take_changed()) == 2
        failures.add("one", "b", 500, at=3.0)
        (changed,) = failures.take_changed()
        assert (changed.count, changed.targets) == (2, {"a", "b"})
        assert failures.take_changed() == []
