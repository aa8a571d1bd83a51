"""Whatever is said on connections: everybody hears the right answers, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmekit_local.http import HttpResponse
from tests.fuzz.conversations import Ask, Said, Talk, hold_all, talks
from tests.mmekit_local.endpoint.conftest import _start_service
from tests.mmekit_local.http.conftest import serving
from tests.server_process import ServerProcess

thoroughly = settings.get_profile("fuzz")
# A process of its own takes longer over an example.
less = settings(thoroughly, max_examples=max(20, thoroughly.max_examples // 5))

numbers = itertools.count()  # each path is another, and as long
contents = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([0, 1, 4096, 70_000]).map(
        lambda size: b"\r\n0\r\n\r\n"[:size] * max(1, size // 7)
    ),
)


@st.composite
def echoes(draw, largest):
    path, content = b"/%09d" % next(numbers), draw(contents)
    if draw(st.integers(0, 9)) == 0:
        # As it comes: with a question it is the last.
        return Ask(path, bytes(largest + 1), status=413, answer=b"", ends=None, early=True)
    return Ask(path, content, answer=path + b" " + content)


LARGEST = 600_000


@thoroughly
@given(st.lists(talks(echoes(LARGEST), head_bytes=8192), min_size=1, max_size=3), st.booleans())
def test_everybody_hears_the_answers_to_what_they_said(conversations, errors_end):
    async def echo(request):
        await asyncio.sleep(0)
        return HttpResponse(200, "OK", [], request.target.encode() + b" " + request.body)

    async def scenario():
        limits = {"errors_end": errors_end, "body_bytes": LARGEST, "connections": 100}
        async with serving(echo, **limits) as (_, connect):
            _, writer = await connect()
            address = writer.get_extra_info("peername")
            await hold_all(address, conversations)
            last = Ask(b"/last", b"x", answer=b"/last x")
            sent = b"POST /last HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
            await hold_all(address, [Talk((Said(sent, last),))])

    asyncio.run(scenario())


# The embedded server, with a model that tells of which parts its input is.

PARTS = """
import json
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    pairs = zip(inputs.content.keys, inputs.content.values)
    parts = [[key, bytes(value).decode("latin-1")] for key, value in pairs]
    return Output().add_as_json(parts)
