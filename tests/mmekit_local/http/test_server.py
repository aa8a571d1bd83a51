"""The HTTP server by itself: time limits, and its end."""

from __future__ import annotations

import asyncio

import pytest

from mmekit_local.http import HttpResponse
from tests.mmekit_local.http.conftest import serving, until


@pytest.mark.parametrize(
    "part",
    [
        b"POST /x HT",
        b"POST /x HTTP/1.1\r\nA: b\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nab",
    ],
    ids=["line", "headers", "body"],
)
def test_a_request_that_does_not_become_whole_is_408(part):
    async def scenario():
        async with serving(request_s=0.1) as (_, connect):
            reader, writer = await connect()
            writer.write(part)
            return await reader.read()

    answer = asyncio.run(scenario())

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b'"message": "The request was not whole within 0.1 s."' in answer


def test_the_time_limit_is_for_one_request_not_for_the_connection():
    async def scenario():
        async with serving(request_s=1) as (_, connect):
            reader, writer = await connect()
            answers = []
            for _ in range(3):
                writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na")
                await asyncio.sleep(0)
                writer.write(b"b")
                head = await reader.readuntil(b"\r\n\r\n")
                answers.append((head[:12], await reader.readexactly(2)))
            # Idle for longer than a request may take.
            await asyncio.wait({asyncio.create_task(reader.read(1))}, timeout=1.2)
            return answers, reader.at_eof()

    assert asyncio.run(scenario()) == ([(b"HTTP/1.1 200", b"ab")] * 3, False)


def test_a_client_that_reads_nothing_is_let_go():
    async def large(_):
        return HttpResponse(200, "OK", [], bytes(50 << 20))

    async def scenario():
        async with serving(large, stall_s=0.1) as (server, connect):
            _, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            writer.transport.pause_reading()
            await until(lambda: server.connections)
            await until(lambda: not server.connections)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_the_end_waits_for_what_is_under_way_and_not_for_idle_connections():
    async def scenario():
        go_on = asyncio.Event()
        asked = asyncio.Event()

        async def slow(request):
            asked.set()
            await go_on.wait()
            return HttpResponse(200, "OK", [], b"done")

        async with serving(slow) as (server, connect):
            idle, _ = await connect()
            busy, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await asked.wait()
            closing = asyncio.create_task(server.close(drain_s=20))
            assert await idle.read() == b""
            assert not closing.done()
            go_on.set()
            answer = await busy.read()
            await closing
            return answer

    answer = asyncio.run(scenario())

    assert answer.endswith(b"connection: close\r\n\r\ndone")


