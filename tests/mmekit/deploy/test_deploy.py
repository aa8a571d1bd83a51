"""From a file to a running endpoint, changed while it serves, and removed again."""

import collections
import contextlib
import json
import threading

import pytest

from tests.mmekit.deploy.conftest import ACCOUNT, REGION, Desk, archive, changes, wait_until

HOUSES = """
    name: houses
    packages:
      - archive: archives/a.tar.gz
      - archive: archives/b.tar.gz
        key: team/b.tar.gz
"""


@contextlib.contextmanager
def hammering(service, endpoint, target, threads=4):
    """Invoke a model all the while; yield what came of it: {colour or error: count}."""
    outcomes, ending = collections.Counter(), threading.Event()

    def hammer():
        while not ending.is_set():
            try:
                answer = service.invoke(endpoint, target, b'{"seconds": 0.01}')
                outcomes[answer["environment"].get("COLOUR")] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                outcomes[repr(error)] += 1

    running = [threading.Thread(target=hammer) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield outcomes
    finally:
        ending.set()
        for thread in running:
            thread.join()


def furnish(desk):
    """Give a desk a file and its two archives."""
    for name in ("a", "b"):
        desk.pack(f"archives/{name}.tar.gz")
    desk.write(HOUSES)


@pytest.fixture
def houses(desk):
    """A file and its archives, and nothing deployed."""
    furnish(desk)
    return desk


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """The same under another name, deployed for the whole module."""
    desk = Desk(tmp_path_factory.mktemp("standing"), service.url)
    furnish(desk)
    add(desk, "name: homes", old="name: houses")
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")
    assert "homes" not in str(service.names())


def add(desk, lines, old=None):
    """Add lines to the file, or put them in the place of others."""
    file = desk.folder / "mme.yaml"
    text = file.read_text()
    if old is not None:
        assert old in text
    file.write_text(f"{text}{lines}\n" if old is None else text.replace(old, lines))


def test_a_plan_does_nothing(houses, service, nothing_left):
    bucket = f"houses-{ACCOUNT}-{REGION}"
    planned = changes(houses.planned())
    named = {name: action for name, action in planned.items() if "houses-" not in name}
    assert named == {
        "archive a.tar.gz": "create",
        "archive team/b.tar.gz": "create",
        "endpoint houses": "create",
    }
    assert planned[f"bucket {bucket}"] == planned[f"role houses-{REGION}"] == "create"


def test_what_is_deployed_answers_and_is_left_alone_by_a_second_run(deployed, service):
    assert service.invoke("homes", "a.tar.gz")
    assert service.invoke("homes", "team/b.tar.gz")
    before = service.names()
    again = deployed.mme("deploy")
    assert changes(again) == {}
    assert "Nothing to do." in again
    assert service.names() == before


def test_the_bucket_blocks_public_access_encrypts_and_refuses_plain_http(deployed, service):
    s3, bucket = service.client("s3"), f"homes-{ACCOUNT}-{REGION}"
    blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(blocked.values()) == {True}
    assert len(blocked) == 4
    rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    [statement] = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]


