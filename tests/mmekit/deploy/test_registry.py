"""The model registry: approved model packages are deployed, and archives become model packages."""

import json

import pytest

from mmekit.deploy.registry import register
from tests.mmekit.deploy import thin_archives
from tests.mmekit.deploy.conftest import changes

MODEL = """
import json

from mmekit_runtime import Handler


class Shop(Handler):
    features = 1

    def load(self, folder):
        return float(json.loads((folder / "factor.json").read_text()))

    def predict(self, model, rows, parameters):
        return model * rows[:, 0]


handle = Shop()
"""
DOCK = """
    name: dock
    versions: true
    packages:
      - model_package_group: Ships
"""


@pytest.fixture(scope="module")
def service(shared_service):
    """One for all modules about versions."""
    return shared_service


@pytest.fixture
def dock(desk, service, monkeypatch):
    """A desk and a bucket for what is registered."""
    desk.pack("ships.tar.gz")
    desk.write(DOCK)
    service.client("s3").create_bucket(Bucket="mmekit-local")
    monkeypatch.setenv("MME_LOCAL_URL", service.url)
    yield desk
    s3, sagemaker = service.client("s3"), service.client("sagemaker")
    for one in s3.list_objects_v2(Bucket="mmekit-local").get("Contents", []):
        s3.delete_object(Bucket="mmekit-local", Key=one["Key"])
    s3.delete_bucket(Bucket="mmekit-local")
    assert sagemaker


def approve(service, arn, status="Approved"):
    service.client("sagemaker").update_model_package(
        ModelPackageArn=arn, ModelApprovalStatus=status
    )


def registered(desk, name="ships.tar.gz", group="Ships"):
    return register(desk.folder / name, group, print)


def test_an_archive_is_registered_approved_and_deployed(dock, service):
    sagemaker = service.client("sagemaker")
    first = registered(dock)
    assert (first.status, first.is_new) == ("PendingManualApproval", True)
    described = sagemaker.describe_model_package(ModelPackageName=first.arn)
    [container] = described["InferenceSpecification"]["Containers"]
    assert container["ModelDataUrl"] == first.url
    assert container["Image"].endswith("djl-inference:0.36.0-cpu-full")
    assert container["Environment"]["OMP_NUM_THREADS"] == "1"
    # The same bytes are the same version, and are not uploaded twice.
    again = registered(dock)
    assert (again.arn, again.is_new) == (first.arn, False)

    told = dock.refused("deploy")
    assert "No model package of this group is Approved; the newest is PendingManual" in told
    assert f"update-model-package --model-package-arn {first.arn}" in told

    approve(service, first.arn)
    plan = dock.mme("deploy")
    assert f"archive build/registry/Ships.tar.gz: fetched, {first.arn}" in plan
    fetched = dock.folder / "build/registry/Ships.tar.gz"
    assert fetched.read_bytes() == (dock.folder / "ships.tar.gz").read_bytes()
    answer = dock.run(
        "invoke",
        "dock",
        "--target-model",
        "Ships.tar.gz",
        "--data",
        "mme.yaml",
        "--content-type",
        "text/plain",
    )
    assert answer.exit_code == 0, answer.stderr
    again = dock.mme("deploy")
    assert "here already" in again
    assert "Nothing to do." in again

    # A newer version that nobody has approved changes nothing; an approved one does.
    dock.pack("ships.tar.gz", newer=True)
    second = registered(dock)
    assert second.arn != first.arn
    assert "Nothing to do." in dock.mme("deploy")
    approve(service, second.arn)
    assert changes(dock.mme("deploy"))["releases current.json"] == "change"
    # What is taken back in the registry is taken back by the next deployment.
    approve(service, second.arn, "Rejected")
    plan = dock.mme("deploy")
    assert changes(plan) == {"releases current.json": "change"}
    assert f"fetched, {first.arn}" in plan
    dock.write(DOCK.replace("model_package_group: Ships", f"model_package: {second.arn}"))
    told = dock.refused("deploy")
    assert "The model package is Rejected, and only one that is Approved is deployed." in told
    dock.mme("destroy")


