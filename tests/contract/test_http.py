"""The protocol itself, byte by byte where a client library would hide things."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

INVOKE = "/models/behaviour/invoke"
INVALID = (
    '{\n  "code": 400,\n  "type": "BadRequestException",\n  "message": "Invalid HTTP message."\n}\n'
)


def ping(server):
    wire = server.connect()
    wire.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return wire.answer().status


def test_a_connection_serves_many_requests(server, behaviour):
    with httpx.Client(base_url=server.base) as client:
        for _ in range(5):
            assert client.post(INVOKE, content=b"x").status_code == 200
        connections = client._transport._pool.connections

        assert len(connections) == 1


def test_an_error_ends_the_connection(server, behaviour, post):
    wire = server.connect()
    wire.send(post("/models/no/invoke", b"x"))

    answer = wire.answer()

    assert (answer.status, answer.header("connection")) == (404, "close")
    assert wire.ended()


def test_a_body_may_come_in_chunks(server, behaviour):
    wire = server.connect()
    head = f"POST {INVOKE} HTTP/1.1\r\nwish: parts\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire.send(head.encode() + b"1\r\na\r\n")
    wire.send(b"2;extension=1\r\nbc\r\n0\r\nX-Trailer: 1\r\n\r\n")

    assert wire.answer().body == b'[\n  [\n    "data",\n    "abc"\n  ]\n]'


def test_the_handler_sees_chunks_as_one_body_of_a_length(server, behaviour):
    answer = server.client.post(INVOKE, content=iter([b"a", b"bc"]), headers={"wish": "properties"})

    properties = answer.json()
    assert properties["content-length"] == "3"
    assert not {"transfer-encoding", "Transfer-Encoding"} & set(properties)


def test_a_client_that_asks_whether_to_go_on_is_told_so(server, behaviour):
    wire = server.connect()
    wire.send(
        f"POST {INVOKE} HTTP/1.1\r\nwish: properties\r\nExpect: 100-continue\r\n"
        "Content-Length: 1\r\n\r\n".encode()
    )
    assert wire.answer().status == 100
    wire.send(b"x")

    answer = wire.answer()

    assert answer.status == 200
    assert b"xpect" not in answer.body


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    ids=["sized", "chunked"],
)
def test_who_offers_another_protocol_is_answered_in_this_one(server, behaviour, body):
    # As the HttpClient of Java 17 does.
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAI\r\n"
    )
    wire = server.connect()
    for _ in range(2):
        wire.send(f"POST {INVOKE} HTTP/1.1\r\nwish: parts\r\n".encode() + offer + body)

        answer = wire.answer()

        assert (answer.status, answer.header("connection")) == (200, "keep-alive")
        assert answer.body == b'[\n  [\n    "data",\n    "abc"\n  ]\n]'


def test_a_body_that_is_asked_for_may_offer_another_protocol(server, behaviour):
    wire = server.connect()
    wire.send(
        f"POST {INVOKE} HTTP/1.1\r\nwish: parts\r\nExpect: 100-continue\r\n"
        "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n".encode()
    )
    assert wire.answer().status == 100
    wire.send(b"abc")

    assert wire.answer().body == b'[\n  [\n    "data",\n    "abc"\n  ]\n]'


def test_the_client_of_java_is_answered_as_it_is(server, behaviour):
    java = shutil.which("java")
    modules = java and subprocess.run([java, "--list-modules"], capture_output=True, check=False)
    if not modules or b"jdk.compiler" not in modules.stdout:
        pytest.skip("there is no java that can compile")
    program = str(Path(__file__).with_name("Post.java"))
    finished = subprocess.run(
        [java, "-XX:TieredStopAtLevel=1", program, server.base + INVOKE],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert finished.stdout.splitlines() == ["200 HTTP_1_1 hello"] * 3, finished.stderr


def test_what_else_is_expected_is_refused(server, behaviour, post):
    wire = server.connect()
    wire.send(post(INVOKE, b"x", ["Expect: the-impossible"]))

    answer = wire.answer()

    assert (answer.status, answer.reason, answer.body) == (417, "Expectation Failed", b"")
    assert wire.ended()


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server, behaviour):
    wire = server.connect()
    size = (64 << 20) + 1
    wire.send(f"POST {INVOKE} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())

    answer = wire.answer()

    assert (answer.status, answer.reason) == (413, "Request Entity Too Large")
    assert answer.body == b""


def test_the_connection_can_be_used_after_a_body_over_the_limit(server, behaviour, post):
    wire = server.connect()
    size = (64 << 20) + 1
    wire.send(f"POST {INVOKE} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())
    wire.send(bytes(size))
    assert wire.answer().status == 413

    wire.send(post(INVOKE, b"after"))

    assert wire.answer().body == b"after"


def test_a_body_over_the_limit_in_chunks_is_refused(server, behaviour):
    wire = server.connect()
    wire.send(f"POST {INVOKE} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    for _ in range(65):
        wire.send(chunk)
    wire.send(b"0\r\n\r\n")

    answer = wire.answer()
    assert (answer.status, answer.body) == (413, b"")
    assert ping(server) == 200


def test_who_asks_before_sending_too_much_is_refused(server, behaviour):
    wire = server.connect()
    wire.send(
        f"POST {INVOKE} HTTP/1.1\r\nExpect: 100-continue\r\n"
        "Content-Length: 99999999\r\n\r\n".encode()
    )

    assert wire.answer().status == 413
    assert wire.ended()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02garbage\r\n\r\n",
        b"hello world\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET /ping HTTP/1.1\r\n: h\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /models/" + b"x" * 4200 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nX: " + b"x" * 100_000,
        b"GET /ping HTTP/1.1\r\n" + b"".join(b"X-%04d: 1\r\n" % i for i in range(999)) + b"\r\n",
    ],
    ids=[
        "bytes",
        "text",
        "no colon",
        "space before the colon",
        "no name",
        "negative length",
        "length of letters",
        "length of many digits",
        "two lengths",
        "chunk of no size",
        "long line",
        "long header",
        "endless header",
        "many headers",
    ],
)
def test_what_is_no_request_is_400_and_does_no_harm(server, data):
    wire = server.connect()
    wire.send(data)

    answer = wire.answer()

    assert (answer.status, answer.reason) == (400, "Invalid HTTP message.")
    assert answer.header("content-type") == "application/json"
    assert answer.header("connection") == "close"
    assert answer.body.decode() == INVALID
    assert wire.ended()
    assert ping(server) == 200


def test_lines_and_headers_up_to_the_limits_are_read(server):
    wire = server.connect()
    wire.send(b"GET /models/" + b"x" * 4000 + b" HTTP/1.1\r\nX: " + b"x" * 8000 + b"\r\n\r\n")

    assert wire.answer().status == 404


def test_a_half_closed_connection_gets_no_answer(server, behaviour, post):
    import socket

    wire = server.connect()
    wire.send(f"POST {INVOKE} HTTP/1.1\r\nContent-Length: 5\r\n\r\nab".encode())
    wire.socket.shutdown(socket.SHUT_WR)

    assert wire.ended()
    assert ping(server) == 200


def test_a_client_that_goes_away_does_no_harm(server, behaviour, post):
    for _ in range(3):
        wire = server.connect()
        wire.send(post(INVOKE, b"x", ["wish: large"]))
        wire.close()

    assert behaviour("anything", "still here").text == "still here"


def test_an_empty_line_before_a_request_is_skipped(server):
    wire = server.connect()
    wire.send(b"\r\nGET /ping HTTP/1.1\r\n\r\n")

    assert wire.answer().status == 200


@pytest.mark.parametrize("path", ["/ping", INVOKE])
def test_head_is_an_answer_without_its_body(server, behaviour, post, path):
    wire = server.connect()
    wire.send(post(path, b"x", ["wish: hash"], method="HEAD"))
    answer = wire.answer(method="HEAD")

    assert answer.status == 200
    assert int(answer.header("content-length") or 0) > 0
    wire.send(post("/ping", method="GET"))
    assert wire.answer().status == 200


@pytest.mark.parametrize("path", ["/models", "/models/behaviour"])
def test_head_is_not_for_the_management(server, behaviour, path):
    assert server.client.head(path).status_code == 405


@pytest.mark.parametrize("path", ["/", "/ping"])
def test_options_are_answered(server, path):
    answer = server.client.options(path)

    assert answer.status_code == 200
    assert path != "/" or answer.content == b"{}\n"


@pytest.mark.parametrize("path", ["/ping", "/ping?x=1", "/ping/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_ping_may_come_in_many_ways(server, path, method):
    answer = server.client.request(method, path)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


def test_a_request_without_a_host_is_answered(server):
    wire = server.connect()
    wire.send(b"GET /ping HTTP/1.1\r\n\r\n")

    assert wire.answer().status == 200


def test_an_absolute_target_is_no_path(server):
    wire = server.connect()
    wire.send(b"GET http://h/ping HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert wire.answer().status == 404


def test_the_path_ends_where_its_fragment_begins(server):
    wire = server.connect()
    wire.send(b"GET /models/a#b HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert b'not found: a"' in wire.answer().body
