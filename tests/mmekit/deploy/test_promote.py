"""Promoting: what is current in one deployment becomes current in another, by its digest."""

import http.client
import http.server
import json
import threading

import pytest

from tests.mmekit.deploy import thin_archives
from tests.mmekit.deploy.conftest import ACCOUNT, REGION, Desk, changes

ELSEWHERE = "eu-central-1"
BODY = thin_archives.layer(body=b"weights of all")
STAGING = """
    name: stage
    versions: true
    packages:
      - archive: thin/a.tar.gz
      - archive: b.tar.gz
        key: team/b.tar.gz
"""
PRODUCTION = f"name: prod\nversions: true\nregion: {ELSEWHERE}\n"
FROM, TO = f"stage-{ACCOUNT}-{REGION}", f"prod-{ACCOUNT}-{ELSEWHERE}"


@pytest.fixture(scope="module")
def service(shared_service):
    """One for all modules about versions."""
    return shared_service


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """A deployment with a thin archive and another, and nothing of production."""
    desk = Desk(tmp_path_factory.mktemp("standing"), service.url)
    thin_archives.put(desk, "thin/a.tar.gz", BODY, name="a")
    desk.pack("b.tar.gz")
    desk.write(STAGING, "staging.yaml")
    desk.write(PRODUCTION, "production.yaml")
    desk.mme("deploy", "staging.yaml")
    yield desk
    for file in ("production.yaml", "staging.yaml"):
        desk.mme("destroy", file)
    assert not service.names("prod-")["objects"] + service.names("stage-")["objects"]


@pytest.fixture
def promoted(standing, service):
    """The same, promoted once."""
    before = standing.contents()
    if TO not in service.names()["buckets"]:
        standing.mme("promote", "staging", "production")
    made = current(service, FROM)["models"]
    yield standing
    standing.restore(before)
    if current(service, FROM)["models"] != made or current(service, TO)["models"] != made:
        standing.mme("deploy", "staging.yaml")
        standing.mme("promote", "staging", "production", "--prune")


@pytest.fixture
def refusing_copies(service):
    """The address of a service where S3 may not read another bucket for who copies."""

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            upstream = http.client.HTTPConnection(service.url.removeprefix("http://"))
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "x-amz-copy-source" in self.headers:
                refused.append(self.path)
                status, headers = 403, {"Content-Type": "application/xml"}
                body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            else:
                upstream.request(self.command, self.path, sent, dict(self.headers))
                response = upstream.getresponse()
                status, headers, body = response.status, dict(response.headers), response.read()
            upstream.close()
            self.send_response_only(status)
            headers = {name.lower(): value for name, value in headers.items()}
            if self.command != "HEAD":
                headers["content-length"] = str(len(body))
            for name in headers.keys() - {"transfer-encoding", "connection"}:
                self.send_header(name, headers[name])
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - as http.server has it

        def log_message(self, *_):
            pass

    refused = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", refused
    server.shutdown()
    thread.join()
    server.server_close()


def current(service, bucket):
    body = service.client("s3").get_object(Bucket=bucket, Key="models/current.json")["Body"]
    return json.loads(body.read())


def test_a_promotion_makes_what_is_missing_and_copies_by_digest(standing, service):
    done = standing.run("promote", "staging", "production", "--plan")
    assert done.exit_code == 2
    assert not service.names("prod-")["buckets"]
    source = current(service, FROM)
    planned = changes(done.stdout)
    keys = {one["key"] for one in source["models"].values()}
    assert {f"archive {key}" for key in keys} <= set(planned)
    assert f"layer {BODY.entry.sha256[:12]}" in planned
    assert planned["endpoint prod"] == "create"

    told = standing.mme("promote", "staging.yaml", "production")

    assert "prod has what is current in stage, release 1." in told
    target = current(service, TO)
    assert target["models"] == source["models"]
    release = target["made_by"]
    assert (release["how"], release["source"]) == ("promote", "stage, release 1")
    s3 = service.client("s3")
    for key in (*keys, f"../models-layers/{BODY.name}"):
        path = f"models/{key}".replace("models/../", "")
        before, after = (s3.get_object(Bucket=bucket, Key=path) for bucket in (FROM, TO))
        assert before["Body"].read() == after["Body"].read()
        metadata = {**before["Metadata"], "mmekit-deployment": "prod"}
        assert after["Metadata"] == metadata
    again = standing.run("promote", "staging", "production", "--plan")
    assert again.exit_code == 0
    # A file without packages leaves the models as they are.
    assert "Nothing to do." in standing.mme("deploy", "production.yaml")