def test_what_was_changed_since_it_was_registered_is_refused(dock, service, nothing_left):
    made = registered(dock, group="Boats")
    approve(service, made.arn)
    bucket, _, key = made.url.removeprefix("s3://").partition("/")
    service.client("s3").put_object(Bucket=bucket, Key=key, Body=b"another")
    dock.write(DOCK.replace("Ships", "Boats"))
    told = dock.refused("deploy")
    assert f"not the one that was registered as {made.arn}" in told
    service.client("s3").delete_object(Bucket=bucket, Key=key)
    assert f"The archive of {made.arn} is not there." in dock.refused("deploy")


def test_what_cannot_be_deployed_or_registered_is_told(dock, service):
    dock.write(DOCK.replace("Ships", "Nobody"))
    told = dock.refused("deploy")
    assert "There is no model package in this group, or no such group." in told
    assert "--register Nobody" in told
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model-package/nobody/9"
    dock.write(DOCK.replace("model_package_group: Ships", f"model_package: {arn}"))
    assert "There is no such model package." in dock.refused("deploy")
    dock.write(DOCK.replace("group: Ships", "group: Ships\n        package: folder"))
    assert "model_package_group and model_package stand alone" in dock.refused("deploy")
    dock.write(DOCK.replace("group: Ships", "group: Ships/3"))
    assert "it may be the name of a model package group" in dock.refused("deploy")
    thin_archives.put(dock, "thin/a.tar.gz", thin_archives.layer(body=b"x"), name="a")
    with pytest.raises(Exception, match="the registry keeps none"):
        registered(dock, "thin/a.tar.gz")


def test_mme_pack_registers_what_it_packs(dock, service):
    dock.put("shop/model.py", MODEL)
    dock.put("shop/serving.properties", "engine=Python\n")
    dock.put("shop/sample_request.json", '{"instances": [[7.0]]}')
    dock.put("shop/sample_response.json", '{"predictions": [14.0]}')
    dock.put("artifacts/factor.json", "2")
    words = ("pack", "shop", "--artifacts", "artifacts", "-o", "shop.tar.gz")
    told = dock.mme(*words, "--register", "Shops")
    assert "shop.tar.gz: registered as arn:aws:sagemaker:" in told
    assert "(PendingManualApproval)" in told
    assert "Approve it: aws sagemaker update-model-package" in told
    arn = json.loads(dock.mme(*words, "--register", "Shops", "--json"))["registered"]["arn"]
    facts = service.client("sagemaker").describe_model_package(ModelPackageName=arn)
    facts = facts["CustomerMetadataProperties"]
    assert (facts["model"], len(facts["sha256"])) == ("shop", 64)
    assert int(facts["memory_mb"]) > 0
    # What cannot be registered is said before anything is packed.
    for more in (("--thin",), ("--artifacts-in", "artifacts")):
        done = dock.run(
            *words[:2],
            *(more if len(more) > 1 else (*words[2:], *more)),
            "-o",
            "other",
            "--register",
            "Shops",
        )
        assert done.exit_code == 2, done.stderr
        assert "--register" in done.stderr
        assert not (dock.folder / "other").exists()


def test_a_real_account_is_named_and_nothing_is_packed_or_sent_there_unasked(dock, service):
    real = {"MME_TARGET": "aws", "AWS_DEFAULT_REGION": "eu-central-1"}
    real |= {"AWS_ENDPOINT_URL": service.url}
    real |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    dock.put("shop/model.py", MODEL)
    dock.put("artifacts/factor.json", "2")
    words = ("pack", "shop", "--artifacts", "artifacts", "-o", "other.tar.gz")
    done = dock.run(*words, "--register", "Shops", **real)
    assert done.exit_code == 1, done.stderr
    assert "newest version of Shops: AWS account 123456789012, eu-central-1, s3://" in done.stderr
    assert "needs confirmation" in done.stderr
    assert not (dock.folder / "other.tar.gz").exists()