def test_the_role_reaches_the_prefix_the_image_and_its_own_logs(deployed, service):
    iam, name = service.client("iam"), f"homes-{REGION}"
    trust = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]["Statement"][0]
    assert trust["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    policy = iam.get_role_policy(RoleName=name, PolicyName="mmekit")["PolicyDocument"]
    allowed = {one["Sid"]: one for one in policy["Statement"]}
    bucket = f"arn:aws:s3:::homes-{ACCOUNT}-{REGION}"
    assert allowed["ReadModels"]["Action"] == "s3:GetObject"
    assert allowed["ReadModels"]["Resource"] == f"{bucket}/models/*"
    assert allowed["ListModels"]["Condition"] == {"StringLike": {"s3:prefix": ["models/*"]}}
    assert allowed["PullImage"]["Resource"].endswith(":763104351884:repository/djl-inference")
    everywhere = {sid for sid, one in allowed.items() if one["Resource"] == "*"}
    assert everywhere == {"WriteMetrics", "SignInToRegistry"}  # AWS knows no narrower resource
    assert not any("*" in str(one["Action"]) for one in allowed.values())


def test_one_change_of_the_file_is_the_only_change_of_the_plan(deployed, service):
    arn = service.described("homes")["EndpointArn"]
    add(deployed, "environment: {COLOUR: blue}")
    plan = deployed.planned()
    kinds = sorted(f"{action} {what.split(' homes')[0]}" for what, action in changes(plan).items())
    assert kinds == [
        "change endpoint",
        "change endpoint config",
        "change model",
        "remove endpoint config",
        "remove model",
    ]
    assert "environment.COLOUR: none -> blue" in plan
    assert service.described("homes")["EndpointArn"] == arn


def test_an_update_under_load_fails_no_request_and_removes_what_it_replaced(deployed, service):
    created = service.described("homes")["CreationTime"]
    old = service.names()
    add(deployed, "environment: {COLOUR: green}")
    with hammering(service, "homes", "a.tar.gz") as outcomes:
        wait_until(lambda: outcomes[None] > 10)
        deployed.mme("deploy")
        wait_until(lambda: outcomes["green"] > 10)
    assert set(outcomes) == {None, "green"}
    assert service.described("homes")["CreationTime"] == created
    new = service.names()
    for kind in ("models", "configs"):
        assert len(new[kind]) == len(old[kind]) == 1
        assert new[kind] != old[kind]


def test_a_new_key_touches_nothing_but_the_bucket(deployed, service):
    deployed.pack("archives/c.tar.gz", load_seconds=0)
    add(deployed, "  - archive: archives/c.tar.gz", old="    key: team/b.tar.gz")
    told = deployed.mme("deploy")
    assert changes(told) == {
        "archive b.tar.gz": "create",
        "archive c.tar.gz": "create",
        "archive team/b.tar.gz": "remove",
    }
    # By the file it is found whatever region and profile that says.
    assert "Invoke it: mme invoke mme.yaml --target-model a.tar.gz --data FILE" in told
    assert service.invoke("homes", "c.tar.gz")


def test_other_bytes_under_an_old_key_bring_new_instances_that_load_them(deployed, service):
    assert service.invoke("homes", "a.tar.gz")["files"] == ["model.json"]
    config = service.described("homes")["EndpointConfigName"]
    deployed.pack("archives/a.tar.gz", newer=True)
    plan = deployed.mme("deploy")
    assert changes(plan)["archive a.tar.gz"] == "change"
    assert service.described("homes")["EndpointConfigName"] != config
    assert "Nothing to do." in deployed.mme("deploy")


def test_an_archive_whose_hash_is_there_is_not_uploaded(deployed, service):
    s3, key = service.client("s3"), "models/a.tar.gz"
    before = s3.head_object(Bucket=f"homes-{ACCOUNT}-{REGION}", Key=key)
    file = deployed.folder / "archives/a.tar.gz"
    file.write_bytes(file.read_bytes())  # a newer file of the same bytes
    deployed.mme("deploy")
    after = s3.head_object(Bucket=f"homes-{ACCOUNT}-{REGION}", Key=key)
    assert after["LastModified"] == before["LastModified"]
    assert len(after["Metadata"]["sha256"]) == 64


def test_scaling_and_alarms_come_change_and_go_with_the_file(deployed, service):
    scaling = "autoscaling: {maximum: 3, invocations_per_instance: 50}"
    add(deployed, f"{scaling}\nalarms: {{latency_ms: 200}}")
    names = ("5xx", "latency", "memory", "disk")
    plan = deployed.mme("deploy")
    assert "(ml.m5.xlarge in us-east-1); up to 0.69 when scaled out to 3" in plan
    assert changes(plan) == {
        "autoscaling homes-invocations": "create",
        **{f"alarm homes-{name}": "create" for name in names},
    }
    cloudwatch = service.client("cloudwatch")
    described = cloudwatch.describe_alarms(AlarmNamePrefix="homes-")["MetricAlarms"]
    thresholds = {one["MetricName"]: one["Threshold"] for one in described}
    assert thresholds == {
        "Invocation5XXErrors": 5,
        "ModelLatency": 200_000,  # microseconds
        "MemoryUtilization": 85,
        "DiskUtilization": 85,
    }
    [target] = service.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker"
    )["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 3)

    add(deployed, "latency_ms: 300", old="latency_ms: 200")
    add(deployed, "maximum: 2", old="maximum: 3")
    plan = deployed.mme("deploy")
    assert changes(plan) == {
        "autoscaling homes-invocations": "change",
        "alarm homes-latency": "change",
    }
    assert "maximum: 3 -> 2" in plan
    assert "Nothing to do." in deployed.mme("deploy")

    add(deployed, "", old=f"{scaling.replace('3', '2')}\nalarms: {{latency_ms: 300}}\n")
    planned = changes(deployed.mme("deploy"))
    assert set(planned.values()) == {"remove"}
    assert len(planned) == 5


def test_an_instance_type_changes_with_the_scaling_taken_away_meanwhile(deployed, service):
    add(deployed, "autoscaling: {maximum: 3, invocations_per_instance: 50}")
    deployed.mme("deploy")
    add(deployed, "instance_type: ml.m5.large")
    plan = deployed.mme("deploy")
    assert "instance type: ml.m5.xlarge -> ml.m5.large" in plan
    scaling = [line.split()[1] for line in plan.splitlines() if " autoscaling " in line]
    assert scaling[:2] == ["remove", "create"]
    assert service.names("homes")["scaled"] == ["endpoint/homes/variant/AllTraffic"]


def test_a_volume_reaches_the_instances_and_is_the_only_change(deployed, service):
    add(deployed, "volume_gb: 40")
    plan = deployed.mme("deploy")
    assert "disk: all models take 1 of 40960 MiB" in plan
    assert "volume: none -> 40" in plan
    config = service.described("homes")["EndpointConfigName"]
    described = service.client("sagemaker").describe_endpoint_config(EndpointConfigName=config)
    assert described["ProductionVariants"][0]["VolumeSizeInGB"] == 40
    assert "Nothing to do." in deployed.mme("deploy")


def test_the_status_is_told(deployed, service):
    found = json.loads(deployed.mme("status", "--json"))
    assert found["endpoint"]["status"] == "InService"
    assert (found["endpoint"]["instances"], found["endpoint"]["desired_instances"]) == (1, 1)
    assert [one["key"] for one in found["models"]] == ["a.tar.gz", "team/b.tar.gz"]
    assert found["cost"]["price"]["hour"] == "0.23"
    text = deployed.mme("status")
    assert "endpoint: InService" in text
    assert "cost: 0.23 USD an hour for 1 instance (ml.m5.xlarge in us-east-1)" in text
    assert "2 single-model endpoints on one such instance each would cost 0.46 USD" in text


def test_destroy_leaves_what_others_made(houses, service):
    s3, bucket = service.client("s3"), f"houses-{ACCOUNT}-{REGION}"
    before = service.names()
    houses.mme("deploy")
    s3.put_object(Bucket=bucket, Key="models/foreign.tar.gz", Body=archive())
    sagemaker, role = service.client("sagemaker"), f"arn:aws:iam::{ACCOUNT}:role/houses-{REGION}"
    container = {"Image": "own", "Mode": "MultiModel", "ModelDataUrl": "s3://other/"}
    sagemaker.create_model(
        ModelName="houses-foreign", ExecutionRoleArn=role, PrimaryContainer=container
    )
    said = houses.mme("destroy")
    assert f"bucket {bucket}: kept" in said
    assert f"role houses-{REGION}: kept, model houses-foreign uses it" in said
    left = service.names("houses")
    assert left["objects"] == [f"{bucket}/models/foreign.tar.gz"]
    assert left["models"] == ["houses-foreign"]
    assert not left["endpoints"]
    assert not left["configs"]

    s3.delete_object(Bucket=bucket, Key="models/foreign.tar.gz")
    sagemaker.delete_model(ModelName="houses-foreign")
    houses.mme("destroy")
    assert service.names() == before
    assert "No resources of" in houses.mme("destroy")


def test_a_bucket_of_others_is_used_as_it_is_and_stays(houses, service):
    s3 = service.client("s3")
    s3.create_bucket(Bucket="of-others")
    s3.put_object(Bucket="of-others", Key="models/theirs.tar.gz", Body=archive())
    add(houses, "bucket: of-others")
    plan = houses.mme("deploy")
    assert "keep   bucket of-others (not made by this deployment: used as it is" in plan
    assert "not as mme would make it: encryption" in plan or "public access" in plan
    assert service.invoke("houses", "theirs.tar.gz")
    houses.mme("destroy")
    assert not any(service.names("houses").values())
    assert service.names("of-others")["objects"] == ["of-others/models/theirs.tar.gz"]
    s3.delete_object(Bucket="of-others", Key="models/theirs.tar.gz")
    s3.delete_bucket(Bucket="of-others")


def test_an_update_that_fails_leaves_the_old_in_service_and_can_be_mended(deployed, service):
    add(deployed, "environment: {REFUSE_TO_START: 'yes'}")
    said = deployed.refused("deploy")
    assert "did not come into service" in said
    assert "What was there before goes on serving." in said
    assert service.invoke("homes", "a.tar.gz")
    add(deployed, "COLOUR: gold", old="REFUSE_TO_START: 'yes'")
    deployed.mme("deploy")
    assert service.invoke("homes", "a.tar.gz")["environment"]["COLOUR"] == "gold"
    assert len(service.names()["configs"]) == len(service.names()["models"]) == 1


def allowed_to_read(service, role):
    """What the role may read of S3: its policy's resources."""
    policy = service.client("iam").get_role_policy(RoleName=role, PolicyName="mmekit")
    statements = policy["PolicyDocument"]["Statement"]
    return {one["Resource"] for one in statements if one["Action"] == "s3:GetObject"}


def test_the_role_may_read_the_old_place_until_the_endpoint_has_moved(deployed, service):
    bucket = f"arn:aws:s3:::homes-{ACCOUNT}-{REGION}"
    add(deployed, "prefix: second\nenvironment: {REFUSE_TO_START: 'yes'}")
    assert "did not come into service" in deployed.refused("deploy")
    assert allowed_to_read(service, f"homes-{REGION}") == {
        f"{bucket}/models/*",
        f"{bucket}/second/*",
    }
    add(deployed, "prefix: third", old="prefix: second")
    deployed.refused("deploy")
    assert allowed_to_read(service, f"homes-{REGION}") == {
        f"{bucket}/{prefix}/*" for prefix in ("models", "second", "third")
    }
    assert service.invoke("homes", "a.tar.gz")

    add(deployed, "COLOUR: gold", old="REFUSE_TO_START: 'yes'")
    deployed.mme("deploy")
    assert allowed_to_read(service, f"homes-{REGION}") == {f"{bucket}/third/*"}
    assert service.invoke("homes", "a.tar.gz")["environment"]["COLOUR"] == "gold"
    assert service.names("homes")["objects"] == [
        f"homes-{ACCOUNT}-{REGION}/third/{key}" for key in ("a.tar.gz", "team/b.tar.gz")
    ]
    assert "Nothing to do." in deployed.mme("deploy")


def test_archives_are_encrypted_anew_with_another_key(houses, service, nothing_left):
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/12345678-1234-1234-1234-12345678901"
    s3, bucket = service.client("s3"), f"houses-{ACCOUNT}-{REGION}"

    def keys():
        objects = s3.list_objects_v2(Bucket=bucket)["Contents"]
        heads = [s3.head_object(Bucket=bucket, Key=one["Key"]) for one in objects]
        assert len(heads) == 2
        return {head.get("SSEKMSKeyId") for head in heads}

    add(houses, f"kms_key: {key}2")
    houses.mme("deploy")
    assert keys() == {f"{key}2"}
    add(houses, f"kms_key: {key}3", old=f"kms_key: {key}2")
    plan = changes(houses.mme("deploy"))
    assert plan["archive a.tar.gz"] == "change"
    assert keys() == {f"{key}3"}
    assert "Nothing to do." in houses.mme("deploy")
    add(houses, "", old=f"kms_key: {key}3\n")
    houses.mme("deploy")
    assert keys() == {None}
    houses.mme("destroy")


def test_what_an_endpoint_has_moved_away_from_is_removed(houses, service, nothing_left):
    s3 = service.client("s3")
    add(houses, "bucket: houses-first")
    houses.mme("deploy")
    add(houses, "bucket: houses-second", old="bucket: houses-first")
    plan = changes(houses.mme("deploy"))
    assert plan["archive s3://houses-first/models/a.tar.gz"] == "remove"
    assert plan["bucket houses-first"] == "remove"
    assert service.names("houses")["buckets"] == ["houses-second"]
    assert service.invoke("houses", "team/b.tar.gz")

    # A prefix inside the other, and beside the archives something of others'.
    s3.put_object(Bucket="houses-second", Key="models/theirs.tar.gz", Body=archive())
    add(houses, "prefix: models/inner")
    houses.mme("deploy")
    assert service.names("houses-second")["objects"] == [
        f"houses-second/models/{key}"
        for key in ("inner/a.tar.gz", "inner/team/b.tar.gz", "theirs.tar.gz")
    ]
    assert service.invoke("houses", "a.tar.gz")

    s3.delete_object(Bucket="houses-second", Key="models/theirs.tar.gz")
    add(houses, "bucket: houses-third", old="bucket: houses-second")
    add(houses, "prefix: other", old="prefix: models/inner")
    houses.mme("destroy")


def test_an_endpoint_that_never_came_into_service_is_made_anew(houses, service, nothing_left):
    add(houses, "environment: {REFUSE_TO_START: 'yes'}")
    houses.refused("deploy")
    assert service.described("houses")["EndpointStatus"] == "Failed"
    add(houses, "COLOUR: gold", old="REFUSE_TO_START: 'yes'")
    assert "removed and made anew" in houses.mme("deploy")
    assert service.invoke("houses", "a.tar.gz")["environment"]["COLOUR"] == "gold"
    houses.mme("destroy")


def test_a_key_and_a_network_reach_what_they_are_for(houses, service, nothing_left):
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/12345678-1234-1234-1234-123456789012"
    network = "{subnets: [subnet-0a, subnet-0b], security_groups: [sg-0a]}"
    add(houses, f"kms_key: {key}\nnetwork: {network}")
    houses.mme("deploy")
    assert "Nothing to do." in houses.mme("deploy")
    sagemaker, names = service.client("sagemaker"), service.names("houses")
    model = sagemaker.describe_model(ModelName=names["models"][0])
    assert model["VpcConfig"] == {
        "Subnets": ["subnet-0a", "subnet-0b"],
        "SecurityGroupIds": ["sg-0a"],
    }
    config = sagemaker.describe_endpoint_config(EndpointConfigName=names["configs"][0])
    assert config["KmsKeyId"] == key
    encryption = service.client("s3").get_bucket_encryption(Bucket=names["buckets"][0])
    [rule] = encryption["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": "aws:kms",
        "KMSMasterKeyID": key,
    }
    policy = service.client("iam").get_role_policy(
        RoleName=f"houses-{REGION}", PolicyName="mmekit"
    )["PolicyDocument"]
    allowed = {one["Sid"]: one for one in policy["Statement"]}
    assert allowed["DecryptModels"]["Resource"] == key
    assert "ec2:CreateNetworkInterface" in allowed["AttachToNetwork"]["Action"]
    houses.mme("destroy")