def test_whoever_answers_is_told_that_the_client_went_away():
    async def scenario():
        gone = asyncio.Event()
        asked = asyncio.Event()

        async def wait(request):
            request.if_gone = gone.set
            asked.set()
            await gone.wait()
            return HttpResponse(200, "OK", [], b"for nobody")

        async with serving(wait) as (_, connect):
            _, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await asked.wait()
            writer.close()
            await gone.wait()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_connection_without_a_request_ends_after_its_time():
    async def scenario():
        async with serving(idle_s=0.8) as (server, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.read() == b""
            await until(lambda: not server.connections)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_request_that_takes_longer_than_a_connection_may_be_idle_is_answered():
    async def scenario():
        async def slow(request):
            await asyncio.sleep(1.2)
            return HttpResponse(200, "OK", [], b"done")

        async with serving(slow, idle_s=0.5) as (_, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            return await reader.readuntil(b"done")

    assert asyncio.run(asyncio.wait_for(scenario(), 60)).endswith(b"\r\n\r\ndone")


def test_a_stream_goes_out_as_it_comes_and_is_cancelled_when_the_client_goes_away():
    async def scenario():
        ended = asyncio.Event()

        async def events():
            try:
                for number in range(2):
                    yield b"data: %d\n\n" % number
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def answer(request):
            return HttpResponse(200, "OK", [("content-type", "text/event-stream")], stream=events())

        async with serving(answer) as (_, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(2 * len(b"9\r\ndata: 0\n\n\r\n"))
            writer.close()
            await ended.wait()
            return head, body

    head, body = asyncio.run(asyncio.wait_for(scenario(), 60))

    assert b"transfer-encoding: chunked" in head
    assert body == b"9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n"


def test_a_stream_without_end_does_not_keep_the_server_from_ending():
    async def scenario():
        async def events():
            yield b"first"
            await asyncio.Event().wait()

        async def answer(request):
            return HttpResponse(200, "OK", [], stream=events())

        async with serving(answer) as (server, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"first")
            await server.close(drain_s=0.1)
            await until(lambda: not server.connections)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_errors_end_connections_only_where_that_is_asked_for():
    async def missing(request):
        return HttpResponse(404, "Not Found", [], b"")

    async def scenario(errors_end):
        async with serving(missing, errors_end=errors_end) as (_, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            return (await reader.readuntil(b"\r\n\r\n")).splitlines()[-2]

    assert asyncio.run(scenario(errors_end=True)) == b"connection: close"
    assert asyncio.run(scenario(errors_end=False)) == b"connection: keep-alive"


def test_a_slow_reader_gets_a_large_answer_whole():
    content = bytes(range(256)) * (16 << 12)

    async def large(request):
        return HttpResponse(200, "OK", [], content)

    async def scenario():
        async with serving(large, stall_s=60) as (_, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            return await reader.readexactly(len(content))

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == content


def test_a_connection_whose_stream_ends_while_the_server_is_closing_ends_with_it():
    async def scenario():
        go_on = asyncio.Event()

        async def events():
            yield b"first"
            await go_on.wait()

        async def answer(request):
            return HttpResponse(200, "OK", [], stream=events())

        async with serving(answer) as (server, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"first")
            closing = asyncio.create_task(server.close(drain_s=60))
            await asyncio.sleep(0)
            go_on.set()
            await closing
            return await reader.read()

    assert asyncio.run(asyncio.wait_for(scenario(), 60)).endswith(b"\r\n0\r\n\r\n")


def test_when_every_connection_is_busy_each_further_one_is_refused():
    async def scenario():
        gate = asyncio.Event()
        asked = []

        async def waiting(request):
            asked.append(request)
            await gate.wait()
            return HttpResponse(200, "OK", [], b"done")

        async with serving(waiting, connections=2) as (_, connect):
            busy = [await connect() for _ in range(2)]
            for _, writer in busy:
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: len(asked) == 2)
            for _ in range(3):
                reader, _ = await connect()
                assert (await reader.readline()).split()[1] == b"503"
            gate.set()
            for reader, _ in busy:
                await reader.readuntil(b"done")

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize(
    "rest", [b"", b"GET / HTTP/1.1\r\n\r\n" * 9, None], ids=["", "more", "end"]
)
def test_a_refused_body_that_does_not_come_whole_has_one_answer(rest):
    async def scenario():
        async with serving(request_s=0.2, body_bytes=10) as (_, connect):
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nab")
            head = await reader.readuntil(b"\r\n\r\n")
            if rest is None:
                writer.write_eof()
            else:
                writer.write(rest)
            return head + await reader.read()

    answer = asyncio.run(asyncio.wait_for(scenario(), 60))

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_refused_body_in_broken_chunks_has_one_answer():
    async def scenario():
        async with serving(body_bytes=10) as (_, connect):
            reader, writer = await connect()
            writer.write(
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + bytes(255)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\r\nno size\r\n")
            return head + await reader.read()

    answer = asyncio.run(asyncio.wait_for(scenario(), 60))

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_blanks_around_a_header_s_value_are_no_part_of_it():
    seen = []

    async def look(request):
        seen.extend(request.headers)
        return HttpResponse(200, "OK", [], b"")

    async def scenario():
        async with serving(look) as (_, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nA: \t b c \t \r\nEmpty:  \r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")

    asyncio.run(asyncio.wait_for(scenario(), 60))

    assert seen == [(b"A", b"b c"), (b"Empty", b"")]


def test_a_stream_whose_client_left_before_it_began_is_closed():
    class Stream:
        def __init__(self):
            self.closed = asyncio.Event()

        def __aiter__(self):
            return self

        async def __anext__(self):
            raise AssertionError("nobody reads it")

        async def aclose(self):
            self.closed.set()

    async def scenario():
        asked, gone = asyncio.Event(), asyncio.Event()
        stream = Stream()

        async def answer(request):
            request.if_gone = gone.set
            asked.set()
            await gone.wait()
            return HttpResponse(200, "OK", [], stream=stream)

        async with serving(answer) as (_, connect):
            _, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await asked.wait()
            writer.close()
            await stream.closed.wait()

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize(
    "header", [("a", "b\r\nc: d"), ("a", "b\nc"), ("a\r\nb", "c"), ("a", "b\rc"), ("a", "b\0c")]
)
@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_whose_header_is_more_than_a_line_is_not_sent(header, streams):
    async def chunks():
        yield b"never"

    async def answer(request):
        stream = chunks() if streams else None
        return HttpResponse(200, "OK", [header], b"" if streams else b"never", stream=stream)

    async def scenario():
        async with serving(answer) as (_, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            return await reader.read()

    told = asyncio.run(asyncio.wait_for(scenario(), 60))

    assert told.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"cannot be sent" in told
    assert b"never" not in told
    assert told.count(b"HTTP/1.1 ") == 1
