"""The service as a process: how it starts, what it says, and what it leaves behind."""

import asyncio
import concurrent.futures
import json
import signal
import socket

import psutil
import pytest

import mmekit_local.sagemaker
from mmekit.errors import EndpointError
from mmekit_local.aws import run
from mmekit_local.aws.service import serve
from mmekit_local.sagemaker import EndpointOptions
from mmekit_local.sagemaker.instances.launcher import launcher_named


@pytest.fixture
def busy(start_service, tmp_path):
    """A service of its own, with an endpoint that has a model loaded."""
    service = start_service(tmp_path)
    service.put("a.tar.gz", service.echo_archive())
    service.create_endpoint("busy", instances=2)
    service.pid = service.seen("busy", "a.tar.gz")["pid"]
    service.children = psutil.Process(service.process.pid).children(recursive=True)
    assert service.pid in [child.pid for child in service.children]
    yield service
    service.stop(signal.SIGKILL)


def test_the_public_face():
    assert sorted(mmekit_local.sagemaker.__all__) == [
        "CommandLauncher",
        "Container",
        "ContainerLauncher",
        "EndpointLimits",
        "EndpointOptions",
        "Placement",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_container_and_removes_every_folder(busy, number):
    assert list(busy.folder.iterdir())
    assert busy.stop(number) == 0
    busy.wait_for_the_end(busy.children)
    assert list(busy.folder.iterdir()) == []
    assert "nothing is left behind" in busy.log
    assert "Traceback" not in busy.log


def test_a_killed_service_takes_its_containers_with_it(busy):
    busy.process.kill()
    busy.process.wait()
    busy.wait_for_the_end(busy.children)


def test_the_log_says_how_to_connect_and_what_containers_and_models_do(busy):
    assert f"export AWS_ENDPOINT_URL={busy.url}" in busy.log
    assert "export AWS_ACCESS_KEY_ID=" in busy.log
    busy.wait_until(lambda: "[busy/AllTraffic/1] small container ready" in busy.log)
    assert "endpoint busy: in service" in busy.log
    assert "a.tar.gz: fetched in" in busy.log


def test_a_port_in_use_is_one_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match="cannot listen") as raised:
            run(EndpointOptions(port=port))
    assert raised.value.where == f"127.0.0.1:{port}"
    assert "--port" in raised.value.remedy


def test_an_address_that_is_not_this_machine_s_is_one_clear_error():
    with pytest.raises(EndpointError, match="cannot listen") as raised:
        run(EndpointOptions(host="203.0.113.1", port=0))  # of documentations alone (RFC 5737)
    assert raised.value.where == "203.0.113.1:0"
    assert "--host" in raised.value.remedy
    assert "--port" not in raised.value.remedy


def test_a_service_that_ends_waits_for_no_request_to_what_an_update_replaced(
    start_service, tmp_path
):
    service = start_service(tmp_path, "--limits", "invoke_seconds=600")
    service.put("a.tar.gz", service.echo_archive())
    service.create_endpoint("updated")
    service.seen("updated", "a.tar.gz")
    body = json.dumps({"hold": str(tmp_path / "never")}).encode()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        asked = thread.submit(service.invoke, "updated", "a.tar.gz", body=body)
        service.wait_until((tmp_path / "never.held").exists)
        service.describe_models("next")
        sagemaker = service.client("sagemaker")
        sagemaker.update_endpoint(EndpointName="updated", EndpointConfigName="next")
        service.wait_for("endpoint_in_service", "updated")
        assert not asked.done()
        assert service.stop(signal.SIGINT) == 0
        assert asked.exception() is not None
    assert list(service.folder.iterdir()) == []


def test_whoever_listens_second_on_a_port_is_told_so():
    options = EndpointOptions()
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):  # Linux allows it as long as neither listens
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        second.setblocking(False)
        first.listen()
        with pytest.raises(EndpointError, match="cannot listen") as raised:
            asyncio.run(serve(options, launcher_named("embedded"), second))
    assert "--port" in raised.value.remedy


def test_an_unknown_kind_of_container_is_one_clear_error():
    with pytest.raises(EndpointError, match="no such kind of container"):
        run(EndpointOptions(server="abacus"))
