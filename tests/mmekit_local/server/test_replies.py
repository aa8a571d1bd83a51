"""What a worker's bytes become, in whatever pieces they arrive."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmekit_local.server.replies import ReplyReader, WorkerReply
from mmekit_local.server.worker_connection import WorkerConnection
from mmekit_runtime.wire import WireAnswer, WireError, encode_answer

TEXT = st.text(max_size=20)
ANSWERS = st.builds(
    WireAnswer,
    st.integers(100, 999),
    TEXT,
    st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple),
    st.lists(st.tuples(st.none() | TEXT, st.binary(max_size=50)), max_size=4).map(tuple),
)
STREAMED = b"\x00\xc8" + b"\x00\x00\x00\x02OK" + b"\x00\x00" + b"\xff\xff"


def chunk(data, *, more=True):
    return bytes([more]) + len(data).to_bytes(4, "big") + data


def feed(reader, data, size):
    replies = [reader.feed(data[start : start + size]) for start in range(0, len(data), size)]
    return [reply for reply in replies if reply is not None]


async def paused(transport):
    while transport.is_reading():  # noqa: ASYNC110  it has no such event
        await asyncio.sleep(0.001)


async def gathered(stream):
    return [one async for one in stream]


@given(ANSWERS, st.integers(1, 40))
def test_a_reply_is_read_in_pieces_of_any_size(answer, size):
    reader = ReplyReader()

    for _ in range(2):
        (reply,) = feed(reader, encode_answer(answer), size)
        assert reply == WorkerReply(*answer)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_stream_is_handed_out_chunk_by_chunk(size):
    async def scenario():
        reader = ReplyReader()
        data = STREAMED + chunk(b"one") + chunk(b"two") + chunk(b"", more=False)
        (reply,) = feed(reader, data, size)
        chunks = await gathered(reply.stream)
        (plain,) = feed(reader, encode_answer(WireAnswer(200, "OK", (), ((None, b"x"),))), size)
        return reply, chunks, plain.body

    reply, chunks, after = asyncio.run(scenario())

    assert (reply.status, reply.message, reply.content) == (200, "OK", ())
    assert [one for one in chunks if one] == [b"one", b"two"]
    assert after == b"x"


def test_a_stream_without_chunks_is_an_empty_reply():
    reply = ReplyReader().feed(STREAMED + chunk(b"", more=False))

    assert (reply.stream, reply.body) == (None, b"")


def test_a_stream_whose_worker_dies_ends_with_the_reason():
    async def scenario():
        reader = ReplyReader()
        reply = reader.feed(STREAMED + chunk(b"one"))
        reader.stream.end(ValueError("dead"))
        assert await anext(reply.stream) == b"one"
        with pytest.raises(ValueError, match="dead"):
            await anext(reply.stream)

    asyncio.run(scenario())


def test_the_engines_own_streams_are_read():
    from mmekit.engine import engine_folder

    code = "\n".join(
        [
            "import socket, sys",
            f"sys.path.insert(0, {str(engine_folder())!r})",
            "from djl_python import Output",
            "sock = socket.socket(fileno=int(sys.argv[1]))",
            "Output().add_stream_content(iter(['a', 'b']), None).send(sock)",
        ]
    )

    async def scenario():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", code, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                check=True,
            )
            reply = ReplyReader().feed(ours.recv(1000))
        return await gathered(reply.stream)

    assert [one for one in asyncio.run(scenario()) if one] == [b"a", b"b"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",
        b"\x03\xe8",
        b"\x00\xc8" + b"\x00\x00\x00\x02\xff\xff" + b"\x00\x00\x00\x00",
        b"\x00\xc8" + b"\x00\x00\x00\x02OK" + b"\xff\xfe",
        b"\x00\xc8" + b"\x7f\xff\xff\xff",
    ],
)
def test_garbage_is_refused(data):
    with pytest.raises(WireError):
        ReplyReader().feed(data)


def test_a_stream_is_read_no_faster_than_it_is_taken():
    size, count = 64 << 10, 200

    async def scenario():
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        link = WorkerConnection(lambda failure: failure)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: link, sock=ours)
        sent = (
            STREAMED + b"".join(chunk(bytes(size)) for _ in range(count)) + chunk(b"", more=False)
        )
        with theirs:
            answer = link.ask(b"x", 60)
            writing = asyncio.ensure_future(loop.sock_sendall(theirs, sent))
            stream = (await answer).stream
            taken = len(await anext(stream))
            await paused(transport)
            assert not writing.done()
            assert link._timer is None  # the worker is not silent: its client is
            assert stream.waiting < 4 << 20
            taken += sum([len(one) async for one in stream])
            await writing
            link.close()
        return taken

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == size * count


def test_a_stream_that_nobody_reads_any_more_comes_to_its_end_and_takes_no_memory():
    size, count = 64 << 10, 200

    async def scenario():
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        link = WorkerConnection(lambda failure: failure)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: link, sock=ours)
        sent = (
            STREAMED + b"".join(chunk(bytes(size)) for _ in range(count)) + chunk(b"", more=False)
        )
        ended = asyncio.Event()
        with theirs:
            answer = link.ask(b"x", 60)
            writing = asyncio.ensure_future(loop.sock_sendall(theirs, sent))
            stream = (await answer).stream
            stream.when_ended(ended.set)
            await anext(stream)
            await paused(transport)
            await stream.aclose()
            await ended.wait()
            await writing
            link.close()
        return stream.waiting

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == 0
