"""Rolling back: to the models of an earlier release, in one step, without a rebuild."""

import json

import pytest

from mmekit import progress
from tests.mmekit.deploy.conftest import ACCOUNT, REGION, Desk, changes

TOWER = "name: tower\nversions: true\npackages: [{archive: a.tar.gz}, {archive: b.tar.gz}]\n"
BUCKET = f"tower-{ACCOUNT}-{REGION}"


@pytest.fixture(scope="module")
def service(shared_service):
    """One for all modules about versions."""
    return shared_service


@pytest.fixture(scope="module")
def tower(service, tmp_path_factory):
    """Three releases: both models as 1, then a as 2, then a as 3."""
    desk = Desk(tmp_path_factory.mktemp("tower"), service.url)
    desk.pack("b.tar.gz")
    desk.write(TOWER)
    for version in (1, 2, 3):
        desk.pack("a.tar.gz", version=version)
        desk.mme("deploy")
    yield desk
    desk.mme("destroy")
    assert "tower" not in str(service.names())


@pytest.fixture
def releases(tower, service):
    """The same for each test: those three and no more."""
    s3 = service.client("s3")
    for name in ("current.json", "releases.json"):
        place, kept = {"Bucket": BUCKET, "Key": f"models/{name}"}, tower.folder / f"kept-{name}"
        if kept.exists():
            body = kept.read_bytes()
            s3.put_object(**place, Body=body, Metadata={"mmekit-deployment": "tower"})
        else:
            kept.write_bytes(s3.get_object(**place)["Body"].read())
    tower.write(TOWER)
    return tower


def listed(desk):
    return json.loads(desk.mme("releases", "--json"))


def keys(desk):
    """The key of a in each of the three releases, the oldest first."""
    return [one["changed"]["a.tar.gz"]["after"]["key"] for one in listed(desk)["releases"][:3]]


def test_a_rollback_is_one_put_and_the_next_goes_further_back(releases, service):
    first, second, third = keys(releases)
    before = service.names()
    plan = releases.mme("rollback")
    assert changes(plan) == {"releases current.json": "change"}
    assert f"a.tar.gz: {third} -> {second}" in plan
    assert "release 4: 1 changed; rollback to release 2" in plan
    assert "`mme deploy` is refused without --over-rollback" in plan
    assert service.names() == before
    content = listed(releases)
    assert content["models"]["a.tar.gz"]["key"] == second
    last = content["releases"][-1]
    assert (last["number"], last["how"], last["restores"]) == (4, "rollback", 2)
    # Not forth again, to what was just taken back.
    releases.mme("rollback")
    assert listed(releases)["models"]["a.tar.gz"]["key"] == first
    assert "There is nothing to go back to: no release before 1" in releases.refused("rollback")
    releases.mme("rollback", "--to", "3")
    assert listed(releases)["models"]["a.tar.gz"]["key"] == third
    # The models of release 3 are current: before it was 2, whatever has been in between.
    releases.mme("rollback")
    assert listed(releases)["models"]["a.tar.gz"]["key"] == second


def test_a_rollback_is_not_taken_back_by_the_way(releases):
    releases.mme("rollback")
    third = keys(releases)[2]
    told = releases.refused("deploy", "--yes")
    assert f"make current again what a rollback took back: {third}." in told
    assert "--over-rollback" in told
    assert listed(releases)["release"] == 4


@pytest.mark.thorough
def test_a_deployment_after_a_rollback_says_what_it_makes_current_again(releases):
    releases.mme("rollback")
    plan = releases.planned()
    assert "current.json was rolled back to release 2" in plan
    assert "makes what release 4 took back current" in plan
    releases.mme("deploy", "--over-rollback")
    # What follows a rollback goes back to what the rollback brought.
    first, second, third = keys(releases)
    assert listed(releases)["models"]["a.tar.gz"]["key"] == third
    releases.mme("rollback")
    assert listed(releases)["models"]["a.tar.gz"]["key"] == second
    releases.mme("rollback")
    assert listed(releases)["models"]["a.tar.gz"]["key"] == first


