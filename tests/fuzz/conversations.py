"""What clients say on a connection, good and bad, and what they must hear.

Each request has one right answer, however it is framed: sized or in chunks, with an offer of
another protocol, with a question, with trailers, cut anywhere. What comes back out of order, from
another connection, twice or not at all is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 60.0
TOKEN = st.text("abcXYZ09-", min_size=1, max_size=12).map(str.encode)


@dataclass(frozen=True)
class Ask:
    """A request, however it is framed, and its answer.

    Attributes
    ----------
    answer
        What ``read`` makes of the answer's body; None for anything.
    ends
        Whether the connection ends with the answer; None where that is as it comes.
    early
        Whether the answer comes before the body, and not at all after another answer: the requests
        before it have theirs, and the connection ends.
    """

    path: bytes
    content: bytes = b""
    headers: tuple[bytes, ...] = ()
    method: bytes = b"POST"
    status: int = 200
    answer: Any = None
    ends: bool | None = False
    early: bool = False
    read: Callable[[bytes], Any] = bytes


@dataclass(frozen=True)
class Said:
    """A request as it goes out."""

    sent: bytes
    ask: Ask


@dataclass(frozen=True)
class Talk:
    """What a client says on a connection.

    Attributes
    ----------
    cuts
        Where its bytes are cut.
    leaves
        After how many of them it goes away; None for a client that waits for its answers.
    """

    said: tuple[Said, ...]
    cuts: tuple[int, ...] = ()
    leaves: int | None = None


OFFERS = st.sampled_from(
    [
        (),
        (),
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
        (b"connection: upgrade", b"upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        (b"Connection: keep-alive, Upgrade", b"UPGRADE: foo/1, bar/2"),
        (b"Upgrade: TLS/1.0",),
        (b"Connection: close, Upgrade", b"Upgrade: h2c"),
        (b"Connection: close",),
    ]
)
SIZES = st.one_of(
    st.lists(st.integers(1, 40), max_size=8),
    st.sampled_from([1, 2, 3, 1000, 16 << 10]).map(lambda size: [size] * (4096 // size + 1)),
)
EXTENSIONS = st.one_of(st.just(b""), st.builds(b";%b=%b".__mod__, st.tuples(TOKEN, TOKEN)))
TRAILERS = st.lists(st.builds(b"X-%b: %b\r\n".__mod__, st.tuples(TOKEN, TOKEN)), max_size=3)


@st.composite
def chunks(draw, content):
    """Return a body in chunks of any sizes, spelled in any way."""
    parts = []
    start = 0
    sizes, extension = draw(SIZES), draw(EXTENSIONS)
    spelling = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"000000%x"]))
    for size in [*sizes, len(content)]:
        part = content[start : start + size]
        if not part:
            break
        parts.append(spelling % len(part) + extension + b"\r\n" + part + b"\r\n")
        start += size
    return b"".join([*parts, b"0", draw(EXTENSIONS), b"\r\n", *draw(TRAILERS), b"\r\n"])


@st.composite
def framed(draw, ask):
    """Return a request in one of the ways in which it can go out."""
    offers = draw(OFFERS)
    lines = [*ask.headers, *offers]
    if not any(line.lower().startswith(b"host:") for line in lines):
        lines.append(draw(st.sampled_from([b"Host: localhost", b"host: 127.0.0.1:80"])))
    if draw(st.integers(0, 3)) == 0:
        lines.append(b"Expect: 100-continue")
    lines += draw(st.lists(st.builds(b"X-%b: %b".__mod__, st.tuples(TOKEN, TOKEN)), max_size=2))
    if draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        body = draw(chunks(ask.content))
    else:
        lines.append(b"Content-Length: %d" % len(ask.content))
        body = ask.content
    head = [ask.method + b" " + ask.path + b" HTTP/1.1", *draw(st.permutations(lines)), b"", b""]
    if ask.ends is False and any(b"close" in offer for offer in offers):
        ask = Ask(**{**vars(ask), "ends": True})
    return Said(b"\r\n".join(head) + body, ask)


def refused(status, sent):
    return Said(sent, Ask(b"", status=status, ends=True, early=True))


@st.composite
def wrong(draw, path, head_bytes):
    """Return what no server answers but with a refusal, and the end of the connection."""
    head = b"POST " + path + b" HTTP/1.1\r\n"
    host, sized = b"Host: localhost\r\n", b"Content-Length: 3\r\n"
    coded = head + host + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    long = b"x" * (head_bytes + 1)
    many = b"A: b\r\n" * (head_bytes // 3)
    cases = [
        (403, head + b"Host: stranger.example\r\n" + sized + b"\r\nabc"),
        (403, head + host + b"Origin: http://stranger.example\r\n" + sized + b"\r\nabc"),
        (403, head + host + b"Origin: null\r\n" + offer + sized + b"\r\nabc"),
        (403, head + host + b"Sec-Fetch-Site: cross-site\r\n" + sized + b"\r\n"),
        (403, head + host + b"Origin: http://localhost:1\r\nContent-Length: 99999999\r\n\r\n"),
        (400, head + host + host + sized + b"\r\nabc"),
        (405, b"CONNECT localhost:80 HTTP/1.1\r\n" + host + sized + b"\r\nabc"),
        (417, head + host + b"Expect: wonders\r\n" + offer + sized + b"\r\nabc"),
        (400, head + host + sized + b"Content-Length: 4\r\n\r\nabcd"),
        (400, head + host + sized + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, head + host + offer + sized + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, head + host + b"Content-Length: 0x3\r\n\r\nabc"),
        (400, head + b"Host : localhost\r\n\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 3),
        (400, head + host + b"X: " + long + b"\r\n\r\n"),
        (400, head + host + many + b"\r\n"),
        (400, coded + b"zz\r\n"),
        (400, coded + b"-1\r\n"),
        (400, coded + b"fffffffffffffffff\r\n"),
        (400, coded + b"2\r\nabcd\r\n"),
        (400, coded + b"0\r\nX: " + long + b"\r\n\r\n"),
        (400, coded + b"0\r\n" + many + b"\r\n"),
        (400, coded.replace(host, host + offer) + b"0\r\n" + many + b"\r\n"),
        # Longer than what is read at a time: what extends a chunk counts from the next piece on.
        (400, coded + b"1;" + long * 64),
    ]
    return refused(*draw(st.sampled_from(cases)))


@st.composite
def talks(draw, asks, *, head_bytes, path=b"/", most=5):
    """Return what a client says: requests, the last of which may be none."""
    said = [draw(framed(ask)) for ask in draw(st.lists(asks, min_size=1, max_size=most))]
    if draw(st.integers(0, 2)) == 0:
        said.insert(draw(st.integers(0, len(said))), draw(wrong(path, head_bytes)))
    # Whatever follows the end of a connection has no answer.
    ends = [number for number, one in enumerate(said) if one.ask.ends is not False]
    said = said[: ends[0] + 1] if ends else said
    length = sum(len(one.sent) for one in said)
    cuts = draw(st.lists(st.integers(0, length), max_size=6).map(sorted))
    leaves = draw(st.one_of(*[st.none()] * 4, st.integers(0, length)))
    return Talk(tuple(said), tuple(cuts), leaves)


async def hold(address, talk):
    """Say all of it, and hear what must be heard."""
    reader, writer = await asyncio.open_connection(*address, limit=1 << 26)
    speaking = asyncio.ensure_future(_speak(writer, talk))
    try:
        if talk.leaves is None:
            await asyncio.wait_for(_hear(reader, talk), PATIENCE_S)
        else:
            await speaking
    finally:
        speaking.cancel()
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def hold_all(address, all_of_them):
    """Have several connections at a time."""
    await asyncio.gather(*(hold(address, talk) for talk in all_of_them))


async def _speak(writer, talk):
    data = b"".join(one.sent for one in talk.said)[: talk.leaves]
    with contextlib.suppress(ConnectionError):
        start = 0
        for end in [*talk.cuts, len(data)]:
            writer.write(data[start:end])
            await writer.drain()
            await asyncio.sleep(0)
            start = max(start, end)


async def _hear(reader, talk):
    for number, (_, ask) in enumerate((one.sent, one.ask) for one in talk.said):
        found = await _answer(reader)
        if found is None:
            assert ask.early, f"request {number} has no answer: {ask}"
            assert number, "a connection ended without an answer"
            return
        status, body = found
        assert status == ask.status, (number, ask, found)
        if ask.answer is not None:
            assert ask.read(body) == ask.answer, (number, ask, found)
        if ask.ends:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
    # Nobody asked for more.
    more = asyncio.ensure_future(reader.read(1))
    done, _ = await asyncio.wait([more], timeout=0)
    more.cancel()
    assert all(one.result() == b"" for one in done)


_HEAD = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [^\r\n\0]*\r\n((?:[^\s:]+: [^\r\n\0]*\r\n)*)\r\n")


async def _answer(reader):
    """Return the status and the body of the next answer; None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except ConnectionError:
        return None
    except asyncio.IncompleteReadError as error:
        head = error.partial
    if not head:
        return None
    match = _HEAD.fullmatch(head)
    assert match, head
    status = int(match[1])
    if status == 100:
        return await _answer(reader)
    fields = dict(line.lower().split(b": ", 1) for line in match[2].splitlines())
    if fields.get(b"transfer-encoding") == b"chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return status, body
    return status, await reader.readexactly(int(fields.get(b"content-length", b"0")))
