"""How requests are read: offers of other protocols, chunks of any size, trailers, questions."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from mmekit_local.http import HttpResponse
from tests.mmekit_local.http.conftest import serving

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
SIZED = b"Content-Length: 5\r\n\r\nhello"
CODED = b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n"
PLAIN = b"GET / HTTP/1.1\r\n\r\n"


async def answer_of(reader):
    """Read one answer: its status, its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
    return int(head[9:12]), await reader.readexactly(lengths[0] if lengths else 0)


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario(), 60))


def pieces_of(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("offer", [H2C, b"Connection: upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("body", [SIZED, CODED], ids=["sized", "chunked"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_request_that_offers_another_protocol_is_answered_in_this_one(offer, body, size):
    data = (b"POST /a HTTP/1.1\r\n" + offer + body) * 3 + b"GET / HTTP/1.1\r\n" + offer + b"\r\n"
    seen = []

    async def look(request):
        seen.append((request.method, request.target, request.headers))
        return HttpResponse(200, "OK", [], request.body)

    async def scenario():
        async with serving(look) as (_, connect):
            reader, writer = await connect()
            for piece in pieces_of(data + PLAIN, size):
                writer.write(piece)
                await asyncio.sleep(0)
            return [await answer_of(reader) for _ in range(5)]

    assert run(scenario) == [(200, b"hello")] * 3 + [(200, b"")] * 2
    assert [(method, target) for method, target, _ in seen] == [("POST", "/a")] * 3 + [
        ("GET", "/")
    ] * 2
    # Whoever answers sees what was sent.
    assert all(b"Upgrade" in dict(headers) for _, _, headers in seen[:4])
    assert dict(seen[0][2])[b"Connection"] == offer[12 : offer.index(b"\r\n")]


@pytest.mark.parametrize("offer", [b"", H2C], ids=["plain", "offer"])
def test_who_asks_whether_to_go_on_is_told_so_once_it_is_its_turn(offer):
    async def scenario():
        go_on = asyncio.Event()

        async def slow(request):
            await go_on.wait()
            return HttpResponse(200, "OK", [], request.body)

        async with serving(slow) as (_, connect):
            reader, writer = await connect()
            ask = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\n" + offer
            writer.write(PLAIN + ask + b"Content-Length: 5\r\n\r\n")
            go_on.set()
            told = [await answer_of(reader), await answer_of(reader)]
            writer.write(b"hello")
            return [*told, await answer_of(reader)]

    assert run(scenario) == [(200, b""), (100, b""), (200, b"hello")]


@pytest.mark.parametrize("target", [b"/invocations", b"localhost:80"])
def test_no_connection_is_a_tunnel(target):
    async def scenario():
        async with serving() as (_, connect):
            reader, writer = await connect()
            writer.write(b"CONNECT " + target + b" HTTP/1.1\r\n" + SIZED + PLAIN)
            return await reader.read()

    told = run(scenario)

    assert told.startswith(b"HTTP/1.1 405 ")
    assert told.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("offer", [b"", H2C], ids=["plain", "offer"])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_body_takes_about_as_many_bytes_as_it_has_however_small_its_chunks(offer, size):
    length = 300_000
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    kept = []

    async def look(request):
        kept.append(request.body == b"x" * length)
        return HttpResponse(200, "OK", [], b"")

    async def scenario():
        async with serving(look) as (_, connect):
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\n" + offer + b"Transfer-Encoding: chunked\r\n\r\n")
            tracemalloc.start()
            try:
                for _ in range(100):
                    writer.write(chunk * (length // size // 100))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
                found = await answer_of(reader)
                return found, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    found, peak = run(scenario)

    assert (found, kept) == ((200, b""), [True])
    # The body, once more when it is joined, and what is on its way through two sockets.
    assert peak < 2 * length + (2 << 20)


def trailers(size, each):
    """Trailers of so many bytes in all, as they are counted."""
    return b"".join(b"A: " + b"x" * (each - 3) + b"\r\n" for _ in range(size // each))


@pytest.mark.parametrize("each", [4, 100, 8192])
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_trailers_have_the_limit_of_headers(each, size):
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"

    async def told(sent):
        async with serving() as (_, connect):
            reader, writer = await connect()
            for piece in pieces_of(head + sent + b"\r\n", size):
                writer.write(piece)
                await asyncio.sleep(0)
            return (await answer_of(reader))[0]

    def status(size):
        return asyncio.run(asyncio.wait_for(told(trailers(size, each)), 60))

    assert status(8192 // each * each) == 200
    assert status((8192 // each + 1) * each) == 400


@pytest.mark.parametrize(
    ("before", "again"),
    [
        (b"0\r\n", b"A: " + b"x" * 100 + b"\r\n"),
        (b"0\r\n", b"x" * 100),
        (b"0\r\nA: ", b"x" * 100),
        (b"1;", b"x" * 100),
        (b"1;x=", b"x" * 100),
        (b"", b"0" * 100),
    ],
    ids=["trailers", "name", "value", "extension", "its value", "size"],
)
def test_what_is_no_body_does_not_go_on_without_an_end(before, again):
    async def scenario():
        async with serving(request_s=600) as (_, connect):
            reader, writer = await connect()
            writer.write(
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n" + before
            )
            told = asyncio.ensure_future(answer_of(reader))
            count = 0
            while not told.done():
                count += 1
                writer.write(again)
                await writer.drain()
                await asyncio.sleep(0)
            return (await told)[0], count

    status, count = run(scenario)

    assert status == 400
    assert count < 1000
