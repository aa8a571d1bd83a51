"""Versions: keys that carry digests, current.json, how long old ones stay, and who is told."""

import datetime as dt
import http.server
import json
import re
import threading
import types
from pathlib import Path

import pytest

from mmekit.cli.endpoints import site_of
from mmekit.deploy.current import now_at
from mmekit.deploy.models import plan_objects_removal, stored_archives
from mmekit.deploy.release_files import current_json, history_json, read_history, read_releases
from mmekit.deploy.releases import ModelVersion, Releases
from mmekit.errors import DeployError
from mmekit.settings import Settings
from mmekit_bench import listed_targets
from tests.mmekit.deploy import thin_archives
from tests.mmekit.deploy.conftest import ACCOUNT, REGION, Desk, Service, changes

STORE = """
    name: store
    versions: true
    packages:
      - archive: a.tar.gz
      - archive: b.tar.gz
        key: team/b.tar.gz
"""
PLAIN = STORE.replace("versions: true", "versions: false")
BUCKET = f"store-{ACCOUNT}-{REGION}"


@pytest.fixture(scope="module")
def service(shared_service):
    """One for all modules about versions."""
    return shared_service


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """Two models with versions, deployed for the whole module."""
    desk = Desk(tmp_path_factory.mktemp("standing"), service.url)
    for name in ("a", "b"):
        desk.pack(f"{name}.tar.gz", of=name)
    desk.write(STORE)
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")
    assert "store" not in str(service.names())


@pytest.fixture
def deployed(standing, service):
    """The same for each test: what another has left of releases is forgotten."""
    before, releases = standing.contents(), current(service)
    yield standing
    if (standing.contents(), current(service)) != (before, releases):
        standing.restore(before)
        age(service, days=400)
        standing.mme("deploy")


def current(service, bucket=BUCKET, name="current"):
    body = service.client("s3").get_object(Bucket=bucket, Key=f"models/{name}.json")["Body"]
    return json.loads(body.read())


def history(service, bucket=BUCKET):
    return current(service, bucket, "releases")["releases"]


def age(service, days, bucket=BUCKET):
    """Let all releases have been made so many days before."""
    content, releases = current(service, bucket), current(service, bucket, "releases")
    for release in (content["made_by"], *releases["releases"]):
        made = dt.datetime.fromisoformat(release["made"]) - dt.timedelta(days=days)
        release["made"] = made.isoformat(timespec="milliseconds")
    put(service, json.dumps(content).encode(), bucket)
    put(service, json.dumps(releases).encode(), bucket, "releases")


def put(service, body, bucket=BUCKET, name="current"):
    service.client("s3").put_object(
        Bucket=bucket,
        Key=f"models/{name}.json",
        Body=body,
        Metadata={"mmekit-deployment": bucket.partition("-")[0]},
    )


def archives(service, bucket=BUCKET):
    start = f"{bucket}/models/"
    found = {one.removeprefix(start) for one in service.names(start)["objects"]}
    return found - {"current.json", "releases.json"}


def keys(service):
    return {one["key"] for one in current(service)["models"].values()}


def asked(service, name, endpoint="store"):
    """Ask for the current version of a model, as a caller does."""
    return service.invoke(
        endpoint, current(service, f"{endpoint}-{ACCOUNT}-{REGION}")["models"][name]["key"]
    )


def test_a_key_carries_the_digest_and_current_json_says_which_is_current(deployed, service):
    content = current(service)
    assert (content["format"], content["deployment"]) == (1, "store")
    assert set(content["models"]) == {"a.tar.gz", "team/b.tar.gz"}
    for name, version in content["models"].items():
        assert version["key"] == name.replace(".tar", f"-{version['sha256'][:12]}.tar")
        assert version["key"] in archives(service)
        head = service.client("s3").head_object(Bucket=BUCKET, Key=f"models/{version['key']}")
        assert head["Metadata"]["sha256"] == version["sha256"]
        assert asked(service, name)
    assert "Nothing to do." in deployed.mme("deploy")


