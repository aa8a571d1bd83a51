"""The service as a process: how it starts, what it says, and what it leaves behind."""

import asyncio
import signal
import socket

import psutil
import pytest

import mmekit.endpoint
from mmekit.endpoint import EndpointOptions, run
from mmekit.endpoint.instances.launcher import launcher_named
from mmekit.endpoint.service import serve
from mmekit.errors import EndpointError


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


def have_ended(processes):
    return all(
        not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        for process in processes
    )


def test_the_public_face():
    assert sorted(mmekit.endpoint.__all__) == [
        "CommandLauncher",
        "Container",
        "ContainerLauncher",
        "EndpointOptions",
        "Limits",
        "Placement",
        "run",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_container_and_removes_every_folder(busy, number):
    assert list(busy.folder.iterdir())
    assert busy.stop(number) == 0
    assert have_ended(busy.children)
    assert list(busy.folder.iterdir()) == []
    assert "nothing is left behind" in busy.log
    assert "Traceback" not in busy.log


def test_a_killed_service_takes_its_containers_with_it(busy):
    busy.process.kill()
    busy.process.wait()
    busy.wait_until(lambda: have_ended(busy.children), what="the containers' end")


def test_the_log_says_how_to_connect_and_what_containers_and_models_do(busy):
    assert f"export AWS_ENDPOINT_URL={busy.url}" in busy.log
    assert "export AWS_ACCESS_KEY_ID=" in busy.log
    assert "[busy/AllTraffic/1] small container ready" in busy.log
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