def test_a_plan_changes_nothing_and_says_by_its_exit_code_whether_it_would(releases):
    done = releases.run("rollback", "--plan", "--json")
    assert done.exit_code == 2
    content = json.loads(done.stdout)
    [change] = [one for one in content["steps"] if one["action"] != "keep"]
    _, second, third = keys(releases)
    assert change["differences"] == [{"field": "a.tar.gz", "before": third, "after": second}]
    assert listed(releases)["release"] == 3
    done = releases.run("rollback", "--plan", "--to", "3")
    assert done.exit_code == 0
    assert "the models of release 3 are current already" in done.stdout


def test_json_of_what_is_done_is_refused_before_anything_is_looked_at(releases):
    done = releases.run("rollback", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--json is for --plan" in done.stderr


def test_nothing_is_silent_while_it_looks(releases, monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_S", 0)
    assert "looking at tower …" in releases.run("releases").stderr
    assert "looking at tower …" in releases.run("rollback", "--plan").stderr


def test_releases_are_listed_with_what_changed(releases):
    lines = releases.mme("releases").splitlines()
    _, second, third = keys(releases)
    assert [line.split()[0] for line in lines if line[0] != " "] == ["3", "2", "1"]
    assert lines[0].endswith("deploy: 1 changed")
    assert lines[1] == f"      a.tar.gz: {second} -> {third}"
    assert f"      b.tar.gz: none -> {listed(releases)['models']['b.tar.gz']['key']}" in lines


def test_of_a_release_of_many_models_a_few_are_listed_and_all_when_asked(releases, monkeypatch):
    monkeypatch.setattr("mmekit.cli.releases._FEW", 1)
    short, whole = (releases.mme("releases", *more).splitlines() for more in ((), ("--verbose",)))
    assert short[-1] == "      and 1 more (--verbose lists them)"
    assert short[:-1] == whole[:-1]
    assert whole[-1].startswith("      b.tar.gz: none -> ")


def test_what_is_gone_is_not_made_current(releases, service):
    s3, (_, second, _) = service.client("s3"), keys(releases)
    kept = s3.get_object(Bucket=BUCKET, Key=f"models/{second}")
    body = kept["Body"].read()
    s3.delete_object(Bucket=BUCKET, Key=f"models/{second}")
    told = releases.refused("rollback")
    assert f"Release 2 cannot be brought back: {second} of a.tar.gz is gone." in told
    s3.put_object(Bucket=BUCKET, Key=f"models/{second}", Body=b"x", Metadata={"sha256": "0"})
    assert f"{second} of a.tar.gz has other bytes now" in releases.refused("rollback")
    assert listed(releases)["release"] == 3
    s3.put_object(Bucket=BUCKET, Key=f"models/{second}", Body=body, Metadata=kept["Metadata"])


def test_a_release_that_is_not_there_is_told_with_those_that_are(releases):
    told = releases.refused("rollback", "--to", "9")
    assert "Release 9 is not remembered." in told
    assert "Name one of 1, 2, 3" in told
    releases.write(TOWER.replace("versions: true", "versions: false"))
    told = releases.refused("rollback")
    assert "Versions are off" in told
    assert "Set `versions: true`" in told
    releases.write(TOWER.replace("tower", "folly"))
    assert "there is no current.json of folly" in releases.refused("rollback")


def test_what_a_rollback_does_not_touch_is_said(releases, service):
    place = {"Bucket": BUCKET, "Key": "models/releases.json"}
    body = json.loads(service.client("s3").get_object(**place)["Body"].read())
    body["releases"][1]["config"] = "tower-0ther"
    service.client("s3").put_object(
        **place,
        Body=json.dumps(body).encode(),
        Metadata={"mmekit-deployment": "tower"},
    )
    config = service.described("tower")["EndpointConfigName"]
    assert "no new instances" in releases.run("rollback", "--plan", "--to", "1").stdout
    done = releases.run("rollback", "--plan").stdout
    assert f"release 2 came with endpoint config tower-0ther; it has {config} now" in done


def test_a_real_account_is_not_changed_without_a_yes(releases, service):
    signed_in = {
        "MME_TARGET": "aws",
        "AWS_ENDPOINT_URL": service.url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    told = releases.refused("rollback", **signed_in)
    assert "needs confirmation" in told
    assert listed(releases)["release"] == 3
