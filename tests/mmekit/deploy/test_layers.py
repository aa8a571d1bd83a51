"""Layers of thin archives: uploaded once, named to instances, removed when nobody needs them."""

import datetime as dt
import json
import re

import pytest

from tests.mmekit.deploy import thin_archives
from tests.mmekit.deploy.conftest import ACCOUNT, REGION, Desk, changes

BODY = thin_archives.layer(says="setfit/model.bin", body=b"weights of all" * 999)
RUNTIME = thin_archives.layer("runtime", "mmekit 1.0.0", runtime=b"mmekit_runtime")
OTHER = thin_archives.layer(says="setfit/model.bin", body=b"other weights")
BARN = """
    name: barn
    packages:
      - archive: thin/a.tar.gz
      - archive: thin/b.tar.gz
"""


def short(layer):
    return layer.entry.sha256[:12]


@pytest.fixture(autouse=True)
def _a_day_is_over(monkeypatch):
    """What no archive names is no deployment's that is under way."""
    monkeypatch.setattr("mmekit.deploy.layers._LATE", dt.timedelta(0))


@pytest.fixture
def barn(desk):
    """Two thin archives with one body, and nothing deployed."""
    for name in ("a", "b"):
        thin_archives.put(desk, f"thin/{name}.tar.gz", BODY, RUNTIME, name=name)
    desk.write(BARN)
    return desk


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """The same under another name, deployed for the whole module."""
    desk = Desk(tmp_path_factory.mktemp("standing"), service.url)
    for name in ("a", "b"):
        thin_archives.put(desk, f"thin/{name}.tar.gz", BODY, RUNTIME, name=name)
    desk.write(BARN.replace("barn", "loft"))
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")
    assert "loft" not in str(service.names())


def environment(service, name):
    [model] = service.names(f"{name}-")["models"]
    described = service.client("sagemaker").describe_model(ModelName=model)
    return described["PrimaryContainer"]["Environment"]


def stored(service, name, prefix="models"):
    """The layers that are there: those parts of their keys that are not the prefix's."""
    start = f"{name}-{ACCOUNT}-{REGION}/{prefix}-layers/"
    objects = service.names(start)["objects"]
    return {one.removeprefix(start) for one in objects}


def statements(service, role):
    policy = service.client("iam").get_role_policy(RoleName=role, PolicyName="mmekit")
    return {one["Sid"]: one for one in policy["PolicyDocument"]["Statement"]}


def test_a_plan_has_a_step_for_each_layer_and_does_nothing(barn, service, nothing_left):
    plan = barn.planned()
    steps = [line for line in plan.splitlines() if line.startswith("+ ")]
    kinds = [line.split()[2] for line in steps]
    assert kinds.index("layer") < kinds.index("archive")
    assert kinds.count("layer") == 2
    assert f"+ create layer {short(BODY)} (body of 2 models; " in plan
    assert f"+ create layer {short(RUNTIME)} (runtime of 2 models; " in plan


def test_each_layer_is_uploaded_once_beside_the_models_and_named_to_the_instances(
    deployed, service
):
    assert stored(service, "loft") == {BODY.name, RUNTIME.name}
    place = f"s3://loft-{ACCOUNT}-{REGION}/models-layers/"
    assert environment(service, "loft")["MMEKIT_LAYERS"] == place
    held = service.client("s3").get_object(
        Bucket=f"loft-{ACCOUNT}-{REGION}", Key=f"models-layers/{BODY.name}"
    )
    assert held["Body"].read() == BODY.packed()
    assert service.invoke("loft", "a.tar.gz")
    again = deployed.mme("deploy")
    assert "Nothing to do." in again
    assert f"keep   layer {short(BODY)} (body of 2 models; it is there)" in again


def test_the_role_may_read_the_layers_and_no_more_of_the_bucket(deployed, service):
    allowed, bucket = statements(service, f"loft-{REGION}"), f"loft-{ACCOUNT}-{REGION}"
    assert allowed["ReadModels"]["Resource"] == f"arn:aws:s3:::{bucket}/models/*"
    assert allowed["ReadLayers"]["Action"] == "s3:GetObject"
    assert allowed["ReadLayers"]["Resource"] == f"arn:aws:s3:::{bucket}/models-layers/*"
    assert allowed["ListLayers"]["Condition"] == {"StringLike": {"s3:prefix": ["models-layers/*"]}}


