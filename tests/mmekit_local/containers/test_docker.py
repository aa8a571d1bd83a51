"""What Docker is told. A stand-in takes its place; test_docker_engine.py has a real engine."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmekit_runtime.layers.holding import store_folders
from tests.layered_archives import Layer, listing

HERE = Path(__file__).parent
ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
STOCK = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def docker(tmp_path):
    """A stand-in for docker: its variables, and what it has been told."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    script = HERE / "docker_stand_in.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)

    class Docker:
        record = tmp_path / "docker.jsonl"
        variables = {  # noqa: RUF012
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "DOCKER_RECORD": str(record),
        }

        def calls(self, verb):
            lines = self.record.read_text().splitlines() if self.record.exists() else []
            return [call for call in map(json.loads, lines) if call["words"][0] == verb]

    return Docker()


def values(words, option):
    return [words[i + 1] for i, one in enumerate(words) if one == option]


def mounted(words):
    (only,) = all_mounted(words)
    return only


def all_mounted(words):
    lines = csv.reader(values(words, "--mount"))
    return [dict(field.partition("=")[::2] for field in line) for line in lines]


@pytest.fixture
def push(docker, tmp_path):
    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "mmekit.cli", "images", "push", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **docker.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_an_image_is_run_on_loopback_with_its_models_where_the_endpoint_says(up, docker):
    service = up("--server", "docker", "--memory", "1GiB", **docker.variables)
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", f"{ECR}/mine:1", environment={"COLOUR": "blue"})

    seen = service.seen("e", "a.tar.gz")

    (run,) = docker.calls("run")
    words = run["words"]
    mount = mounted(words)
    assert seen["files"] == ["model"]
    assert (seen["variables"]["COLOUR"], seen["variables"]["SAGEMAKER_MULTI_MODEL"]) == (
        "blue",
        "true",
    )
    assert words[-2:] == [f"{ECR}/mine:1", "serve"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+:8080", *values(words, "--publish"))
    assert seen["variables"]["SAGEMAKER_BIND_TO_PORT"] == "8080"
    assert mount["source"] == mount["target"]
    assert "readonly" in mount
    assert values(words, "--memory") == values(words, "--memory-swap") == [str(1 << 30)]
    assert "PATH" not in seen["variables"]
    assert service.stop() == 0
    assert not list((service.folder / "tmp").iterdir())
    assert [call["words"] for call in docker.calls("rm")] == [
        ["rm", "--force", values(words, "--name")[0]]
    ]


def test_a_single_model_lies_where_sagemaker_puts_it(up, docker):
    service = up("--server", "docker", **docker.variables)
    service.put("only.tar.gz", model=b"weights")
    service.create_endpoint("e", f"{ECR}/mine:1", single="only.tar.gz")

    (run,) = docker.calls("run")
    mount = mounted(run["words"])
    assert mount["target"] == "/opt/ml/model"
    assert "readonly" in mount
    assert not [one for one in values(run["words"], "--env") if "MULTI_MODEL" in one]


def test_the_layers_of_a_single_model_lie_where_its_runtime_looks_for_them(up, docker):
    body = Layer({"weights.bin": b"of all"})
    service = up("--server", "docker", **docker.variables)
    service.put("only.tar.gz", model=b"weights", **listing(body), **body.members())
    service.create_endpoint("e", f"{ECR}/mine:1", single="only.tar.gz")

    (run,) = docker.calls("run")
    _, layers = all_mounted(run["words"])
    assert layers["target"] == store_folders("/opt/ml/model", {})[0] == "/opt/.mmekit-layers"
    assert "readonly" in layers
    stored = Path(layers["source"]) / body.sha256 / "weights.bin"
    assert stored.read_bytes() == b"of all"


def test_a_service_that_is_killed_has_its_containers_removed(up, docker):
    service = up("--server", "docker", **docker.variables)
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", f"{ECR}/mine:1")

    service.stop(signal.SIGKILL)

    (run,) = docker.calls("run")
    name = values(run["words"], "--name")[0]
    service.wait_until(
        lambda: [call["words"] for call in docker.calls("rm")] == [["rm", "--force", name]]
    )


def test_djl_serving_is_told_no_port_and_what_to_keep_free(up, docker):
    service = up("--server", "docker", **docker.variables)
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", f"{STOCK}/djl-inference:0.36.0-cpu-full")

    variables = service.seen("e", "a.tar.gz")["variables"]

    assert "SAGEMAKER_BIND_TO_PORT" not in variables
    assert int(variables["SERVING_RESERVED_MEMORY_MB"]) >= 500


def test_an_image_that_is_refused_without_docker_runs_there(up, docker):
    service = up("--server", "docker", **docker.variables)
    service.put("only.tar.gz", model=b"weights")
    image = f"{STOCK}/pytorch-inference:2.6.0-cpu-py312"
    made = service.create_endpoint("e", image, single="only.tar.gz")
    assert made["EndpointStatus"] == "InService", made
    (run,) = docker.calls("run")
    assert run["words"][-2:] == [image, "serve"]
    assert "SAGEMAKER_BIND_TO_PORT=8080" in values(run["words"], "--env")


def test_without_an_engine_the_service_does_not_start(docker, free_port):
    command = [sys.executable, "-m", "mmekit.cli", "up", "--port", str(free_port)]
    ended = subprocess.run(
        [*command, "--server", "docker"],
        env={**os.environ, **docker.variables, "DOCKER_DOWN": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert "There is no Docker engine: Cannot connect to the Docker daemon." in ended.stderr
    assert "remedy: Start Docker" in ended.stderr


def test_an_image_is_built_and_pushed_into_a_repository_that_is_made_for_it(
    up, push, docker, tmp_path
):
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        "ARG REGISTRY=763104351884.dkr.ecr.us-east-1.amazonaws.com\n"
        "FROM ${REGISTRY}/djl-inference:0.36.0-cpu-full\nFROM python:3.11\n"
    )
    service = up()
    aws = {
        "AWS_ENDPOINT_URL": service.url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    arguments = (folder, "--repository", "mine", "--tag", "7", "--build-arg", "HANDLER=catboost")

    pushed = push(*arguments, **aws)
    again = push(*arguments, **aws)

    assert pushed.returncode == again.returncode == 0, pushed.stderr + again.stderr
    uri = f"{ECR}/mine:7"
    assert pushed.stdout.splitlines()[-1] == uri
    (made,) = service.client("ecr").describe_repositories()["repositories"]
    assert made["repositoryName"] == "mine"
    logins = docker.calls("login")[:2]
    assert [call["words"][-1] for call in logins] == [ECR, STOCK]
    passwords = {call["read"] for call in logins}
    assert len(passwords) == 1
    assert not any(word in pushed.stdout + pushed.stderr for word in passwords)
    build = docker.calls("build")[0]
    assert values(build["words"], "--build-arg") == ["HANDLER=catboost"]
    assert values(build["words"], "--platform") == ["linux/amd64"]
    assert not build["attested"]
    assert docker.calls("push")[0]["words"] == ["push", uri]


def test_a_dry_run_shows_a_script_for_a_shell_and_asks_nobody(push, docker, root):
    folder = root / "infrastructure" / "containers" / "djl"

    shown = push(folder, "--repository", "mmekit-djl", "--region", "eu-west-1", "--dry-run")

    assert shown.returncode == 0, shown.stderr
    assert not docker.record.exists()
    for region in ("eu-west-1", "us-east-1"):  # the account's own, and the stock image's
        assert f"aws ecr get-login-password --region {region} | docker login" in shown.stdout
    assert '"$ACCOUNT.dkr.ecr.eu-west-1.amazonaws.com/mmekit-djl:latest"' in shown.stdout
    subprocess.run(["sh", "-n"], input=shown.stdout, text=True, check=True)


def test_a_folder_without_a_dockerfile_is_refused(push, tmp_path):
    refused = push(tmp_path, "--repository", "x", "--region", "us-east-1", "--dry-run")

    assert refused.returncode == 1
    assert "There is no Dockerfile." in refused.stderr


def test_a_container_is_told_where_the_rehearsal_is_and_nothing_of_the_users(up, docker):
    users = {"AWS_ACCESS_KEY_ID": "AKIAOFTHEUSER0000000", "AWS_PROFILE": "work"}
    service = up("--server", "docker", **docker.variables, **users)
    service.put("a.tar.gz", model=b"weights")
    service.create_endpoint("e", f"{ECR}/mine:1")

    seen = service.seen("e", "a.tar.gz")["variables"]

    (run,) = docker.calls("run")
    assert values(run["words"], "--add-host") == ["host.docker.internal:host-gateway"]
    assert (
        seen["AWS_ENDPOINT_URL"] == f"http://host.docker.internal:{service.url.rpartition(':')[2]}"
    )
    assert seen["AWS_SESSION_TOKEN"]
    assert "AWS_PROFILE" not in seen
    assert "AKIAOFTHEUSER" not in str(run) + str(seen)
