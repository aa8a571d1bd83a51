"""Metrics in CloudWatch and for Prometheus."""

import dataclasses
import datetime as dt
import random
import statistics
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mmekit_local.sagemaker.journal import Journal
from mmekit_local.sagemaker.observability.latency import Latencies, LatencySeries
from mmekit_local.sagemaker.observability.metrics import ENDPOINTS, INVOCATIONS, Metrics
from mmekit_local.sagemaker.observability.prometheus import prometheus_text
from mmekit_local.sagemaker.observability.watch import Watch
from mmekit_local.sagemaker.snapshot import (
    FleetSnapshot,
    InstanceSnapshot,
    ModelSnapshot,
    ParkingSnapshot,
    VariantSnapshot,
)
from mmekit_local.sagemaker.specification import EndpointId

INVOCATION_METRICS = {
    "Invocations": "None",
    "InvocationsPerInstance": "None",
    "Invocation4XXErrors": "None",
    "Invocation5XXErrors": "None",
    "InvocationModelErrors": "None",
    "ModelLatency": "Microseconds",
    "OverheadLatency": "Microseconds",
    "ModelCacheHit": "None",
    "ModelLoadingWaitTime": "Microseconds",
    "ModelLoadingTime": "Microseconds",
    "ModelDownloadingTime": "Microseconds",
    "ModelUnloadingTime": "Microseconds",
}
INSTANCE_METRICS = {
    "LoadedModelCount": "None",
    "CPUUtilization": "Percent",
    "MemoryUtilization": "Percent",
    "DiskUtilization": "Percent",
}


@pytest.fixture(scope="module")
def endpoint(service):
    """An endpoint of two instances, each with room for one model, after some traffic."""
    for key in ("a.tar.gz", "b.tar.gz", "c.tar.gz"):
        service.put(key, service.echo_archive())
    name = service.create_endpoint("measured", instances=2, environment={"CAPACITY": "1"})
    for key in ("a.tar.gz", "a.tar.gz", "b.tar.gz", "c.tar.gz"):
        service.invoke(name, key)
    for status in (400, 500):
        with pytest.raises(service.client("sagemaker-runtime").exceptions.ModelError):
            service.invoke(name, "c.tar.gz", b'{"status": %d}' % status)
    return name


def statistic(service, namespace, name, unit, endpoint):
    now = dt.datetime.now(dt.timezone.utc)
    points = service.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": "AllTraffic"},
        ],
        StartTime=now - dt.timedelta(hours=1),
        EndTime=now + dt.timedelta(hours=1),
        Period=7200,
        Statistics=["Sum", "SampleCount", "Minimum", "Maximum"],
        Unit=unit,
    )["Datapoints"]
    return points[0] if points else None


@pytest.mark.parametrize(
    ("namespace", "name", "unit"),
    [
        *((INVOCATIONS, name, unit) for name, unit in INVOCATION_METRICS.items()),
        *((ENDPOINTS, name, unit) for name, unit in INSTANCE_METRICS.items()),
    ],
)
def test_cloudwatch_has_every_metric_with_its_unit_and_dimensions(
    service, endpoint, namespace, name, unit
):
    # Memory is measured now and then, in the background.
    point = service.wait_until(
        lambda: statistic(service, namespace, name, unit, endpoint), what=f"a value of {name}"
    )
    assert point["SampleCount"] >= 1
    assert point["Sum"] >= 0


def test_the_values_are_those_of_the_traffic(service, endpoint):
    def total(name, unit="None"):
        return statistic(service, INVOCATIONS, name, unit, endpoint)

    assert total("Invocations")["Sum"] == 6
    assert total("InvocationsPerInstance")["Sum"] == pytest.approx(3)
    assert total("Invocation4XXErrors")["Sum"] == 1
    assert total("Invocation4XXErrors")["SampleCount"] == 6
    assert total("Invocation5XXErrors")["Sum"] == 1
    assert total("InvocationModelErrors")["Sum"] == 2
    assert total("ModelCacheHit")["Sum"] == 3
    assert total("ModelLoadingTime", "Microseconds")["SampleCount"] == 3
    assert total("ModelUnloadingTime", "Microseconds")["SampleCount"] == 1
    assert 0 < total("ModelLatency", "Microseconds")["Minimum"] < 60e6


