"""Warm-up: what was loaded before is loaded on the new instances, within a budget."""

import hashlib
import json
import os
import re
import urllib.request

import pytest

from mmekit import deploy
from mmekit.archive.manifest import Digest, Manifest
from mmekit.archive.measured import Measured, MeasuredMemory
from mmekit.archive.package import Example
from mmekit.deploy.samples import asked_models
from mmekit.deploy.warm_up import warmed_up
from tests.mmekit.deploy import thin_archives
from tests.mmekit.deploy.conftest import ACCOUNT, REGION, Desk, wait_until

MILK = """
    name: dairy
    packages: ["*.tar.gz"]
    instances: 2
    environment: {COLOUR: %s}
    %s
"""
SHOP = """
    name: %s
    versions: true
    environment: {COLOUR: %s}
    warm_up: {seconds: 30}
    %s
"""
FILES = "packages: ['models/*.tar.gz']"
MEASURED = Measured("3.11", {}, (), (), (), (), {}, MeasuredMemory(1, 1, 1, "psutil"), None, "")


def archive_with_sample(name, request, **files):
    """A model of the small container as `mme pack` leaves it: of one package with the others."""
    contents = {
        **files,
        "model.json": b"{}",
        "serving.properties": f"option.modelName={name}\n".encode(),
    }
    digests = {
        file: Digest(hashlib.sha256(content).hexdigest(), len(content))
        for file, content in contents.items()
    }
    example = Example("application/json", json.dumps(request))
    manifest = Manifest("dairy", "1", None, False, MEASURED, digests, None, example)
    return thin_archives.tarball({**contents, "manifest.json": manifest.to_json()})


@pytest.fixture(scope="module")
def limits():
    """An instance is busy with one request of a model: others may go elsewhere."""
    return ("busy_requests=1",)


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """Three models with samples and one without on two instances."""
    desk = Desk(tmp_path_factory.mktemp("dairy"), service.url)
    for name in ("milk", "cream", "whey"):
        desk.put(f"{name}.tar.gz", archive_with_sample(name, {"seconds": 0.3}))
    desk.pack("dumb.tar.gz")
    desk.write(MILK % ("white", ""))
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")


def top(service, endpoint="dairy"):
    url = f"{service.url}/_mme/top?endpoint={endpoint}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return {one["target"]: one for one in json.load(answer)["models"]}


def loaded(service, endpoint="dairy"):
    """On how many instances each model is: {target: count}."""
    return {
        target: sum(place["state"] in ("loaded", "parked") for place in one["where"])
        for target, one in top(service, endpoint).items()
        if one["where"]
    }


def ask(service, *targets, endpoint="dairy"):
    for target in targets:
        service.invoke(endpoint, target, b"{}")
    wait_until(lambda: set(targets) <= {key for key, on in loaded(service, endpoint).items() if on})


def test_the_models_that_were_loaded_are_loaded_on_every_new_instance(deployed, service):
    ask(service, "milk.tar.gz", "milk.tar.gz", "cream.tar.gz", "dumb.tar.gz")
    deployed.write(MILK % ("yellow", "warm_up: {seconds: 50}"))
    planned = " ".join(deployed.planned().split())
    assert "then up to 4 models are asked, for 50 s at most" in planned
    said = deployed.mme("deploy")
    assert "warm-up: 1 of 3 models have no sample request, and are left out" in said
    assert "2 models, for 50 s and 64 requests at most: those that were loaded before" in said
    assert "2 of 2 models answered" in said
    assert "2 are loaded on all 2 instances" in said
    wait_until(lambda: loaded(service) == {"milk.tar.gz": 2, "cream.tar.gz": 2})


@pytest.mark.thorough
def test_no_more_is_asked_than_the_budget_has(deployed, service):
    ask(service, "milk.tar.gz", "milk.tar.gz", "whey.tar.gz")
    before = top(service)["milk.tar.gz"]["requests"]
    deployed.write(MILK % ("green", "warm_up: {seconds: 30, models: 1, requests: 3}"))
    said = deployed.mme("deploy")
    assert "1 of 1 model answered" in said
    [sent] = re.findall(r"s and (\d+) requests;", said)
    assert int(sent) <= 3
    now = top(service)["milk.tar.gz"]["requests"]
    assert now in (int(sent), before + int(sent))
    wait_until(lambda: loaded(service).keys() == {"milk.tar.gz"})
    if "1 is loaded on all 2 instances" in said:
        wait_until(lambda: loaded(service) == {"milk.tar.gz": 2})
    else:
        # Where it answers too fast to be busy it stays on one instance.
        assert "0 are loaded on all 2 instances, 1 on fewer: a model that is not busy" in said


@pytest.mark.thorough
def test_without_a_warm_up_nobody_is_asked(deployed, service):
    ask(service, "milk.tar.gz")
    deployed.write(MILK % ("blue", ""))
    assert "warm-up" not in deployed.mme("deploy")
    wait_until(lambda: loaded(service) == {})


def site_of(desk, monkeypatch):
    for name, value in desk.variables().items():
        monkeypatch.setenv(name, value)
    deployment = deploy.read_deployment(desk.folder / "mme.yaml")
    return deploy.Site(deploy.Account(deployment), deployment)