def test_one_more_model_on_the_same_body_uploads_no_layer_and_keeps_the_instances(
    deployed, service
):
    config = service.described("loft")["EndpointConfigName"]
    thin_archives.put(deployed, "thin/c.tar.gz", BODY, RUNTIME, name="c")
    deployed.write(f"{BARN.replace('barn', 'loft')}      - archive: thin/c.tar.gz\n")
    assert changes(deployed.mme("deploy")) == {"archive c.tar.gz": "create"}
    assert service.described("loft")["EndpointConfigName"] == config


def test_a_layer_that_no_model_names_any_more_goes_last(deployed, service):
    thin_archives.put(deployed, "thin/a.tar.gz", OTHER, RUNTIME, name="a")
    assert changes(deployed.mme("deploy")).get(f"layer {short(BODY)}") is None
    assert stored(service, "loft") == {BODY.name, OTHER.name, RUNTIME.name}
    thin_archives.put(deployed, "thin/b.tar.gz", OTHER, RUNTIME, name="b")
    plan = deployed.mme("deploy")
    lines = [line for line in plan.splitlines() if line.startswith(("+ ", "~ ", "- "))]
    assert lines[-1] == f"- remove layer {short(BODY)}"
    assert any(line.startswith("~ change endpoint loft") for line in lines)
    assert stored(service, "loft") == {OTHER.name, RUNTIME.name}


@pytest.mark.thorough
def test_a_layer_stays_while_the_endpoint_does_not_come_into_service(deployed, service):
    for name in ("a", "b"):
        thin_archives.put(deployed, f"thin/{name}.tar.gz", OTHER, RUNTIME, name=name)
    deployed.write(BARN.replace("barn", "loft") + "    environment: {REFUSE_TO_START: 'yes'}\n")
    assert "did not come into service" in deployed.refused("deploy")
    assert stored(service, "loft") == {BODY.name, OTHER.name, RUNTIME.name}
    deployed.write(BARN.replace("barn", "loft"))
    deployed.mme("deploy")
    assert stored(service, "loft") == {OTHER.name, RUNTIME.name}


def test_without_thin_archives_nothing_of_layers_is_left(deployed, service):
    for name in ("a", "b"):
        deployed.put(
            f"thin/{name}.tar.gz", thin_archives.archive(BODY, RUNTIME, inline=True, name=name)
        )
    plan = changes(deployed.mme("deploy"))
    assert {f"layer {short(BODY)}", f"layer {short(RUNTIME)}"} <= set(plan)
    assert stored(service, "loft") == set()
    assert "MMEKIT_LAYERS" not in environment(service, "loft")
    assert not {"ReadLayers", "ListLayers"} & set(statements(service, f"loft-{REGION}"))


def test_what_the_file_says_of_layers_is_looked_at_first(deployed, service):
    own = "{MMEKIT_LAYERS: '/opt/layers s3://elsewhere/ready'}"
    deployed.write(f"{BARN.replace('barn', 'loft')}    environment: {own}\n")
    deployed.mme("deploy")
    place = f"s3://loft-{ACCOUNT}-{REGION}/models-layers/"
    places = f"/opt/layers,s3://elsewhere/ready,{place}"
    assert environment(service, "loft")["MMEKIT_LAYERS"] == places
    assert statements(service, f"loft-{REGION}")["ReadLayers"]["Resource"] == [
        "arn:aws:s3:::elsewhere/ready/*",
        f"arn:aws:s3:::loft-{ACCOUNT}-{REGION}/models-layers/*",
    ]
    assert "Nothing to do." in deployed.mme("deploy")


def test_a_layer_stays_while_nobody_knows_what_an_archive_beside_the_models_names(
    deployed, service
):
    s3, bucket = service.client("s3"), f"loft-{ACCOUNT}-{REGION}"
    s3.put_object(Bucket=bucket, Key="models/by-hand.tar.gz", Body=b"an archive")
    for name in ("a", "b"):
        thin_archives.put(deployed, f"thin/{name}.tar.gz", OTHER, RUNTIME, name=name)

    deployed.mme("deploy")

    assert BODY.name in stored(service, "loft")
    s3.delete_object(Bucket=bucket, Key="models/by-hand.tar.gz")
    deployed.mme("deploy")
    assert BODY.name not in stored(service, "loft")


def test_a_layer_that_is_nowhere_is_told_with_who_names_it_and_how_to_pack(
    barn, service, nothing_left
):
    (barn.folder / "thin/layers" / BODY.name).unlink()
    told = barn.refused("deploy", "--plan")
    assert f"The layer {short(BODY)} (body, 0.0 MB: setfit/model.bin) is missing" in told
    assert "a.tar.gz and 1 more" in told
    assert f"where: thin/layers/{BODY.name}" in told
    assert "mme pack PACKAGE --artifacts DIR --thin --output thin/a.tar.gz" in told