"""
MOST = 32_767
BOUNDARY = b"b0undary-of-parts"
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
fields = st.lists(st.tuples(names, st.binary(max_size=20)), max_size=5)


def urlencoded(pairs):
    return b"&".join(quote(name).encode() + b"=" + quote(value).encode() for name, value in pairs)


def multipart(pairs):
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
    parts = [head % (BOUNDARY, name.encode()) + value + b"\r\n" for name, value in pairs]
    return b"".join([*parts, b"--", BOUNDARY, b"--\r\n"])


def text(value):
    return value.decode("utf-8", "replace").encode().decode("latin-1")


@st.composite
def invocations(draw):
    kind = draw(st.sampled_from(["text", "text", "form", "parts", "many", "unknown"]))
    path = b"/predictions/parts?q=%09d" % next(numbers)
    before = [["q", path.rpartition(b"=")[2].decode()]]
    if kind == "unknown":
        return Ask(b"/predictions/nobody", draw(contents), status=404, ends=True)
    if kind == "text":
        content = draw(contents)
        answer, headers = [["data", content.decode("latin-1")]], (b"Content-Type: text/plain",)
    elif kind == "many":
        content = draw(st.sampled_from([b"a=1&" * MOST, b"&".join([b"a"] * 100_000)]))
        headers = (b"Content-Type: application/x-www-form-urlencoded",)
        return Ask(path, content, headers, status=400, ends=True)
    elif kind == "form":
        pairs = draw(fields)
        content, answer = urlencoded(pairs), [[name, text(value)] for name, value in pairs]
        headers = (b"content-type: application/x-www-form-urlencoded; charset=utf-8",)
    else:
        plain = st.text("abcü€ ", min_size=1, max_size=8)
        pairs = draw(st.lists(st.tuples(plain, st.binary(max_size=40)), max_size=5))
        content = multipart(pairs)
        answer = [[name, value.decode("latin-1")] for name, value in pairs]
        headers = (b"Content-Type: multipart/form-data; boundary=" + BOUNDARY,)
    return Ask(path, content, headers, answer=[*before, *answer], read=json.loads)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    (folder / "model.py").write_text(PARTS)
    properties = "engine=Python\nminWorkers=2\nmaxWorkers=2\n"
    (folder / "serving.properties").write_text(properties)
    process = ServerProcess()
    try:
        process.loaded(folder, "parts")
        yield process
    finally:
        process.close()


@less
@given(
    st.lists(
        talks(invocations(), head_bytes=8192, path=b"/predictions/parts"), min_size=1, max_size=3
    )
)
def test_a_server_mixes_nothing_up_and_loses_no_worker(server, conversations):
    asyncio.run(hold_all(("127.0.0.1", server.port), conversations))

    # Each of its workers, twice.
    for number in range(4):
        assert server.invoke("parts", f"{number}").json() == [["data", f"{number}"]]
    assert "Traceback" not in server.log


# The endpoint, with containers that tell what they saw.

SCOPE = b"Authorization: AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/%b/aws4_request, "
ENDPOINT = b"/endpoints/echo/invocations"
UNKNOWN = [b"nonsense", b"", b"a b", b"translate", b"x" * 200]


def signed(service_name, *more):
    return (SCOPE % service_name + b"Signature=0", *more)


def seen_digest(body):
    return json.loads(body)["digest"]


def aws_chunked(content, sizes):
    coded, start = b"", 0
    for size in [*sizes, len(content)]:
        if part := content[start : start + size]:
            coded += b"%x;chunk-signature=0\r\n%b\r\n" % (len(part), part)
        start += size
    return coded + b"0\r\nx-amz-trailer-signature:0\r\n\r\n"


@st.composite
def calls(draw):
    kind = draw(st.sampled_from(["invoke", "invoke", "invoke", "put", "coded", "form", "scope"]))
    content = b"-" + draw(contents)
    if kind == "invoke":
        headers = signed(b"sagemaker", b"X-Amzn-SageMaker-Target-Model: a.tar.gz")
        digest = hashlib.sha256(content).hexdigest()
        return Ask(ENDPOINT, content, headers, answer=digest, read=seen_digest)
    if kind == "form":
        count = draw(st.sampled_from([1, 1000, 200_000]))
        content = b"Action=GetCallerIdentity&Version=2011-06-15" + b"&a=1" * count
        headers = signed(b"sts", b"Content-Type: application/x-www-form-urlencoded")
        return Ask(b"/", content, headers, status=400 if count == 200_000 else 200)
    if kind == "scope":
        headers = signed(draw(st.sampled_from(UNKNOWN)))
        method = draw(st.sampled_from([b"GET", b"PUT", b"POST", b"DELETE"]))
        return Ask(b"/things/x", content, headers, method, status=501)
    path = b"/things/%09d" % next(numbers)
    headers = signed(b"s3")
    if kind == "coded":
        headers += (b"X-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",)
        content = aws_chunked(content, draw(st.lists(st.integers(1, 50), max_size=4)))
    return Ask(path, content, headers, b"PUT")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = _start_service(tmp_path_factory.mktemp("service"))
    try:
        running.put("a.tar.gz", running.echo_archive())
        running.client("s3").create_bucket(Bucket="things")
        running.create_endpoint("echo")
        yield running
    finally:
        running.stop()


@less
@given(st.lists(talks(calls(), head_bytes=64 << 10, path=ENDPOINT, most=3), min_size=1, max_size=2))
def test_an_endpoint_mixes_nothing_up_and_fails_at_nothing(service, conversations):
    address = urlsplit(service.url)
    asyncio.run(hold_all((address.hostname, address.port), conversations))

    assert service.seen("echo", "a.tar.gz", body=b"last")["length"] == 4
    assert "Traceback" not in service.log
    for talk in conversations:
        check_objects(service, talk)


def check_objects(service, talk):
    """Whatever was acknowledged is there, and as it was sent."""
    if talk.leaves is not None or any(one.ask.early for one in talk.said):
        return
    for one in talk.said:
        if one.ask.method == b"PUT" and one.ask.status == 200:
            key = one.ask.path.decode().rpartition("/")[2]
            found = service.client("s3").get_object(Bucket="things", Key=key)["Body"].read()
            assert found == plain_content(one.ask)


def plain_content(ask):
    if not any(header.startswith(b"X-Amz-Content") for header in ask.headers):
        return ask.content
    found, rest = b"", ask.content
    while size := int(rest.partition(b";")[0].partition(b"\r\n")[0], 16):
        start = rest.index(b"\r\n") + 2
        found, rest = found + rest[start : start + size], rest[start + size + 2 :]
    return found
