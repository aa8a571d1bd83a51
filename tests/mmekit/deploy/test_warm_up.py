"""Warm-up: what was loaded before is loaded on the new instances, within a budget."""

import dataclasses
import io
import json
import tarfile
import types
import urllib.request

import numpy as np
import pytest

import mmekit
from mmekit import deploy
from mmekit.deploy.warm_up import warmed_up
from tests.mmekit.deploy.conftest import Desk, wait_until

MILK = """
    name: dairy
    packages: ["*.tar.gz"]
    instances: 2
    environment: {COLOUR: %s, TAKES: '%s'}
    %s
"""


def archive_with_sample():
    """A model of the small container, and a signature that says what can be asked."""
    files = {
        "model.json": json.dumps({}).encode(),
        "signature.json": mmekit.signature(np.ones((4, 2)), np.ones(4)).to_json(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """Three models on two instances; two of them were asked."""
    desk = Desk(tmp_path_factory.mktemp("dairy"), service.url)
    for name in ("milk", "cream", "whey"):
        desk.put(f"{name}.tar.gz", archive_with_sample())
    desk.pack("dumb.tar.gz")
    desk.write(MILK % ("white", 0, ""))
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")


def loaded(service):
    with urllib.request.urlopen(f"{service.url}/_mme/top?endpoint=dairy", timeout=60) as answer:
        models = json.load(answer)["models"]
    states = ("loaded", "parked")
    return {
        one["target"]: sum(place["state"] in states for place in one["where"])
        for one in models
        if one["where"]
    }


def ask(service, *targets):
    for target in targets:
        service.invoke("dairy", target, b"{}")
    wait_until(lambda: set(targets) <= {key for key, count in loaded(service).items() if count})


def test_the_models_that_were_loaded_are_loaded_on_every_new_instance(deployed, service):
    ask(service, "milk.tar.gz", "milk.tar.gz", "cream.tar.gz", "dumb.tar.gz")
    deployed.write(MILK % ("yellow", 0.3, "warm_up: {seconds: 30}"))
    assert "then up to 50 models are asked, for 30 s at most" in " ".join(
        deployed.planned().split()
    )
    said = deployed.mme("deploy")
    assert "warm-up: 1 of 3 models have no sample request, and are left out" in said
    assert "2 models, for 30 s at most: those that were loaded before, the most asked first" in said
    assert "2 of 2 models answered" in said
    assert "2 are loaded on all 2 instances" in said
    assert loaded(service) == {"milk.tar.gz": 2, "cream.tar.gz": 2}


@pytest.mark.thorough
def test_no_more_models_are_asked_than_the_budget_has(deployed, service):
    ask(service, "milk.tar.gz", "milk.tar.gz", "whey.tar.gz")
    deployed.write(MILK % ("green", 0, "warm_up: {seconds: 30, models: 1}"))
    said = deployed.mme("deploy")
    assert "1 of 1 models answered" in said
    assert loaded(service).keys() == {"milk.tar.gz"}
    # Where it answers too fast to be busy it stays on one instance.
    kept = "a model that is not busy is asked where it is" in said
    assert ("1 are loaded on all 2 instances" in said) != kept


@pytest.mark.thorough
def test_without_a_warm_up_nobody_is_asked(deployed, service):
    ask(service, "milk.tar.gz")
    deployed.write(MILK % ("blue", 0, ""))
    assert "warm-up" not in deployed.mme("deploy")
    assert loaded(service) == {}


def warmed_up_as_on_aws(desk, monkeypatch, metrics):
    """What a warm-up says where nobody tells which models are loaded but CloudWatch."""
    for name, value in desk.variables().items():
        monkeypatch.setenv(name, value)
    desk.write(MILK % ("white", 0, f"metrics: {metrics}\n    warm_up: {{seconds: 2}}"))
    deployment = deploy.read_deployment(desk.folder / "mme.yaml")
    account = deploy.Account(deployment)
    account.is_real = True
    site, said = deploy.Site(account, deployment), []
    models = [
        # Their metrics have the names that they were packed with.
        dataclasses.replace(model, manifest=types.SimpleNamespace(name=model.path.name[:-7]))
        for model in deploy.packed_models(deployment, said.append)
    ]
    step = deploy.Step(deploy.Action.CHANGE, "endpoint", site.name, perform=lambda _: None)
    warmed_up(site, step, models).perform(said.append)
    account.close()
    return "\n".join(said)


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
    said = warmed_up_as_on_aws(deployed, monkeypatch, "models")
    assert "1 models, for 2 s at most: those that were asked in the last hour" in said
    assert "1 of 1 models answered" in said
    assert "whether they are loaded on all 2 instances is not known" in said


def test_on_aws_without_metrics_it_is_the_files_order_and_that_is_said(deployed, monkeypatch):
    said = warmed_up_as_on_aws(deployed, monkeypatch, "none")
    assert "3 models, for 2 s at most: the file's order, as nothing says which were loaded" in said