def test_status_says_the_current_version_of_each_name(deployed, service):
    text = deployed.mme("status")
    assert f"models: 2 under s3://{BUCKET}/models/, release 1 of " in text
    for name, version in current(service)["models"].items():
        assert re.search(rf"  {name} -> {version['key']}  0\.\d KiB", text)
    told = json.loads(deployed.mme("status", "--json"))["releases"]["models"]
    assert told == current(service)["models"]
    key = current(service)["models"]["a.tar.gz"]["key"]
    place = {"Bucket": BUCKET, "Key": f"models/{key}"}
    kept = service.client("s3").get_object(**place)
    body = kept["Body"].read()
    service.client("s3").delete_object(**place)
    assert f"a.tar.gz -> {key}  MISSING: run `mme deploy`" in deployed.mme("status")
    service.client("s3").put_object(**place, Body=body, Metadata=kept["Metadata"])


def test_a_plan_and_the_status_say_the_same_of_what_s3_has(deployed):
    deployed.pack("a.tar.gz", of="a", padding=list(range(2000)))
    deployed.mme("deploy")
    deployed.pack("a.tar.gz", of="a", padding=list(range(1000)))
    [planned] = re.findall(r"(.*) in S3", deployed.planned())
    deployed.mme("deploy")
    [stored] = re.findall(r"(.*) in S3", deployed.mme("status"))
    assert planned == stored


def test_a_new_version_needs_no_update_and_the_old_stays(deployed, service):
    before, config = current(service), service.described("store")["EndpointConfigName"]
    deployed.pack("a.tar.gz", of="a", newer=True)
    plan = deployed.mme("deploy")
    content = current(service)
    old, new = (one["models"]["a.tar.gz"]["key"] for one in (before, content))
    assert changes(plan) == {f"archive {new}": "create", "releases current.json": "change"}
    assert f"a.tar.gz: {old} -> {new}" in plan
    assert plan.index(f"create archive {new}") < plan.index("change releases current.json")
    assert {old, new} <= archives(service)
    assert service.described("store")["EndpointConfigName"] == config
    last = content["made_by"]
    assert last == history(service)[-1]
    assert (last["number"], last["how"], last["config"]) == (
        before["release"] + 1,
        "deploy",
        config,
    )
    assert last["before"] == {"a.tar.gz": before["models"]["a.tar.gz"]}
    assert asked(service, "a.tar.gz")


def test_an_old_version_goes_when_its_days_are_over_and_the_plan_says_so(deployed, service):
    old = current(service)["models"]["a.tar.gz"]["key"]
    deployed.pack("a.tar.gz", of="a", newer=2)
    deployed.mme("deploy")
    age(service, days=29)
    plan = deployed.mme("deploy")
    assert "Nothing to do." in plan
    assert "older versions" in plan
    assert "each until it has not been current for 30 days" in plan
    age(service, days=2)
    plan = deployed.mme("deploy")
    assert changes(plan)[f"archive {old}"] == "remove"
    assert "forgotten: not current for more than 30 days" in plan
    assert old not in archives(service)
    assert len(history(service)) == 1
    assert asked(service, "a.tar.gz")
    assert "Nothing to do." in deployed.mme("deploy")


@pytest.mark.thorough
def test_a_version_that_is_current_again_is_not_uploaded_again(deployed, service):
    first = (deployed.folder / "a.tar.gz").read_bytes()
    deployed.pack("a.tar.gz", of="a", newer=3)
    deployed.mme("deploy")
    deployed.put("a.tar.gz", first)
    assert changes(deployed.mme("deploy")) == {"releases current.json": "change"}


@pytest.mark.thorough
def test_a_model_that_leaves_the_file_stays_as_an_older_version(deployed, service):
    key = current(service)["models"]["team/b.tar.gz"]["key"]
    deployed.write(STORE.partition("      - archive: b")[0])
    plan = deployed.mme("deploy")
    assert changes(plan) == {"releases current.json": "change"}
    assert f"team/b.tar.gz: {key} -> none" in plan
    assert set(current(service)["models"]) == {"a.tar.gz"}
    assert key in archives(service)
    age(service, days=31)
    assert changes(deployed.mme("deploy"))[f"archive {key}"] == "remove"


