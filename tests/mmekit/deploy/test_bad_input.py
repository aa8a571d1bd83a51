"""What cannot be deployed, what is said about it, and the run that repairs it."""

import http.client
import http.server
import json
import os
import pty
import subprocess
import sys
import threading
import urllib.parse

import pytest

from tests.mmekit.deploy.conftest import ACCOUNT, REGION, archive

GOOD = """
name: cabin
packages:
  - archive: a.tar.gz
"""
DENIED = ("tagging", "publicAccessBlock", "encryption", "policy", "lifecycle")
SIGNED_IN = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "somebodys",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "MME_TARGET": "aws",
}


@pytest.fixture
def cabin(desk):
    """A good file and its archive."""
    desk.pack("a.tar.gz")
    desk.write(GOOD)
    return desk


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name is missing. packages is missing."),
        ("name: [", "is not YAML"),
        ("name: a\nname: b\npackages: []", "name is given twice in line 2"),
        (GOOD + "instance: ml.m5.large", "instance is not a field."),
        (GOOD.replace("cabin", "my_cabin"), "name is 'my_cabin'; it may be 1 to 32 letters"),
        (GOOD.replace("cabin", "-cabin"), "name is '-cabin'; it may be"),
        (GOOD.replace("cabin", "c" * 33), "name is 'ccc"),
        (GOOD + "bucket: Cabin", "bucket is 'Cabin'; it may be 3 to 63 lower-case"),
        (GOOD + "bucket: 10.0.0.1", "bucket is '10.0.0.1'; it may be"),
        (GOOD + "prefix: /models", "prefix is '/models'; it may be a path inside the bucket"),
        (GOOD + "role: cabin", "role is 'cabin'; it may be the ARN of a role"),
        (GOOD + "region: home", "region is 'home'; it may be a region such as"),
        (GOOD + "instance_type: ml.m7g.large", "instance_type is 'ml.m7g.large'; it may be an x86"),
        (GOOD + "instances: 0", "instances is 0: Input should be greater than or equal to 1."),
        (GOOD + "environment: {A B: c}", "it may be names of letters, digits and underscores"),
        (GOOD + "kms_key: mine", "kms_key is 'mine'; it may be the ARN of a KMS key."),
        (GOOD + "network: {subnets: [], security_groups: [sg-1]}", "network.subnets is []; it may"),
        (GOOD + "alarms: {notify: [me]}", "notify.0 is 'me'; it may be ARNs of SNS topics."),
        (
            GOOD + "autoscaling: {minimum: 3, maximum: 2, invocations_per_instance: 1}",
            "maximum 2 is less than minimum 3.",
        ),
        (GOOD + "  - archive: x/a.tar.gz", "Two packages have the key a.tar.gz"),
        (GOOD + "    key: /a.tar.gz", "packages.0.key is '/a.tar.gz'; it may be what comes after"),
        (GOOD + "    artifacts: there", "artifacts without package"),
        (GOOD + "thin: true", "Thin is for packages that deploy packs; name the `package`"),
        (GOOD + "layers: true", "Layers is for packages that deploy packs; name the `package`"),
        (GOOD + "volume_gb: 513", "volume_gb is 513: Input should be less than or equal to 512."),
        (GOOD + "thin: some", "thin is 'some': Input should be a valid boolean"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused_with_every_fault(cabin, text, said):
    cabin.write(text)
    told = cabin.refused("deploy")
    assert said in told
    assert "where: mme.yaml" in told
    assert "remedy: " in told


def test_without_a_file_the_page_with_an_example_is_named(desk):
    assert "docs/deploying.md begins with an example" in desk.refused("deploy")


def test_a_missing_archive_is_told_with_how_to_pack_it(cabin, nothing_left):
    (cabin.folder / "a.tar.gz").unlink()
    told = cabin.refused("deploy")
    assert "The archive is missing." in told
    assert "mme pack" in told


def test_a_damaged_archive_is_not_uploaded(cabin, nothing_left):
    (cabin.folder / "a.tar.gz").write_bytes(archive()[:40])
    assert "where: " in cabin.refused("deploy")


def test_a_role_that_does_not_exist_is_told_and_one_that_does_is_used(cabin, service, nothing_left):
    arn = f"arn:aws:iam::{ACCOUNT}:role/hut"
    cabin.write(f"{GOOD}role: {arn}")
    told = cabin.refused("deploy")
    assert "The role does not exist." in told
    assert "leave `role` out and deploy makes one" in told
    iam = service.client("iam")
    iam.create_role(RoleName="hut", AssumeRolePolicyDocument=json.dumps({"Statement": []}))
    cabin.mme("deploy")
    [model] = service.names("cabin")["models"]
    described = service.client("sagemaker").describe_model(ModelName=model)
    assert described["ExecutionRoleArn"] == arn
    cabin.mme("destroy")
    assert service.names("hut")["roles"] == ["hut"]
    iam.delete_role(RoleName="hut")


def test_a_region_without_the_image_is_told_before_anything_is_made(cabin, nothing_left):
    cabin.write(f"{GOOD}region: us-iso-west-1")
    told = cabin.refused("deploy")
    assert "AWS publishes no DJL Serving image for us-iso-west-1" in told
    assert "Name an image of yours as `image`" in told


def test_what_others_made_is_not_taken_over(cabin, service, nothing_left):
    sagemaker = service.client("sagemaker")
    container = {"Image": "own", "Mode": "MultiModel", "ModelDataUrl": "s3://other/"}
    role = f"arn:aws:iam::{ACCOUNT}:role/other"
    sagemaker.create_model(ModelName="other", ExecutionRoleArn=role, PrimaryContainer=container)
    variant = {"VariantName": "AllTraffic", "ModelName": "other"}
    variant |= {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="other", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="cabin", EndpointConfigName="other")
    told = cabin.refused("deploy")
    assert "There is an endpoint of this name that this deployment did not make." in told
    assert "Give the deployment another `name`." in told
    assert "No resources of" in cabin.mme("destroy")
    assert service.described("cabin")["EndpointStatus"] == "InService"
    sagemaker.delete_endpoint(EndpointName="cabin")
    sagemaker.delete_endpoint_config(EndpointConfigName="other")
    sagemaker.delete_model(ModelName="other")


def test_an_object_of_others_is_not_written_over(cabin, service, nothing_left):
    s3 = service.client("s3")
    s3.create_bucket(Bucket="lodge")
    s3.put_object(Bucket="lodge", Key="models/a.tar.gz", Body=b"theirs")
    cabin.write(f"{GOOD}bucket: lodge")
    told = cabin.refused("deploy")
    assert "is an object that this deployment did not upload" in told
    assert "Give the package another `key`" in told
    s3.delete_object(Bucket="lodge", Key="models/a.tar.gz")
    s3.delete_bucket(Bucket="lodge")


@pytest.fixture
def denying(service):
    """The address of a service where nobody may ask what a bucket is like."""
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            query = urllib.parse.urlsplit(self.path).query
            if self.command == "GET" and query.split("=")[0] in DENIED:
                asked.append(query)
                status, headers = 403, {"Content-Type": "application/xml"}
                body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            else:
                upstream = http.client.HTTPConnection(service.url.removeprefix("http://"))
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream.request(self.command, self.path, sent, dict(self.headers))
                response = upstream.getresponse()
                status, headers, body = response.status, dict(response.headers), response.read()
                upstream.close()
            self.send_response_only(status)
            if self.command != "HEAD":
                headers["Content-Length"] = str(len(body))
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - http.server calls them so

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bucket_of_others_that_may_not_be_looked_at_is_used(
    cabin, service, denying, nothing_left
):
    url, asked = denying
    service.client("s3").create_bucket(Bucket="lodge")
    cabin.write(f"{GOOD}bucket: lodge")
    plan = cabin.mme("deploy", MME_LOCAL_URL=url)
    assert asked
    assert "keep   bucket lodge (not made by this deployment: used as it is)" in plan
    assert service.names("lodge")["objects"] == ["lodge/models/a.tar.gz"]
    cabin.mme("destroy", MME_LOCAL_URL=url)
    service.client("s3").delete_bucket(Bucket="lodge")


def test_a_bucket_of_its_own_that_may_not_be_looked_at_is_told(cabin, denying):
    url, _ = denying
    cabin.mme("deploy")
    told = cabin.refused("deploy", MME_LOCAL_URL=url)
    assert "needs the permission for GetBucketTagging" in told
    cabin.mme("destroy")


def test_without_the_local_service_it_says_how_to_start_one(cabin):
    told = cabin.refused("deploy", MME_LOCAL_URL="http://127.0.0.1:9")
    assert "Start the local service with `mme up`" in told


@pytest.mark.parametrize(
    "command", ["deploy", "status", "destroy", "rollback", "releases", "promote"]
)
@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_a_deployment_file_is_named_with_or_without_its_ending(desk, command, ending):
    desk.write("name: [", f"staging.{ending}")
    (desk.folder / "staging").mkdir()
    others = ["staging"] if command == "promote" else []
    for named in ("staging", f"staging.{ending}"):
        assert f"where: staging.{ending}\n" in desk.refused(command, named, *others)


def test_a_name_that_is_two_files_or_a_folder_is_refused(desk):
    (desk.folder / "shops").mkdir()
    for ending in ("yaml", "yml"):
        desk.write(GOOD, f"cabin.{ending}")
    for named, why in (("cabin", "which is meant"), ("shops", "is a folder")):
        done = desk.run("status", named)
        assert done.exit_code == 2
        assert why in done.stderr
    assert "does not exist" in desk.refused("status", "nowhere")


def test_a_real_account_is_not_touched_without_a_yes(cabin, service, nothing_left):
    variables = SIGNED_IN | {"AWS_ENDPOINT_URL": service.url}
    told = cabin.refused("deploy", **variables)
    assert "A plan for a real account needs confirmation" in told
    assert not any(service.names("cabin").values())
    cabin.mme("deploy", "--yes", **variables)
    assert "real account" in cabin.refused("destroy", **variables)
    assert service.names("cabin")["endpoints"] == ["cabin"]
    cabin.mme("destroy", "--yes", **variables)


def test_somebody_at_a_terminal_is_asked_and_may_say_no(cabin, service, nothing_left):
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", "deploy"],
        cwd=cabin.folder,
        env=cabin.variables(**SIGNED_IN, AWS_ENDPOINT_URL=service.url),
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
    ) as process:
        os.close(other_end)
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(terminal, 1024)
        os.write(terminal, b"n\n")
        assert process.wait(60) == 1
    os.close(terminal)
    assert f"This is AWS account {ACCOUNT}, {REGION}. Apply this plan?" in seen.decode()
    assert not any(service.names("cabin").values())


@pytest.fixture
def aws_that_says():
    """A function that starts an AWS that answers each request with one error."""
    servers = []

    def start(code, message):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                body = f"<ErrorResponse>{error}</ErrorResponse>".encode()
                self.send_response(403)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("command", ["deploy", "status", "destroy"])
def test_an_expired_credential_is_told_with_how_to_renew_it(cabin, aws_that_says, command):
    url = aws_that_says("ExpiredToken", "The security token included in the request is expired")
    told = cabin.refused(command, **SIGNED_IN, AWS_ENDPOINT_URL=url)
    assert "token included in the request is expired" in told
    assert "The credentials have expired: renew them" in told


def test_credentials_that_nobody_knows_are_told(cabin, aws_that_says):
    url = aws_that_says("InvalidClientTokenId", "The security token is invalid.")
    told = cabin.refused("deploy", **SIGNED_IN, AWS_ENDPOINT_URL=url)
    assert "choose one with AWS_PROFILE" in told


def test_without_credentials_it_says_how_to_get_some(cabin):
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    variables = {name: value for name, value in SIGNED_IN.items() if name not in keys}
    told = cabin.refused("deploy", **variables)
    assert "Unable to locate credentials" in told
    assert "Sign in" in told