def test_a_layer_that_is_in_the_bucket_already_need_not_be_here(deployed, service):
    (deployed.folder / "thin/layers" / BODY.name).unlink()
    assert "Nothing to do." in deployed.mme("deploy")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (OTHER.packed(), f"the SHA-256 of its content is {short(OTHER)}"),
        (thin_archives.tarball({**BODY.files, "x.pyc": b""}), "x.pyc is in it"),
        (thin_archives.tarball({"a\nb": b""}), "cannot be in a layer"),
        (BODY.packed()[:-9], "The archive is damaged"),
    ],
    ids=["another", "byte code", "two lines", "cut off"],
)
def test_a_layer_that_is_not_what_its_name_says_is_not_uploaded(
    barn, service, nothing_left, content, said
):
    barn.put(f"thin/layers/{BODY.name}", content)
    told = barn.refused("deploy")
    assert said in told
    assert f"where: thin/layers/{BODY.name}" in told


def test_a_listing_that_nobody_packed_is_told(barn, service, nothing_left):
    barn.put("thin/a.tar.gz", thin_archives.tarball({"layers.json": b"[]", "model.json": b"{}"}))
    told = barn.refused("deploy")
    assert "layers.json cannot be read" in told
    assert "where: thin/a.tar.gz" in told
    assert "remedy: Pack the model again." in told


def test_a_role_of_ones_own_is_told_what_it_has_to_allow(barn, service, nothing_left):
    iam = service.client("iam")
    iam.create_role(RoleName="shed", AssumeRolePolicyDocument='{"Statement": []}')
    barn.write(f"{BARN}    role: arn:aws:iam::{ACCOUNT}:role/shed\n")
    plan = barn.planned()
    place = f"s3://barn-{ACCOUNT}-{REGION}/models-layers/*"
    assert f"used as it is; it has to allow s3:GetObject on {place}" in plan
    iam.delete_role(RoleName="shed")


def test_a_layer_that_another_run_has_just_brought_stays(deployed, service, monkeypatch):
    """Layers go up before the archives that name them."""
    monkeypatch.setattr("mmekit.deploy.layers._LATE", dt.timedelta(days=1))
    service.client("s3").put_object(
        Bucket=f"loft-{ACCOUNT}-{REGION}",
        Key=f"models-layers/{OTHER.name}",
        Body=OTHER.packed(),
        Metadata={"mmekit-deployment": "loft"},
    )
    assert "Nothing to do." in deployed.mme("deploy")
    monkeypatch.setattr("mmekit.deploy.layers._LATE", dt.timedelta(0))
    assert changes(deployed.mme("deploy")) == {f"layer {short(OTHER)}": "remove"}


@pytest.mark.thorough
def test_layers_move_with_the_models_and_destroy_takes_all_away(barn, service, nothing_left):
    barn.mme("deploy")
    barn.write(f"{BARN}    prefix: models/inner\n")
    barn.mme("deploy")
    assert stored(service, "barn") == set()
    assert stored(service, "barn", "models/inner") == {BODY.name, RUNTIME.name}
    place = f"s3://barn-{ACCOUNT}-{REGION}/models/inner-layers/"
    assert environment(service, "barn")["MMEKIT_LAYERS"] == place
    assert "Nothing to do." in barn.mme("deploy")
    barn.write(BARN)
    barn.mme("deploy")
    assert stored(service, "barn", "models/inner") == set()
    assert stored(service, "barn") == {BODY.name, RUNTIME.name}
    assert service.invoke("barn", "b.tar.gz")
    barn.write(f"{BARN}    bucket: barn-second\n")
    plan = changes(barn.mme("deploy"))
    old = f"s3://barn-{ACCOUNT}-{REGION}/models-layers/{short(BODY)}"
    assert plan[f"layer {old}"] == "remove"
    assert service.names("barn")["buckets"] == ["barn-second"]
    planned = changes(barn.run("destroy", "--plan").stdout)
    assert planned[f"layer {short(BODY)}"] == "remove"
    assert service.names("barn-second/models-layers/")["objects"]
    barn.mme("destroy")


