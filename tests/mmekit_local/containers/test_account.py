"""What containers reach of AWS, whoever runs them, and as whom."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from mmekit_local.containers.docker import HostGateway
from mmekit_local.sagemaker import Placement

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
SECRET = "AKIAOFTHEUSER0000000"
USERS = {
    "AWS_ACCESS_KEY_ID": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": SECRET,
    "AWS_PROFILE": SECRET,
    "AWS_REGION": "eu-central-1",
    "AWS_ENDPOINT_URL_S3": f"http://{SECRET}",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{SECRET}",
    "AWS_RETRY_MODE": SECRET,
}
GIVEN = {
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
}


def identity_of(variables, url):
    client = boto3.client(
        "sts",
        endpoint_url=url,
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=variables["AWS_SESSION_TOKEN"],
    )
    return client.get_caller_identity()["Arn"]


def test_a_command_has_its_models_role_and_nothing_of_the_users(up, images, echo_command, tmp_path):
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    images(echo=(echo_command, {"AWS_PROFILE": "of-the-rule", "AWS_CA_BUNDLE": "/a.pem"}))
    service = up(**USERS, HOME=str(home))
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", f"{ECR}/echo:1")

    seen = service.seen("e", "a.tar.gz")["variables"]

    assert {name for name in seen if name.startswith("AWS_")} == GIVEN | {"AWS_CA_BUNDLE"}
    assert SECRET not in str(seen)
    assert seen["AWS_ENDPOINT_URL"] == service.url
    assert identity_of(seen, service.url).endswith(":assumed-role/Rehearsal/SageMaker")
    assert Path(seen["HOME"]) != home
    assert "AWS_PROFILE, which would lead away" in service.log


def test_a_region_and_credentials_of_a_models_environment_count(up, images, echo_command):
    images(echo=echo_command)
    service = up()
    service.put("a.tar.gz", model=b"weights")
    asked = {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "its-own"}
    service.create_endpoint("e", f"{ECR}/echo:1", environment=asked)

    seen = service.seen("e", "a.tar.gz")["variables"]

    assert (seen["AWS_DEFAULT_REGION"], seen["AWS_REGION"]) == ("eu-west-1", "us-east-1")
    assert seen["AWS_ACCESS_KEY_ID"] == "its-own"
    assert seen["AWS_ENDPOINT_URL"] == service.url


@pytest.fixture
def bridge(tmp_path, monkeypatch):
    """A function that lets docker say what its network is."""

    def say(line):
        program = tmp_path / "docker"
        program.write_text(f"#!/bin/sh\necho '{line}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return say


def asked_through_the_gateway(tmp_path):
    """Ask a server that says `hello` by a gateway; return the address and the answer."""

    async def story():
        async def hello(reader, writer):
            writer.write(b"hello " + await reader.readline())
            writer.close()

        server = await asyncio.start_server(hello, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        account = (("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"), ("AWS_REGION", "r"))
        gateway = HostGateway()
        placed = [
            await gateway.reachable(Placement("e/v/1", tmp_path, account=account)) for _ in range(2)
        ]
        assert placed[0] == placed[1]
        assert dict(placed[0].account)["AWS_REGION"] == "r"
        url = urlsplit(dict(placed[0].account)["AWS_ENDPOINT_URL"])
        assert url.hostname == "host.docker.internal"
        reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
        writer.write(b"world\n")
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
        writer.close()
        server.close()
        gateway.close()
        return url.port != port, answer

    return asyncio.run(story())


def test_containers_of_dockers_come_in_by_a_gateway_on_their_bridge(tmp_path, bridge):
    bridge("127.0.0.1 127.0.0.0/8")
    assert asked_through_the_gateway(tmp_path) == (True, b"hello world\n")


def test_nobody_else_comes_in_by_it(tmp_path, bridge):
    bridge("127.0.0.1 10.11.0.0/16")
    assert asked_through_the_gateway(tmp_path) == (True, b"")


@pytest.mark.parametrize("line", ["192.0.2.7 192.0.2.0/24", "", "no network"])
def test_where_the_bridge_is_not_this_machines_docker_hands_on_by_itself(tmp_path, bridge, line):
    bridge(line)
    assert asked_through_the_gateway(tmp_path) == (False, b"hello world\n")
