"""Who is heard, and when the others are told."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from mmekit.errors import SettingsError
from mmekit_local.http import HttpResponse, HttpServer, OriginPolicy, Responder
from mmekit_local.http.policy import VARIABLE
from mmekit_local.server.api import no_request

PATIENCE = 60


def answers(policy, *requests, after=b""):
    """Return all that a server with a policy answers on one connection, and the bodies it read."""
    read = []

    async def echo(request):
        read.append(request.body)
        return HttpResponse(200, "OK", [], b"heard")

    async def main():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = HttpServer(Responder(echo, no_request), policy=policy)
        await server.start(listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            writer.write(b"".join(requests))
            first = await reader.readuntil(b"\r\n\r\n")
            writer.write(after)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return first + await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await server.close(drain_s=0)

    return asyncio.run(asyncio.wait_for(main(), PATIENCE)), read


def request(*headers, line="GET / HTTP/1.1", body=b""):
    return ("\r\n".join([line, *headers]) + "\r\n\r\n").encode("latin-1") + body


def rejection(policy, *headers, method=b"GET", target=b"/"):
    pairs = [tuple(part.encode("latin-1") for part in one.split(": ", 1)) for one in headers]
    return policy.rejection(method, target, pairs)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8950", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.9.8.7:80"),
        *("[::1]", "[::1]:8950", "[::ffff:127.0.0.1]", "bucket.localhost:8950", "a.b.localhost"),
        *("host.docker.internal:8950", "bucket.host.docker.internal", "host.containers.internal"),
    ],
)
def test_a_name_of_this_machine_to_itself_is_heard(host):
    assert rejection(OriginPolicy(), f"Host: {host}") is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8950", "localhost.evil.example", "evillocalhost", ""),
        *("127.0.0.1.evil.example", "127.0.0.1@evil.example", "10.0.0.7", "192.168.1.5:8950"),
        *("[", "[::1", "]:80", "a:b:c", "\xff", "localhost:80 evil", "[fe80::1]", "0.0.0.0:80"),
        *("2130706433", "0x7f000001", "127.1", "localhost/", ".localhost.evil", "docker.internal"),
    ],
)
def test_another_name_is_not(host):
    refused = rejection(OriginPolicy(), f"Host: {host}")
    assert refused.status == 403
    assert VARIABLE in refused.message


def test_a_program_may_leave_the_host_out():
    assert rejection(OriginPolicy()) is None
    assert rejection(OriginPolicy(), "Origin: null").status == 403
    assert rejection(OriginPolicy(), "Origin: http://").status == 403


def test_two_hosts_are_no_request():
    both = ("Host: localhost", "Host: localhost")
    assert rejection(OriginPolicy(), *both).status == 400


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])  # noqa: S104 - nothing is bound
def test_a_server_on_every_interface_has_every_address_and_the_machines_name(address):
    policy = OriginPolicy(address)
    machine = socket.gethostname()
    for host in ("10.0.0.7:8950", "[fd00::1]:8950", machine, f"{machine.upper()}:8950"):
        assert rejection(policy, f"Host: {host}") is None
    assert rejection(policy, "Host: evil.example").status == 403


def test_what_it_is_bound_to_and_what_the_setting_names_are_names_of_it(monkeypatch):
    monkeypatch.setenv(VARIABLE, " Build-1.example , 10.0.0.8,[fd00:0::2] ")
    policy = OriginPolicy.of("Build-2", "10.0.0.7")
    for host in (
        *("10.0.0.7:8950", "10.0.0.8", "[fd00::2]:1", "build-1.example:8950"),
        *("bucket.build-1.EXAMPLE", "build-2:8950", "localhost", "127.0.0.1"),
    ):
        assert rejection(policy, f"Host: {host}") is None
    for host in ("10.0.0.9", "example", "build-1.example.evil", "x.10.0.0.8"):
        assert rejection(policy, f"Host: {host}").status == 403


@pytest.mark.parametrize("wrong", ["http://a", "a/b", "a:80", "*", "a b", "-a", "a,,[b]"])
def test_a_setting_that_names_nothing_is_an_error(monkeypatch, wrong):
    monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(SettingsError, match=VARIABLE):
        OriginPolicy.of("127.0.0.1", "127.0.0.1")


HERE = "Host: localhost:8950"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (HERE, "http://localhost:8950"),
        (HERE, "https://LOCALHOST:8950"),
        ("Host: localhost", "http://localhost:80"),
        ("Host: localhost:443", "https://localhost"),
        ("Host: [::1]:8950", "http://[::1]:8950"),
    ],
)
def test_the_servers_own_page_is_heard(host, origin):
    for site in ((), ("Sec-Fetch-Site: same-origin",)):
        assert rejection(OriginPolicy(), host, f"Origin: {origin}", *site) is None


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "", "http://", "://", "[", "\xff", "localhost:8950"),
        *("http://localhost", "http://localhost:8951", "http://127.0.0.1:8950"),
        *("http://localhost:8950.evil.example", "http://evil.example@localhost:8950"),
        *("file://", "chrome-extension://localhost:8950", "http://localhost:8950/"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"OPTIONS", b"DELETE"])
def test_another_page_is_not(origin, method):
    refused = rejection(OriginPolicy(), HERE, f"Origin: {origin}", method=method)
    assert refused.status == 403
    assert "a tab of its own" in refused.message
    own = "Origin: http://localhost:8950"
    assert rejection(OriginPolicy(), HERE, own, f"Origin: {origin}", method=method).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "new", ""])
def test_a_browser_that_asks_for_another_site_is_not_heard(site):
    fetched = f"Sec-Fetch-Site: {site}"
    assert rejection(OriginPolicy(), HERE, fetched).status == 403
    assert rejection(OriginPolicy(), HERE, "Origin: http://localhost:8950", fetched).status == 403


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_an_address_that_somebody_typed_is_heard(site):
    assert rejection(OriginPolicy(), HERE, f"Sec-Fetch-Site: {site}") is None


def test_a_link_leads_to_a_linkable_page_in_a_tab_of_its_own_and_nowhere_else():
    policy = OriginPolicy(linkable=("/_mme/",))
    visit = (HERE, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
    tab, frame = "Sec-Fetch-Dest: document", "Sec-Fetch-Dest: iframe"
    assert rejection(policy, *visit, tab, target=b"/_mme/") is None
    for refused in (
        rejection(policy, *visit, frame, target=b"/_mme/"),
        rejection(policy, *visit, target=b"/_mme/"),
        rejection(policy, *visit, tab, target=b"/_mme/events"),
        rejection(policy, *visit, tab, target=b"/"),
        rejection(policy, *visit, tab, target=b"/_mme/", method=b"POST"),
        rejection(policy, HERE, *visit[1:2], tab, target=b"/_mme/"),
        rejection(policy, *visit, tab, "Origin: null", target=b"/_mme/"),
        rejection(policy, "Host: evil.example", *visit[1:], tab, target=b"/_mme/"),
    ):
        assert refused.status == 403


@pytest.mark.parametrize("length", ["Content-Length: 1073741824", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("who", [[HERE, "Origin: null"], ["Host: evil.example"]])
def test_the_refusal_comes_before_the_body(who, length):
    head = request(*who, length, line="POST / HTTP/1.1")
    told, read = answers(OriginPolicy(), head, after=b"x" * 100_000)
    assert told.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"connection: close\r\n" in told
    assert told.count(b"HTTP/1.1 ") == 1
    assert read == []


def test_nothing_that_follows_a_refusal_is_answered():
    refused = request("Host: evil.example")
    told, read = answers(OriginPolicy(), refused, refused, request("Host: localhost"))
    assert told.count(b"HTTP/1.1 ") == 1
    assert read == []


def test_what_came_before_a_refusal_is_answered():
    told, read = answers(OriginPolicy(), request(HERE), request("Host: evil.example"))
    assert told.startswith(b"HTTP/1.1 200 OK\r\n")
    assert told.count(b"HTTP/1.1 ") == 1
    assert len(read) == 1


def test_the_log_has_each_refusal_once_and_on_one_line(caplog):
    policy = OriginPolicy()
    for _ in range(3):
        rejection(policy, "Host: evil.example\x1b[31m")
        rejection(policy, HERE, "Origin: null")
    for number in range(1000):
        rejection(policy, f"Host: {number}.example")
    assert len(caplog.messages) == 100
    assert [one for one in caplog.messages if "evil.example" in one and "\x1b" not in one]