def test_who_deploys_at_the_same_time_is_told_and_loses_nothing(deployed, service, monkeypatch):
    from mmekit.deploy import coming as room

    deployed.pack("a.tar.gz", of="a", newer="mine")
    check = room._check

    def be_overtaken(site, models):
        check(site, models)
        files = (json.dumps(current(service, name=one)) for one in ("current", "releases"))
        content = read_releases(*(one.encode() for one in files), where="current.json")
        other = content.followed_by({}, how="deploy", config="", now=content.current.made)
        put(service, current_json(other))
        put(service, history_json(other), name="releases")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_check", be_overtaken)
        told = deployed.refused("deploy")
    assert "Somebody else has changed current.json since this plan was made" in told
    assert "Run the command again" in told
    theirs = current(service)["release"]
    assert current(service)["models"] == {}
    deployed.mme("deploy")
    assert current(service)["release"] == theirs + 1
    assert asked(service, "a.tar.gz")


def test_a_run_that_dies_before_releases_json_leaves_the_truth_and_loses_nothing(
    deployed, service, monkeypatch
):
    before = history(service)
    deployed.pack("a.tar.gz", of="a", newer="died")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmekit.deploy.current._put_history", die)
        assert deployed.run("deploy").exit_code == 130
    number = current(service)["release"]
    assert number == before[-1]["number"] + 1
    assert history(service) == before
    assert asked(service, "a.tar.gz")
    assert f"release {number} of " in deployed.mme("status")
    # The next run makes another release, and none of those before is missing.
    deployed.pack("a.tar.gz", of="a", newer="after")
    plan = deployed.mme("deploy")
    assert f"releases.json lacks release {number}: " in plan
    numbers = [one["number"] for one in history(service)]
    assert numbers == [*(one["number"] for one in before), number, number + 1]


def test_what_is_current_by_then_is_not_removed(deployed, service, monkeypatch):
    """Removals look again: another run may have made current what a plan would remove."""
    monkeypatch.chdir(deployed.folder)
    monkeypatch.setenv("MME_LOCAL_URL", service.url)
    there, said = archives(service), []
    with site_of(Path("mme.yaml")) as site:
        for step in plan_objects_removal(site, stored_archives(site)):
            step.perform(said.append)
    assert keys(service) <= archives(service) <= there
    named = f"s3://{BUCKET}/models/current.json names it"
    assert {f"archive {key} stays: {named}" for key in keys(service)} == set(said)


