"""The one port, as clients and others that speak HTTP (or do not) meet it."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import sys
import threading
from urllib.parse import urlsplit

import boto3.s3.transfer
import pytest

PATIENCE = 60
LARGEST = 6 * 1024 * 1024
SCOPE = "AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/{}/aws4_request, Signature=0"
INVOKE = (
    "POST /endpoints/echo/invocations HTTP/1.1\r\nHost: localhost\r\n"
    f"Authorization: {SCOPE.format('sagemaker')}\r\n"
    "X-Amzn-SageMaker-Target-Model: a.tar.gz\r\nContent-Type: text/plain\r\n"
)


@pytest.fixture(scope="module", autouse=True)
def _bucket(service, echo):
    service.client("s3").create_bucket(Bucket="front")


@pytest.fixture
def connect(service):
    """A function that opens a connection."""
    address = urlsplit(service.url)
    with contextlib.ExitStack() as opened:

        def open_one():
            one = socket.create_connection((address.hostname, address.port), timeout=PATIENCE)
            return opened.enter_context(one)

        yield open_one


def invocation(body=b"x", *, more="", announced=True):
    length = f"Content-Length: {len(body)}\r\n" if announced else ""
    return (INVOKE + length + more + "\r\n").encode() + body


def answer_on(connection, method="POST"):
    """Read one answer: its status, its headers, its body."""
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    body = answer.read()
    return answer.status, answer.headers, body


def seen_length(body):
    return json.loads(body)["length"]


def test_pipelined_invocations_are_answered_in_their_order(connect):
    connection = connect()
    lengths = range(1, 41)
    connection.sendall(b"".join(invocation(b"x" * length) for length in lengths))
    with connection.makefile("rb") as stream:
        found = [read_from(stream) for _ in lengths]
    assert [status for status, _ in found] == [200] * len(lengths)
    assert [seen_length(body) for _, body in found] == list(lengths)


def read_from(stream):
    """Read one answer and leave what follows it."""
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, stream.read(length)


def test_a_client_that_closes_its_half_is_let_go_and_others_are_served(connect):
    connection = connect()
    connection.sendall(INVOKE.encode())
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""
    other = connect()
    other.sendall(invocation())
    assert answer_on(other)[0] == 200


def test_a_client_may_ask_before_it_sends_its_body(connect):
    connection = connect()
    body = b"x" * 1000
    head, _, _ = invocation(body, more="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    connection.sendall(head + b"\r\n\r\n")
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    status, _, answer = answer_on(connection)
    assert (status, seen_length(answer)) == (200, 1000)


def test_a_body_may_come_in_chunks(connect):
    connection = connect()
    head = (INVOKE + "Transfer-Encoding: chunked\r\n\r\n").encode()
    connection.sendall(head + b"3\r\nabc\r\n")
    connection.sendall(b"4;extension\r\ndefg\r\n0\r\nTrailer: is not read\r\n\r\n")
    status, _, answer = answer_on(connection)
    assert (status, seen_length(answer)) == (200, 7)


H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAI\r\n"


def test_who_offers_another_protocol_is_answered_in_this_one(connect):
    connection = connect()
    head = (INVOKE + H2C + "Transfer-Encoding: chunked\r\n\r\n").encode()
    for length in (3, 5):
        coded = b"%x\r\n%b\r\n0\r\n\r\n" % (length, b"x" * length)
        for sent in (invocation(b"x" * length, more=H2C), head + coded):
            connection.sendall(sent)
            status, headers, answer = answer_on(connection)
            assert (status, seen_length(answer)) == (200, length)
            assert headers["connection"] == "keep-alive"


def test_an_object_is_stored_whole_by_who_offers_another_protocol_and_asks_first(service, connect):
    connection = connect()
    connection.sendall(
        (
            "PUT /front/offered HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: {SCOPE.format('s3')}\r\n{H2C}"
            "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ).encode()
    )
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"hello")
    assert answer_on(connection, "PUT")[0] == 200
    found = service.client("s3").get_object(Bucket="front", Key="offered")["Body"].read()
    assert found == b"hello"


def test_trailers_have_the_limit_of_headers(connect):
    head = (INVOKE + "Transfer-Encoding: chunked\r\n\r\n").encode() + b"1\r\na\r\n0\r\n"
    for count, expected in ((1000, 200), (7000, 400)):
        connection = connect()
        connection.sendall(head + b"A: 1234567\r\n" * count + b"\r\n")
        assert answer_on(connection)[0] == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is Linux that tells the most")
def test_a_body_in_the_smallest_chunks_takes_about_the_memory_of_its_bytes(service, connect):
    size = 3 << 20
    process = pathlib.Path(f"/proc/{service.process.pid}")
    connection = connect()
    connection.sendall(
        (
            "PUT /front/small HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: {SCOPE.format('s3')}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ).encode()
    )
    (process / "clear_refs").write_text("5")  # proc(5): the most so far is what there is now
    before = most_memory(process)
    for _ in range(size // 1024):
        connection.sendall(b"2\r\nab\r\n" * 512)
    connection.sendall(b"0\r\n\r\n")
    assert answer_on(connection, "PUT")[0] == 200
    # Pieces of their own would be forty megabytes and more for each of the body's.
    assert most_memory(process) - before < 12 * size


def most_memory(process):
    (line,) = (
        line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) << 10


def test_a_form_has_an_end(connect):
    form = "Content-Type: application/x-www-form-urlencoded\r\n"
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {SCOPE.format('sts')}\r\n{form}"
    connection = connect()
    for count, expected in ((1000, 200), (100_000, 400)):
        body = b"Action=GetCallerIdentity&Version=2011-06-15" + b"&a=1" * count
        connection.sendall((head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        assert answer_on(connection)[0] == expected


def test_the_largest_body_is_taken(service, echo):
    assert service.seen(echo, "a.tar.gz", body=b"x" * LARGEST)["length"] == LARGEST


def test_a_larger_body_is_a_validation_error(service, echo):
    runtime = service.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ClientError) as raised:
        service.invoke(echo, "a.tar.gz", body=b"x" * (LARGEST + 1))
    error = raised.value.response
    assert error["Error"]["Code"] == "ValidationError"
    assert f"less than or equal to {LARGEST}" in error["Error"]["Message"]
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert service.seen(echo, "a.tar.gz")["length"] == 1


def test_a_larger_body_is_refused_before_it_is_sent_when_the_client_asks(connect):
    connection = connect()
    connection.sendall(
        (INVOKE + f"Content-Length: {LARGEST + 1}\r\nExpect: 100-continue\r\n\r\n").encode()
    )
    status, headers, _ = answer_on(connection)
    assert (status, headers["x-amzn-errortype"]) == (400, "ValidationError")


def test_a_larger_body_in_chunks_is_refused_and_the_connection_goes_on(connect):
    connection = connect()
    chunk = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20))
    connection.sendall((INVOKE + "Transfer-Encoding: chunked\r\n\r\n").encode() + 7 * chunk)
    connection.sendall(b"0\r\n\r\n")
    assert answer_on(connection)[0] == 400
    connection.sendall(invocation())
    assert answer_on(connection)[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nName: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=["TLS", "header", "length", "line", "long line", "long header"],
)
def test_what_is_no_request_is_400_and_ends_the_connection(connect, garbage):
    connection = connect()
    connection.sendall(garbage)
    status, headers, _ = answer_on(connection)
    assert (status, headers["connection"]) == (400, "close")
    assert connection.recv(1) == b""


def test_an_error_does_not_end_the_connection(connect):
    connection = connect()
    connection.sendall(invocation().replace(b"/echo/", b"/nobody/"))
    status, headers, _ = answer_on(connection)
    assert (status, headers["connection"]) == (400, "keep-alive")
    connection.sendall(invocation())
    assert answer_on(connection)[0] == 200


def test_hundreds_of_idle_connections_keep_nobody_from_being_served(connect):
    idle = [connect() for _ in range(400)]
    for connection in idle[:200]:
        connection.sendall(INVOKE.encode())  # a head that does not end
    busy = connect()
    busy.sendall(invocation())
    assert answer_on(busy)[0] == 200
    idle[-1].sendall(invocation())
    assert answer_on(idle[-1])[0] == 200


def test_clients_that_go_away_leave_nothing_behind(service, connect, echo):
    for _ in range(50):
        connection = connect()
        connection.sendall(invocation(b'{"seconds": 0.05}')[:-3])
        connection.close()
        connection = connect()
        connection.sendall(invocation(b'{"seconds": 0.05}'))
        connection.close()
    assert service.seen(echo, "a.tar.gz")["length"] == 1
    assert "Traceback" not in service.log


@pytest.mark.parametrize("size", [5, 50 * 1024 * 1024])
def test_an_object_is_uploaded_whole_or_in_parts(service, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "content").write_bytes(content)
    s3 = service.client("s3")
    transfer = boto3.s3.transfer.TransferConfig(multipart_threshold=8 << 20)
    s3.upload_file(str(tmp_path / "content"), "front", "object", Config=transfer)
    s3.download_file("front", "object", str(tmp_path / "back"), Config=transfer)
    assert (tmp_path / "back").read_bytes() == content
    assert s3.head_object(Bucket="front", Key="object")["ContentLength"] == size


def test_a_single_put_larger_than_any_invocation_goes_through(service):
    content = os.urandom(50 * 1024 * 1024)
    s3 = service.client("s3")
    s3.put_object(Bucket="front", Key="single", Body=content)
    assert s3.get_object(Bucket="front", Key="single")["Body"].read() == content


def test_head_says_the_length_and_sends_no_body(service, connect):
    service.client("s3").put_object(Bucket="front", Key="headed", Body=b"12345")
    connection = connect()
    authorization = f"Authorization: {SCOPE.format('s3')}\r\n"
    for _ in range(2):  # the second shows that nothing was left of the first
        connection.sendall(
            f"HEAD /front/headed HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n".encode()
        )
        status, headers, body = answer_on(connection, "HEAD")
        assert (status, headers["content-length"], body) == (200, "5", b"")


def test_many_clients_at_once_get_their_own_answers(connect):
    clients = 32
    connections = [connect() for _ in range(clients)]
    found = {}

    def ask(number):
        for turn in range(10):
            length = 1 + number * 10 + turn
            connections[number].sendall(invocation(b"x" * length))
            _, _, body = answer_on(connections[number])
            found[length] = seen_length(body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {length: length for length in range(1, clients * 10 + 1)}


def test_request_ids_are_unique(connect):
    connection = connect()
    found = set()
    for _ in range(50):
        connection.sendall(invocation())
        found.add(answer_on(connection)[1]["x-amzn-requestid"])
    assert len(found) == 50
    assert {len(one) for one in found} == {36}