def scraped(service):
    with urllib.request.urlopen(f"{service.url}/_mme/metrics") as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return {f.name: f for f in text_string_to_metric_families(answer.read().decode())}


def test_prometheus_reads_counters_a_histogram_and_the_instances(service, endpoint):
    families = scraped(service)
    assert all(family.documentation for family in families.values())
    assert families["mme_invocations"].type == "counter"
    labels = {
        "account": "123456789012",
        "region": "us-east-1",
        "endpoint": endpoint,
        "variant": "AllTraffic",
    }

    def value(family, name, **more):
        wanted = {**labels, **more}
        found = [s for s in families[family].samples if s.name == name and s.labels == wanted]
        assert len(found) == 1, (name, found)
        return found[0].value

    assert value("mme_invocations", "mme_invocations_total") == 6
    errors = "mme_invocation_errors"
    assert value(errors, "mme_invocation_errors_total", **{"class": "5xx"}) == 1
    assert families["mme_invocation_seconds"].type == "histogram"
    assert value("mme_invocation_seconds", "mme_invocation_seconds_count") == 6
    assert value("mme_invocation_seconds", "mme_invocation_seconds_bucket", le="+Inf") == 6
    assert value("mme_model_loading_seconds", "mme_model_loading_seconds_count") == 3
    loaded = families["mme_instance_models_loaded"].samples
    of_endpoint = [sample.value for sample in loaded if sample.labels["endpoint"] == endpoint]
    assert of_endpoint == [1, 1]


def test_a_deleted_endpoint_is_forgotten_and_cloudwatch_keeps_what_it_was_told(service):
    service.put("a.tar.gz", service.echo_archive())
    name = service.create_endpoint("gone")
    service.invoke(name, "a.tar.gz")
    service.client("sagemaker").delete_endpoint(EndpointName=name)
    service.wait_for("endpoint_deleted", name)

    def labels():
        samples = (sample for family in scraped(service).values() for sample in family.samples)
        return {sample.labels.get("endpoint") for sample in samples}

    service.wait_until(lambda: name not in labels())
    assert statistic(service, INVOCATIONS, "Invocations", "None", name)["Sum"] == 1


class Cloudwatch:
    """Where batches end in these tests."""

    def __init__(self):
        self.batches = {}

    def put_metrics(self, account, region, namespace, batch):
        for observation in batch:
            self.batches[namespace, observation.name] = observation


class Served:
    """An endpoint in service that looks as it is told to."""

    def __init__(self, *instances, multi_model=True):
        variant = VariantSnapshot('a"b\\c\nd', 1.0, multi_model, None, instances)
        self.snapshot = lambda: FleetSnapshot("e", "c", (variant,))


def instance(number, *, memory=None, loaded=0):
    models = [ModelSnapshot(f"{n}", "loaded", 1, 1, 0, 0, 0, 0) for n in range(loaded)]
    models.append(ModelSnapshot("resting", "on disk", 1, None, 0, 0, 0, 0))
    return InstanceSnapshot(
        f"e/v/{number}", "in service", 1, 200, memory, 400, 100, 150.0, 0, tuple(models)
    )


ID = EndpointId("123456789012", "eu-west-1", "e")


def test_each_instance_sends_values_of_its_own():
    cloudwatch = Cloudwatch()
    metrics = Metrics(cloudwatch)
    metrics.variant(ID, 'a"b\\c\nd').setup.add(5.0)
    fleet = Served(instance(1, memory=50, loaded=2), instance(2, loaded=1))
    Watch({ID: fleet}, metrics)
    metrics.flush()
    found = {name: value for (_, name), value in cloudwatch.batches.items()}
    counted = {name: (value.count, value.total) for name, value in found.items()}
    assert counted == {
        "ModelSetupTime": (1, 5.0),
        "LoadedModelCount": (2, 3.0),
        "CPUUtilization": (2, 300.0),
        "MemoryUtilization": (1, 25.0),
        "DiskUtilization": (2, 50.0),
    }