def test_versions_are_forgotten_by_the_clock_of_s3(tmp_path):
    """That of whoever deploys may have jumped; versions that it takes for old would be gone."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def date_time_string(self, timestamp=None):
            return "Sun, 01 Mar 2026 10:00:00 GMT" if timestamp is None else ""

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    s3 = Service(None, f"http://127.0.0.1:{server.server_port}", tmp_path).client("s3")
    site = types.SimpleNamespace(bucket=BUCKET, account=types.SimpleNamespace(client=lambda _: s3))
    assert now_at(site) == dt.datetime(2026, 3, 1, 10, tzinfo=dt.timezone.utc)
    s3.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_current_json_does_not_grow_with_what_was_before():
    now = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    releases = Releases("store", {}, ())
    sizes = []
    for day in range(30):
        models = {
            f"m{n}.tar.gz": ModelVersion(f"m{n}-{day}.tar.gz", f"{day:064}") for n in range(200)
        }
        releases = releases.followed_by(
            models, how="deploy", config="", now=now + dt.timedelta(days=day)
        )
        sizes.append(len(current_json(releases)))
    now += dt.timedelta(days=29)
    assert sizes[-1] < sizes[1] * 1.1 < 60_000
    files = current_json(releases), history_json(releases)
    assert read_releases(*files, where="") == releases
    assert read_releases(files[0], where="").models == releases.models
    # A clock that went back makes no gap: what is forgotten is the oldest.
    assert [one.number for one in releases.remembered(10, now)] == [*range(20, 31)]
    back = releases.followed_by({}, how="deploy", config="", now=now - dt.timedelta(days=400))
    assert back.current.made == releases.current.made


@pytest.mark.thorough
def test_nothing_becomes_current_that_is_not_there(deployed, service, monkeypatch):
    from mmekit.deploy import coming as room

    before = current(service)
    deployed.pack("a.tar.gz", of="a", newer="lost")
    check = room._check

    def lose(site, models):
        key = f"models/{models['a.tar.gz'].key}"
        service.client("s3").delete_object(Bucket=BUCKET, Key=key)
        check(site, models)

    with monkeypatch.context() as patch:
        patch.setattr(room, "_check", lose)
        told = deployed.refused("deploy")
    assert "What should become current is not in the bucket: a.tar.gz" in told
    assert current(service) == before
    deployed.mme("deploy")
    assert asked(service, "a.tar.gz")


def test_mme_invoke_finds_the_current_version_and_says_which_it_is(deployed, service):
    arguments = ("invoke", "store", "--target-model", "team/b.tar.gz", "--data", "mme.yaml")
    arguments = (*arguments, "--content-type", "text/plain")
    done = deployed.run(*arguments)
    key = current(service)["models"]["team/b.tar.gz"]["key"]
    assert done.exit_code == 0, done.stderr
    assert f"mme: team/b.tar.gz is {key}, current with release " in done.stderr
    # An object of that key is what other clients get, and not what is current.
    s3 = service.client("s3")
    s3.put_object(Bucket=BUCKET, Key="models/team/b.tar.gz", Body=b"no archive at all")
    done = deployed.run(*arguments)
    assert done.exit_code == 0, done.stderr
    assert f"mme: team/b.tar.gz is {key}, current with release " in done.stderr
    assert "the object team/b.tar.gz itself, from before versions were on, is ano" in done.stderr
    s3.delete_object(Bucket=BUCKET, Key="models/team/b.tar.gz")
    # A key is no name: it is asked for as it is, and nothing is said.
    done = deployed.run(*(key if one == "team/b.tar.gz" else one for one in arguments))
    assert (done.exit_code, done.stderr) == (0, "")


def test_a_body_that_is_too_long_does_not_read_as_a_model_that_is_not_there(deployed):
    deployed.put("long.txt", b"x" * (26 << 20))
    ask = ("invoke", "store", "--content-type", "text/plain", "--data", "long.txt")
    told = deployed.refused(*ask, "--target-model", "a.tar.gz")
    assert "Value at 'body' failed to satisfy constraint" in told
    assert "remedy: ask with fewer records" in told
    assert "There is no model" not in told
    deployed.put("long.txt", b"x")
    told = deployed.refused(*ask, "--target-model", "c.tar.gz")
    assert "There is no model c.tar.gz behind the endpoint store" in told
    (deployed.folder / "long.txt").unlink()


def test_mme_bench_asks_the_current_versions_and_no_other(deployed, service):
    deployed.pack("a.tar.gz", of="a", newer="benched")
    deployed.mme("deploy")
    keys = {name: one["key"] for name, one in current(service)["models"].items()}
    assert len(archives(service)) > len(keys)
    settings = Settings(local_url=service.url)
    assert listed_targets("store", settings) == tuple(sorted(keys.values()))
    load = ("bench", "--endpoint", "store", "--requests", "4", "--data", "mme.yaml", "--json")
    done = deployed.run(*load, "--content-type", "text/plain", "--targets", "a.tar.gz")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["targets"] == [keys["a.tar.gz"]]
    assert f"mme: a.tar.gz is {keys['a.tar.gz']}, current with release " in done.stderr


@pytest.mark.thorough
def test_switching_versions_off_and_on_keeps_every_name_answered(deployed, service):
    versioned, current_ones = archives(service), keys(service)
    config = service.described("store")["EndpointConfigName"]
    deployed.write(PLAIN)
    plan = deployed.mme("deploy")
    assert changes(plan) == {
        "archive a.tar.gz": "create",
        "archive team/b.tar.gz": "create",
        "releases current.json": "change",
    }
    # Whoever looks into current.json finds the plain keys, whoever remembers an old key its object.
    assert current(service)["models"]["a.tar.gz"]["key"] == "a.tar.gz"
    assert archives(service) == versioned | {"a.tar.gz", "team/b.tar.gz"}
    assert service.invoke("store", "a.tar.gz")
    age(service, days=31)
    plan = changes(deployed.mme("deploy"))
    assert plan["releases current.json"] == "remove"
    assert archives(service) == {"a.tar.gz", "team/b.tar.gz"}
    assert "Nothing to do." in deployed.mme("deploy")
    deployed.write(STORE)
    plan = deployed.mme("deploy")
    assert changes(plan)["releases current.json"] == "create"
    # Callers that do not know of versions yet find what was there.
    assert {"a.tar.gz", "team/b.tar.gz"} <= archives(service)
    assert [one["number"] for one in history(service)] == [1, 2]
    assert service.described("store")["EndpointConfigName"] == config
    age(service, days=31)
    deployed.mme("deploy")
    assert archives(service) == current_ones


def test_another_deployment_under_the_prefix_is_refused(deployed, service):
    deployed.write(STORE.replace("name: store", f"name: shed\n    bucket: {BUCKET}"), "shed.yaml")
    told = deployed.refused("deploy", "shed.yaml")
    assert "current.json is that of the deployment store" in told
    assert "Give this deployment another `prefix`" in told


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "is not JSON from line 1, column 2 on"),
        (b'{"format": 2}', "has format 2, and this mmekit knows 1"),
        (b'{"format": 1, "deployment": "store", "models": {}}', "'made_by' is missing"),
        (
            b'{"format":1,"deployment":"store","models":{},"release":2,"oldest":3,"made_by":{"number":2}}',
            "not in order",
        ),
        (b"[]", "is a list, not an object"),
        (b"null", "is null, not an object"),
        (b'"\xff"', "its byte 1 is no utf-8"),
        (b"[" * 100_000, "cannot be read: "),
        (b'{"format": true}', "'format' is true or false, not a whole number"),
        (b" " * (60 << 20), "it has 60.0 MiB, and 32.0 MiB is the most"),
    ],
    ids=range(10),
)
def test_a_file_that_nobody_wrote_is_told_and_left(deployed, service, body, said):
    good = service.client("s3").get_object(Bucket=BUCKET, Key="models/current.json")["Body"].read()
    put(service, body)
    place = f"where: s3://{BUCKET}/models/current.json"
    told = deployed.refused("deploy")
    assert said in told
    assert place in told
    told = deployed.refused(
        *("invoke", "store", "--target-model", "a.tar.gz", "--data", "mme.yaml"),
        *("--content-type", "text/plain"),
    )
    assert said in told
    assert place in told
    # The endpoint goes on, and so does what is said of it.
    told = deployed.mme("status")
    assert "endpoint: InService" in told
    assert "releases: not known. current.json " in told
    assert said in told
    assert place in told
    put(service, good)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["models"]["a.tar.gz"].update(key="../../evil.tar.gz"),
        lambda content: content["models"]["a.tar.gz"].update(key="/evil.tar.gz"),
        lambda content: content["models"]["a.tar.gz"].update(key="a\x1b[31m.tar.gz"),
        lambda content: content["models"]["a.tar.gz"].update(key=3),
        lambda content: content["models"].update({"a.tar.gz": []}),
        lambda content: content.update(models=[]),
        lambda content: content["made_by"].update(made="yesterday"),
        lambda content: content["made_by"].update(before=None),
        lambda content: content["made_by"].update(restores="1"),
        lambda content: content.update(oldest=1.5),
    ],
)
def test_a_member_that_is_another_is_told_in_words(deployed, service, change):
    content = current(service)
    change(content)
    with pytest.raises(DeployError, match=r"current\.json cannot be read: ") as told:
        read_releases(json.dumps(content).encode(), where="s3://b/current.json")
    assert "Error" not in told.value.what
    assert "\x1b" not in str(told.value)
    content = history_json(read_releases(json.dumps(current(service)).encode(), where="x"))
    for damaged in (
        b"[]",
        b"null",
        content.replace(b'"before":{', b'"before":[{').replace(b"}}]}", b"}}]}]}"),
    ):
        with pytest.raises(DeployError, match=r"releases\.json cannot be read: "):
            read_history(damaged, where="s3://b/current.json")


@pytest.mark.thorough
def test_layers_stay_as_long_as_the_versions_that_name_them(desk, service, nothing_left):
    old, new = (thin_archives.layer(body=text) for text in (b"old", b"new"))
    thin_archives.put(desk, "thin/a.tar.gz", old, name="a")
    desk.write("name: shelf\nversions: true\npackages: [{archive: thin/a.tar.gz}]\n")
    desk.mme("deploy")
    thin_archives.put(desk, "thin/a.tar.gz", new, name="a")
    desk.mme("deploy")
    bucket = f"shelf-{ACCOUNT}-{REGION}"
    start = f"{bucket}/models-layers/"

    def layers():
        return {one.removeprefix(start) for one in service.names(start)["objects"]}

    assert layers() == {old.name, new.name}
    # What can be gone back to can be loaded: instances go on being told where layers are.
    desk.put("thin/a.tar.gz", thin_archives.archive(new, inline=True, name="a"))
    desk.mme("deploy")
    [model] = service.names("shelf-")["models"]
    described = service.client("sagemaker").describe_model(ModelName=model)["PrimaryContainer"]
    assert described["Environment"]["MMEKIT_LAYERS"] == f"s3://{bucket}/models-layers/"
    age(service, 31, bucket)
    desk.mme("deploy")
    assert layers() == set()
    desk.write("name: shelf\nversions: true\nprefix: deep/er\npackages: [{archive: thin/a.tar.gz}]")
    desk.mme("deploy")
    assert not service.names("shelf-")["objects"][0].startswith(f"{bucket}/models/")
    assert "Nothing to do." in desk.mme("deploy")
    desk.mme("destroy")


@pytest.mark.thorough
def test_a_kill_after_any_change_leaves_what_is_current_answered(deployed, service):
    deployed.pack("a.tar.gz", of="a", newer="killed")
    old = asked(service, "a.tar.gz")
    done = deployed.killed("deploy")
    # The archive, current.json, and with the next run the releases before.
    assert done == ["PutObject"] * 3
    assert old
    assert asked(service, "a.tar.gz")
    assert "Nothing to do." in deployed.mme("deploy")


@pytest.mark.thorough
def test_another_key_encrypts_old_versions_and_their_layers_anew(desk, service, nothing_left):
    bucket = f"vault-{ACCOUNT}-{REGION}"
    for body in (b"old", b"new"):
        thin_archives.put(desk, "a.tar.gz", thin_archives.layer(body=body), name="a")
        desk.write("name: vault\nversions: true\npackages: [{archive: a.tar.gz}]\n")
        desk.mme("deploy")
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0abc"
    desk.write(f"name: vault\nversions: true\nkms_key: {key}\npackages: [{{archive: a.tar.gz}}]\n")
    plan = desk.mme("deploy")
    assert "of an older version; encrypted anew" in plan
    s3 = service.client("s3")
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    heads = {one["Key"]: s3.head_object(Bucket=bucket, Key=one["Key"]) for one in listed}
    assert len(heads) == 6
    assert {head["SSEKMSKeyId"] for head in heads.values()} == {key}
    assert {head["Metadata"]["mmekit-deployment"] for head in heads.values()} == {"vault"}
    assert "Nothing to do." in desk.mme("deploy")
    desk.mme("rollback")
    assert asked(service, "a.tar.gz", "vault")
    desk.mme("destroy")


@pytest.mark.thorough
def test_what_the_page_shows_callers_asks_the_current_version(
    desk, service, nothing_left, monkeypatch
):
    """Typed off docs/deploying.md, word for word: the deployment has the names of the page."""
    page = (Path(__file__).parents[3] / "docs" / "deploying.md").read_text()
    [typed] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    desk.pack("ridge.tar.gz")
    desk.write(
        "name: demo\nregion: eu-central-1\nversions: true\npackages: [{archive: ridge.tar.gz}]\n"
    )
    desk.mme("deploy")
    for name, value in {
        "AWS_ENDPOINT_URL": service.url,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }.items():
        monkeypatch.setenv(name, value)
    caller = {}
    exec(compile(typed, "deploying.md", "exec"), caller)  # noqa: S102 - our own page
    assert caller["answer"]["ResponseMetadata"]["HTTPStatusCode"] == 200
    bucket, old = f"demo-{ACCOUNT}-eu-central-1", caller["current"]("ridge.tar.gz")
    assert old == current(service, bucket)["models"]["ridge.tar.gz"]["key"]

    desk.pack("ridge.tar.gz", newer=True)
    desk.mme("deploy")
    assert caller["current"]("ridge.tar.gz") == old  # it remembers, and the old one is there
    asked = {"EndpointName": "demo", "TargetModel": old, "Body": b"x"}
    assert caller["runtime"].invoke_endpoint(**asked)["Body"].read()
    caller["known"]["until"] = 0
    assert caller["current"]("ridge.tar.gz") not in ("ridge.tar.gz", old)
    with pytest.raises(KeyError):
        caller["current"]("lasso.tar.gz")
    service.client("s3").delete_object(Bucket=bucket, Key="models/current.json")
    caller["known"].clear()
    assert caller["current"]("ridge.tar.gz") == "ridge.tar.gz"
    for client in ("s3", "runtime"):
        caller[client].close()
    desk.mme("destroy")