def warmed_up_as_on_aws(desk, monkeypatch, text):
    """What a warm-up says where nobody tells which models are loaded but CloudWatch."""
    desk.write(text)
    site, said = site_of(desk, monkeypatch), []
    site.account.is_real = True
    models = asked_models(deploy.packed_models(site.deployment, said.append), None)
    perform = lambda report: report("the endpoint is changed")  # noqa: E731 - a step's
    step = deploy.Step(deploy.Action.CHANGE, "endpoint", site.name, perform=perform)
    warmed_up(site, step, models).perform(said.append)
    site.account.close()
    assert "the endpoint is changed" in said
    return "\n".join(said)


def on_aws(metrics):
    return MILK % ("white", f"metrics: {metrics}\n    warm_up: {{seconds: 2}}")


def test_on_aws_the_models_are_those_of_the_metrics_and_a_count_of_before_is_not_believed(
    deployed, service, monkeypatch
):
    cloudwatch = service.client("cloudwatch")
    dimensions = [{"Name": "Endpoint", "Value": "dairy"}, {"Name": "Model", "Value": "whey"}]
    requests = {"MetricName": "mme_model_requests_total", "Value": 7, "Dimensions": dimensions}
    cloudwatch.put_metric_data(Namespace="mmekit", MetricData=[requests])
    dimensions = {"EndpointName": "dairy", "VariantName": "AllTraffic"}
    count = {
        "MetricName": "LoadedModelCount",
        "Value": 100,
        "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
    }
    cloudwatch.put_metric_data(Namespace="/aws/sagemaker/Endpoints", MetricData=[count])
    said = warmed_up_as_on_aws(deployed, monkeypatch, on_aws("models"))
    assert "1 model, for 2 s and 64 requests at most: those that were asked in the last" in said
    # One for each instance. More, where CloudWatch has said that these were not enough.
    assert "1 of 1 model answered after 2 s and 2 requests" in said
    assert "whether they are loaded on all 2 instances is not known" in said


def test_on_aws_without_metrics_it_is_the_files_order_and_that_is_said(deployed, monkeypatch):
    said = warmed_up_as_on_aws(deployed, monkeypatch, on_aws("none"))
    assert "3 models, for 2 s and 64 requests at most: the file's order, as nothing says" in said
    assert "and 6 requests" in said


def test_a_warm_up_that_cannot_look_ends_nothing(deployed, monkeypatch):
    text = on_aws("none").replace("name: dairy", "name: absent")
    said = warmed_up_as_on_aws(deployed, monkeypatch, text)
    assert "warm-up: ended early: " in said
    assert "Could not find endpoint" in said


@pytest.fixture(scope="module")
def shop(service, tmp_path_factory):
    """Two models with versions, deployed and promoted."""
    desk = Desk(tmp_path_factory.mktemp("shop"), service.url)
    large = os.urandom(2 << 20)
    # The manifest is before what is large, and behind it.
    desk.put("models/front.tar.gz", archive_with_sample("front", {}, **{"z.bin": large}))
    desk.put("models/back.tar.gz", archive_with_sample("back", {}, **{"a.bin": large}))
    desk.write(SHOP % ("shop", "white", FILES))
    desk.write(SHOP % ("sale", "white", ""), "sale.yaml")
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")
    desk.mme("destroy", "sale.yaml")


def keys(service, name):
    place = {"Bucket": f"{name}-{ACCOUNT}-{REGION}", "Key": "models/current.json"}
    content = json.loads(service.client("s3").get_object(**place)["Body"].read())
    return {name: one["key"] for name, one in content["models"].items()}


def test_a_version_that_replaces_a_loaded_one_is_loaded_before_it_is_current(shop, service):
    shop.put("models/new.tar.gz", archive_with_sample("new", {}))
    shop.mme("deploy")
    old = keys(service, "shop")
    ask(service, old["new.tar.gz"], endpoint="shop")
    shop.put("models/new.tar.gz", archive_with_sample("new", {"length": 1}))
    shop.put("models/front.tar.gz", archive_with_sample("front", {"length": 1}))
    assert "before that up to 2 models are asked, for 30 s at most" in " ".join(
        shop.planned().split()
    )
    said = shop.mme("deploy")
    assert "1 model, for 30 s and 64 requests at most: those that were loaded before" in said
    assert "1 of 1 model answered" in said
    new = keys(service, "shop")
    both = {new["new.tar.gz"], old["new.tar.gz"]}
    wait_until(lambda: loaded(service, "shop").keys() == both)


def test_models_that_were_promoted_are_asked_with_the_samples_of_their_archives(shop, service):
    shop.mme("promote", "mme.yaml", "sale.yaml")
    current = keys(service, "sale")
    asked = {current["front.tar.gz"], current["back.tar.gz"]}
    ask(service, *asked, endpoint="sale")
    shop.write(SHOP % ("sale", "red", ""), "sale.yaml")
    said = shop.mme("deploy", "sale.yaml")
    assert "2 of 2 models answered" in said
    wait_until(lambda: loaded(service, "sale").keys() == asked)
    # Others than those of a file are asked, too, when a promotion changes the endpoint.
    shop.write(SHOP % ("sale", "blue", ""), "sale.yaml")
    assert "2 of 2 models answered" in shop.mme("promote", "mme.yaml", "sale.yaml")
    wait_until(lambda: loaded(service, "sale").keys() == asked)


def test_where_there_is_no_model_nothing_is_said_of_asking(deployed, monkeypatch):
    deployed.write(on_aws("none"))
    site = site_of(deployed, monkeypatch)
    step = deploy.Step(deploy.Action.CHANGE, "endpoint", site.name, perform=str)
    assert warmed_up(site, step, asked_models((), None)) is step
    site.account.close()