def test_a_parked_model_counts_as_loaded():
    models = [
        ModelSnapshot(f"{n}", "loaded", 1, 0, 0, 0, 0, 0, ParkingSnapshot(since, 0))
        for n, since in enumerate([None, 5.0, 6.0])
    ]
    state = dataclasses.replace(instance(1), models=tuple(models))
    cloudwatch = Cloudwatch()
    metrics = Metrics(cloudwatch)
    metrics.variant(ID, 'a"b\\c\nd')
    watch = Watch({ID: Served(state)}, metrics)
    metrics.flush()
    families = text_string_to_metric_families(prometheus_text(watch).decode())
    values = {family.name: family.samples[0].value for family in families if family.samples}

    assert cloudwatch.batches[ENDPOINTS, "LoadedModelCount"].total == 3
    assert values["mme_instance_models_loaded"] == 3
    assert values["mme_instance_models_parked"] == 2


def test_an_endpoint_of_one_model_has_no_loaded_model_count():
    cloudwatch = Cloudwatch()
    metrics = Metrics(cloudwatch)
    metrics.variant(ID, 'a"b\\c\nd')
    Watch({ID: Served(instance(1), multi_model=False)}, metrics)
    metrics.flush()
    assert (ENDPOINTS, "LoadedModelCount") not in cloudwatch.batches
    assert (ENDPOINTS, "CPUUtilization") in cloudwatch.batches


def test_labels_with_quotes_backslashes_and_line_ends_come_back_unchanged():
    metrics = Metrics(Cloudwatch())
    metrics.variant(ID, 'a"b\\c\nd').invoked(200, 10.0, 20.0, by_model=True)
    watch = Watch({ID: Served(instance(1, loaded=1))}, metrics)
    families = text_string_to_metric_families(prometheus_text(watch).decode())
    variants = {sample.labels["variant"] for family in families for sample in family.samples}
    assert variants == {'a"b\\c\nd'}


def test_counters_for_prometheus_do_not_fall_when_cloudwatch_gets_its_batch():
    metrics = Metrics(Cloudwatch())
    variant = metrics.variant(ID, "v")
    for _ in range(3):
        variant.invoked(500, 10.0, 20.0, by_model=True)
        metrics.flush()
    assert (variant.invocations.ever, variant.errors) == (3, 3.0)
    assert variant.overhead_latency.total_ever == pytest.approx(30.0)


def test_percentiles_are_those_of_the_last_ten_seconds():
    latencies, dice = Latencies(), random.Random(7)  # noqa: S311 - repeatable
    series = LatencySeries(latencies)
    values = []
    for second in range(10):
        values += (new := [dice.lognormvariate(8, 1.5) for _ in range(2_000)])
        for value in new:
            latencies.add(value)
        series.tick(100.0 + second, errors=0)
    exact = statistics.quantiles(values, n=100)
    last = series.seconds[-1]
    for percent, found in ((50, last.p50), (95, last.p95), (99, last.p99)):
        assert found == pytest.approx(exact[percent - 1] / 1e3, rel=0.005)


def test_a_series_tells_rates_and_forgets_old_latencies():
    latencies = Latencies()
    for _ in range(20):
        latencies.add(1000.0)
    series = LatencySeries(latencies)
    series.tick(100.0, errors=2)
    for second in range(1, 12):
        series.tick(100.0 + second, errors=2)
    first, last = series.seconds[0], series.seconds[-1]
    assert (first.rate, first.errors, first.p50) == (20.0, 2.0, 1.0)
    assert (last.rate, last.errors, last.p50) == (0.0, 0.0, None)


def test_buckets_count_all_requests_whether_or_not_a_second_is_over():
    latencies = Latencies()
    for microseconds in (900.0, 1000.0, 1001.0, 70e6):
        latencies.add(microseconds)
    before = dict(latencies.by_octave())
    latencies.take()
    assert dict(latencies.by_octave()) == before
    assert (before[0.001], before[0.002], max(before.values())) == (2, 3, 3)
    assert latencies.count == 4


def test_latencies_that_nobody_takes_are_counted_and_let_go():
    latencies = Latencies()
    for _ in range(100_000):
        latencies.add(1.0)
    assert latencies.count == 100_000
    assert {count for _, count in latencies.by_octave()} == {100_000}
    assert len(latencies.take()) < 1 << 16


def test_the_journal_numbers_events_and_forgets_old_ones():
    journal, heard = Journal(), []
    stop = journal.listen(heard.append)
    for number in range(600):
        journal.record("error", "e", f"{number}")
    stop()
    journal.record("error", "e", "unheard")
    assert [event.number for event in heard] == list(range(1, 601))
    assert len(journal.events) == 500
    assert journal.events[-1].text == "unheard"