@pytest.mark.thorough
def test_a_layer_that_archives_of_others_name_stays(barn, service, nothing_left):
    s3 = service.client("s3")
    s3.create_bucket(Bucket="yard")
    barn.write(f"{BARN}    bucket: yard\n")
    barn.mme("deploy")
    thin_archives.put(barn, "thin/c.tar.gz", BODY, RUNTIME, name="c")
    second = "name: hut\nbucket: yard\npackages:\n  - archive: thin/c.tar.gz\n"
    barn.write(second, "hut.yaml")
    plan = barn.mme("deploy", "hut.yaml")
    assert "it is there, not uploaded by this deployment" in plan
    assert not any(name.startswith("layer") for name in changes(plan))
    plan = barn.mme("destroy")
    assert f"keep   layer {short(BODY)} (archives that others uploaded name it)" in plan
    assert f"yard/models-layers/{BODY.name}" in service.names("yard")["objects"]
    barn.mme("destroy", "hut.yaml")
    # It is the first one's, which may be destroyed once more.
    barn.mme("destroy")
    assert service.names("yard")["objects"] == []
    s3.delete_bucket(Bucket="yard")


@pytest.mark.thorough
def test_layers_are_encrypted_anew_with_another_key(barn, service, nothing_left):
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/12345678-1234-1234-1234-12345678901"
    s3, bucket = service.client("s3"), f"barn-{ACCOUNT}-{REGION}"

    def keys():
        listed = s3.list_objects_v2(Bucket=bucket, Prefix="models-layers/")["Contents"]
        heads = [s3.head_object(Bucket=bucket, Key=one["Key"]) for one in listed]
        return [head.get("SSEKMSKeyId") for head in heads]

    barn.write(f"{BARN}    kms_key: {key}2\n")
    barn.mme("deploy")
    assert keys() == [f"{key}2"] * 2
    assert statements(service, f"barn-{REGION}")["DecryptModels"]["Resource"] == f"{key}2"
    barn.write(f"{BARN}    kms_key: {key}3\n")
    assert changes(barn.mme("deploy"))[f"layer {short(BODY)}"] == "change"
    assert keys() == [f"{key}3"] * 2
    barn.mme("destroy")


def test_it_is_told_what_is_stored_and_fetched_once(barn, nothing_left):
    plan = barn.planned()
    assert re.search(
        r"storage: 2 layers of \d+\.\d KiB, stored once and fetched once by an inst", plan
    )
    assert "an archive that only names them has 3.0 KiB" in plan
    assert "private network" not in plan
    barn.write(f"{BARN}    network: {{subnets: [subnet-0a], security_groups: [sg-0a]}}\n")
    plan = barn.planned()
    place = f"s3://barn-{ACCOUNT}-{REGION}/models-layers/"
    assert f"its endpoint for S3 has to let it read {place}" in plan
    for name in ("a", "b"):
        barn.put(f"thin/{name}.tar.gz", thin_archives.archive(BODY, inline=True, name=name))
    plan = barn.planned()
    assert "are layers that others bring along, too; packed with --thin" in plan
    assert "private network" not in plan


def test_the_status_has_the_layers_and_how_many_models_name_each(deployed):
    found = json.loads(deployed.mme("status", "--json"))
    assert {one["key"] for one in found["layers"]} == {BODY.name, RUNTIME.name}
    assert set(found["models"][0]["layers"]) == {BODY.entry.sha256, RUNTIME.entry.sha256}
    text = deployed.mme("status")
    assert f"layers: 2 under s3://loft-{ACCOUNT}-{REGION}/models-layers/" in text
    assert re.search(rf"  {short(BODY)}  \d+\.\d KiB  of 2 models", text)


@pytest.mark.timeout(600)  # some twenty runs
@pytest.mark.thorough
def test_a_run_killed_after_any_of_its_changes_leaves_no_layer_behind(barn, service, nothing_left):
    killed = barn.killed("deploy")
    assert killed.count("PutObject") == 4
    assert stored(service, "barn") == {BODY.name, RUNTIME.name}
    for name in ("a", "b"):
        thin_archives.put(barn, f"thin/{name}.tar.gz", OTHER, RUNTIME, name=name)
    killed = barn.killed("deploy")
    assert killed.count("PutObject") == 3
    # No archive names it since one of the runs: it might be another's that is under way.
    assert stored(service, "barn") == {BODY.name, OTHER.name, RUNTIME.name}
    assert changes(barn.mme("deploy")) == {f"layer {short(BODY)}": "remove"}
    assert stored(service, "barn") == {OTHER.name, RUNTIME.name}
    assert barn.killed("destroy").count("DeleteObject") == 4