@pytest.mark.thorough
def test_a_new_version_is_promoted_without_an_update_and_rolled_back(promoted, service):
    before = current(service, TO)["models"]
    promoted.pack("b.tar.gz", newer=True)
    promoted.mme("deploy", "staging.yaml")
    plan = promoted.mme("promote", "staging", "production")
    new = current(service, FROM)["models"]["team/b.tar.gz"]["key"]
    assert changes(plan) == {f"archive {new}": "create", "releases current.json": "change"}
    assert current(service, TO)["models"] == current(service, FROM)["models"]
    promoted.mme("rollback", "production.yaml")
    assert current(service, TO)["models"] == before
    told = promoted.refused("promote", "staging", "production", "--yes")
    assert f"make current again what a rollback took back: {new}." in told
    assert current(service, TO)["models"] == before
    promoted.mme("promote", "staging", "production", "--over-rollback")
    assert current(service, TO)["models"] == current(service, FROM)["models"]


@pytest.mark.thorough
def test_models_that_only_production_has_stay_unless_they_are_pruned(promoted, service):
    promoted.write(STAGING.partition("      - archive: b")[0], "staging.yaml")
    promoted.mme("deploy", "staging.yaml")
    plan = promoted.run("promote", "staging", "production", "--plan").stdout
    assert changes(plan) == {}
    assert "1 that stage does not have stay as they are: team/b.tar.gz (--prune" in plan
    assert set(current(service, TO)["models"]) == {"a.tar.gz", "team/b.tar.gz"}
    plan = promoted.mme("promote", "staging", "production", "--prune")
    assert changes(plan) == {"releases current.json": "change"}
    assert set(current(service, TO)["models"]) == {"a.tar.gz"}


@pytest.mark.thorough
def test_what_s3_may_not_copy_goes_through_this_machine(promoted, service, refusing_copies):
    url, refused = refusing_copies
    promoted.pack("b.tar.gz", newer="through here")
    promoted.mme("deploy", "staging.yaml")
    told = promoted.mme("promote", "staging", "production", MME_LOCAL_URL=url)
    assert len(refused) == 1
    assert "so it goes through here" in told
    version = current(service, TO)["models"]["team/b.tar.gz"]
    assert version == current(service, FROM)["models"]["team/b.tar.gz"]
    head = service.client("s3").head_object(Bucket=TO, Key=f"models/{version['key']}")
    assert head["Metadata"]["sha256"] == version["sha256"]


@pytest.mark.thorough
@pytest.mark.parametrize("copies", [True, False], ids=["by S3", "through here"])
def test_other_bytes_under_a_digest_are_not_promoted(promoted, service, refusing_copies, copies):
    promoted.pack("b.tar.gz", newer=f"damaged {copies}")
    promoted.mme("deploy", "staging.yaml")
    version = current(service, FROM)["models"]["team/b.tar.gz"]
    before = current(service, TO)
    s3, key = service.client("s3"), f"models/{version['key']}"
    head = s3.head_object(Bucket=FROM, Key=key)
    s3.put_object(Bucket=FROM, Key=key, Body=b"other bytes", Metadata=head["Metadata"])
    variables = {} if copies else {"MME_LOCAL_URL": refusing_copies[0]}
    told = promoted.refused("promote", "staging", "production", **variables)
    assert "is not the bytes that its digest says" in told
    assert f"where: s3://{FROM}/{key}" in told
    assert current(service, TO) == before
    assert key not in str(service.names(TO)["objects"])
    s3.delete_object(Bucket=FROM, Key=key)
    assert f"{version['key']} of team/b.tar.gz is gone" in promoted.refused(
        "promote", "staging", "production"
    )


