"""The wire format against the engine's own Input and Output."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmekit.engine import engine_folder
from mmekit_local.server.replies import ReplyReader, WorkerReply
from mmekit_runtime.wire import WireError, encode_request


@pytest.fixture(autouse=True, scope="module")
def _engine_is_importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(engine_folder()))
        yield


def read_by_the_engine(data: bytes):
    from djl_python import Input

    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=ours.sendall, args=(data,))
        sender.start()
        inputs = Input()
        inputs.read(theirs)
        sender.join()
    return inputs


def written_by_the_engine(output) -> bytes:
    ours, theirs = socket.socketpair()
    received = bytearray()

    def drain() -> None:
        while chunk := ours.recv(65536):
            received.extend(chunk)

    with ours:
        reader = threading.Thread(target=drain)
        reader.start()
        with theirs:
            output.send(theirs)
        reader.join()
    return bytes(received)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.dictionaries(texts, texts, max_size=5),
    st.lists(st.tuples(st.none() | texts, st.binary(max_size=200)), max_size=4),
)
def test_the_engine_reads_what_we_write(properties, content):
    inputs = read_by_the_engine(encode_request(properties, content))

    assert inputs.get_properties() == properties
    assert inputs.get_content().get_keys() == [key for key, _ in content]
    assert [bytes(value) for value in inputs.get_content().get_values()] == [
        value for _, value in content
    ]


@given(
    st.integers(200, 599),
    texts,
    st.dictionaries(texts, texts, max_size=5),
    st.lists(st.tuples(st.none() | texts, st.binary(max_size=200)), max_size=4),
    st.integers(1, 50),
)
def test_we_read_what_the_engine_writes_in_pieces_of_any_size(
    status, message, properties, content, step
):
    from djl_python import Output

    output = Output(code=status, message=message)
    output.properties = properties
    for key, value in content:
        output.content.add(key, bytearray(value))
    data = written_by_the_engine(output)
    reader = ReplyReader()

    answers = [reader.feed(data[start : start + step]) for start in range(0, len(data), step)]

    assert answers[:-1] == [None] * (len(answers) - 1)
    assert answers[-1] == WorkerReply(status, message, tuple(properties.items()), tuple(content))


def test_a_stream_is_read_to_its_end():
    from djl_python import Output

    output = Output().add_stream_content(iter(["a", b"b", "c"]), None)
    reply = ReplyReader().feed(written_by_the_engine(output))

    assert reply is not None
    assert reply.stream is not None
    assert reply.stream.ended
    assert b"".join(reply.stream._chunks) == b"abc"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00",  # status 1
        b"\x00\xc8\x7f\xff\xff\xff",  # a message of 2 GiB
        b"\x00\xc8\x00\x00\x00\x01\xff\x00\x00\x00\x00",  # a message that is not UTF-8
        b"\x00\xc8\x00\x00\x00\x00\xff\xfe",  # -2 properties
    ],
)
def test_garbage_is_an_error(data):
    with pytest.raises(WireError):
        ReplyReader().feed(data)


@given(st.binary(max_size=100))
def test_no_bytes_do_worse_than_an_error(data):
    with contextlib.suppress(WireError):
        ReplyReader().feed(data)


def test_more_properties_than_the_format_can_count_are_refused():
    with pytest.raises(WireError):
        encode_request({str(number): "" for number in range(40_000)})
