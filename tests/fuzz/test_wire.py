"""Whatever a worker, or a server, sends: an answer, more to come, or a `WireError`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmekit_local.server import replies
from mmekit_local.server.replies import ReplyReader
from mmekit_runtime.wire import (
    MAX_PART_BYTES,
    Cursor,
    WireAnswer,
    WireError,
    decode_request,
    encode_answer,
    encode_request,
)

thoroughly = settings.get_profile("fuzz")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
contents = st.lists(st.tuples(st.none() | texts, st.binary(max_size=20)), max_size=3)
requests = st.builds(encode_request, st.dictionaries(texts, texts, max_size=3), contents)
answers = st.builds(
    WireAnswer,
    st.integers(100, 999),
    texts,
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    contents.map(tuple),
)
chunks = st.lists(st.binary(max_size=9), min_size=1, max_size=4)
lengths = st.sampled_from([-(2**31), -2, -1, 0, 1, 0xFFFF, MAX_PART_BYTES + 1, 2**31 - 1])


def streamed(parts):
    """An answer whose content comes in chunks."""
    framed = [
        struct.pack(">?i", number < len(parts), len(part)) + part
        for number, part in enumerate(parts, 1)
    ]
    return b"\x00\xc8\x00\x00\x00\x00\x00\x00\xff\xff" + b"".join(framed)


@st.composite
def damaged(draw, whole):
    """Bytes of a message of which some were changed, lost, repeated, or are another length."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 8)))
        data[at:end] = draw(
            st.one_of(st.binary(max_size=6), lengths.map(lambda one: struct.pack(">i", one)))
        )
    return bytes(data)


async def everything(data, cuts=()):
    """Feed data, cut in pieces; return the reply, its chunks joined, and whether it has ended."""
    reader = ReplyReader()
    edges = [0, *sorted(cuts), len(data)]
    replies = [
        reply
        for start, end in itertools.pairwise(edges)
        if (reply := reader.feed(data[start:end])) is not None
    ]
    if not replies:
        return None
    (reply,) = replies
    if reply.stream is None:
        return reply
    if not reply.stream.ended:
        return reply._replace(stream=None, content=())
    gathered = b"".join([chunk async for chunk in reply.stream])
    return reply._replace(stream=None, content=((None, gathered),))


@thoroughly
@given(st.one_of(st.binary(max_size=80), damaged(requests), damaged(st.builds(streamed, chunks))))
def test_no_bytes_do_worse_than_a_wire_error(data):
    for read in (decode_request, lambda data: asyncio.run(everything(data))):
        with contextlib.suppress(WireError):
            read(data)


@thoroughly
@given(requests, requests)
def test_a_request_is_read_as_soon_as_its_last_byte_is_there_and_never_before(first, second):
    message, length = decode_request(first + second)

    assert length == len(first)
    assert encode_request(message.properties, message.content) == first
    assert all(decode_request(first[:end]) is None for end in range(len(first)))


@thoroughly
@given(answers)
def test_an_answer_is_the_same_wherever_it_is_cut(answer):
    data = encode_answer(answer)

    async def scenario():
        whole = await everything(data)
        assert whole[:4] == tuple(answer)
        for cut in range(len(data)):
            assert await everything(data, [cut]) == whole
        assert await everything(data, range(len(data))) == whole

    asyncio.run(scenario())


@thoroughly
@given(chunks, st.data())
def test_a_stream_is_the_same_wherever_it_is_cut(parts, data):
    sent = streamed(parts)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=6))

    reply = asyncio.run(everything(sent, cuts))

    assert reply.body == b"".join(parts)


def test_a_large_answer_is_not_read_anew_with_every_piece(monkeypatch):
    begun = []

    def cursor(buffer):
        begun.append(len(buffer))
        return Cursor(buffer)

    monkeypatch.setattr(replies, "Cursor", cursor)
    parts = tuple((f"part-{number}", bytes(100_000)) for number in range(5))
    data = encode_answer(WireAnswer(200, "OK", (), parts))

    reply = asyncio.run(everything(data, range(0, len(data), 1000)))

    assert reply.content == parts
    assert len(begun) < 30


HEAD = b"\x00\xc8\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "before",
    [b"\x00\xc8", HEAD + b"\x00\x01", HEAD + b"\x00\x00\x7f\xff", HEAD + b"\x00\x00\xff\xff\x01"],
    ids=["message", "property", "key of a part", "chunk"],
)
@pytest.mark.parametrize("claimed", [MAX_PART_BYTES, MAX_PART_BYTES + 1, 2**31 - 1])
def test_a_length_allocates_nothing_by_being_claimed(before, claimed):
    data = before + struct.pack(">i", claimed) + b"x" * 100
    reader = ReplyReader()
    tracemalloc.start()
    try:
        if claimed > MAX_PART_BYTES:
            with pytest.raises(WireError):
                reader.feed(data)
        else:
            assert reader.feed(data) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