def test_models_do_not_go_with_a_place_that_the_file_does_not_name_any_more(promoted, service):
    before = current(service, TO)
    for moved in ("prefix: v2", f"bucket: prod-other-{ACCOUNT}"):
        promoted.write(f"{PRODUCTION}{moved}\n", "production.yaml")
        told = promoted.refused("deploy", "production.yaml")
        assert f"The models of prod are at s3://{TO}/models/" in told
        assert "2 would be gone, a.tar.gz among them" in told
        assert "mme promote before THIS_FILE" in told
    # Nor those that only production has, when others are promoted to the new place.
    promoted.write(STAGING.replace("key: team/b", "key: new/b"), "staging.yaml")
    promoted.mme("deploy", "staging.yaml")
    told = promoted.refused("promote", "staging", "production")
    assert f"prod has models at s3://{TO}/models/ that stage does not have" in told
    assert "1 would be gone, team/b.tar.gz among them" in told
    assert current(service, TO) == before


@pytest.mark.thorough
def test_models_are_brought_along_to_another_place_and_answer_there(promoted, service):
    before = current(service, TO)["models"]
    promoted.write(PRODUCTION, "before.yaml")
    promoted.write(f"{PRODUCTION}prefix: v2\n", "production.yaml")
    promoted.mme("promote", "before", "production")
    s3 = service.client("s3")
    moved = json.loads(s3.get_object(Bucket=TO, Key="v2/current.json")["Body"].read())
    assert moved["models"] == before
    assert not service.names(f"{TO}/models")["objects"]
    assert "Nothing to do." in promoted.mme("deploy", "production.yaml")
    promoted.mme("promote", "production", "before")
    assert current(service, TO)["models"] == before


@pytest.mark.thorough
def test_a_first_promotion_keeps_what_was_there_without_versions(promoted, service):
    promoted.pack("c.tar.gz")
    promoted.write("name: bare\npackages: [{archive: c.tar.gz}]\n", "bare.yaml")
    promoted.mme("deploy", "bare.yaml")
    promoted.write("name: bare\nversions: true\n", "bare.yaml")
    plan = promoted.mme("promote", "staging", "bare")
    assert "1 that stage does not have stay as they are: c.tar.gz" in plan
    models = current(service, f"bare-{ACCOUNT}-{REGION}")["models"]
    assert set(models) == {"a.tar.gz", "team/b.tar.gz", "c.tar.gz"}
    assert models["c.tar.gz"]["key"] == "c.tar.gz"
    assert service.invoke("bare", "c.tar.gz")
    promoted.mme("destroy", "bare.yaml")


def test_what_cannot_be_promoted_is_told(promoted, service):
    assert "Both deployments have their models at" in promoted.refused(
        "promote", "staging", "staging"
    )
    promoted.write("name: bare\npackages: [{archive: b.tar.gz}]\n", "bare.yaml")
    assert "Set `versions: true` in its file" in promoted.refused("promote", "staging", "bare")
    assert "bare has no releases" in promoted.refused("promote", "bare", "production")
    assert "The deployment file does not exist" in promoted.refused("promote", "nowhere", "prod")
    promoted.write(f"{PRODUCTION}packages: [{{archive: b.tar.gz}}]\n", "packed.yaml")
    plan = promoted.run("promote", "staging", "packed", "--plan", "--json")
    assert plan.exit_code == 0
    assert json.loads(plan.stdout)["has_changes"] is False
    told = promoted.refused("promote", "staging", "production", "--json")
    assert "--json is for --plan" in told
    promoted.write("name: bare\nversions: false\n", "bare.yaml")
    assert "packages is missing." in promoted.refused("deploy", "bare.yaml")
