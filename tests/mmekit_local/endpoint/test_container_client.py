"""Connections to a container that are kept, and what ends them."""

import asyncio
import contextlib

import pytest

from mmekit_local.http import HeadError
from mmekit_local.sagemaker.instances.container_client import ContainerClient

PATIENCE = 60
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"


class Container:
    """Answers each request with its number, and says more when told to.

    Attributes
    ----------
    more
        What it sends right behind its first answer.
    requests
        The heads that it has seen.
    """

    def __init__(self, more=b""):
        self.more = more
        self.requests = []
        self.connections = []
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections.append(writer)
        self.began.set()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                body = b"%d" % len(self.requests)
                more, self.more = self.more, b""
                writer.write(ANSWER % (len(body), body) + more)
        self.ended.set()
        writer.close()


def told(story, more=b""):
    async def main():
        container = Container(more)
        server = await asyncio.start_server(container.serve, "127.0.0.1", 0)
        client = ContainerClient(*server.sockets[0].getsockname())
        try:
            await asyncio.wait_for(story(client, container), PATIENCE)
        finally:
            client.close()
            server.close()
            for writer in container.connections:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    asyncio.run(main())


async def asked(client):
    return (await client.invoke(client.only_invocation(), [], b"", PATIENCE)).body


def test_a_connection_is_kept():
    async def story(client, container):
        assert [await asked(client) for _ in range(3)] == [b"1", b"2", b"3"]
        assert len(container.connections) == 1

    told(story)


@pytest.mark.parametrize("more", [ANSWER % (4, b"evil"), b"HTTP/1", b"\r\n" + ANSWER % (1, b"e")])
def test_an_answer_that_nobody_asked_for_is_nobodys(more):
    async def story(client, container):
        assert [await asked(client) for _ in range(3)] == [b"1", b"2", b"3"]
        assert len(container.connections) == 2

    told(story, more)


@pytest.mark.parametrize("more", [ANSWER % (4, b"evil"), b"H", b"\r\n"])
def test_bytes_that_come_while_nobody_waits_end_the_connection(more):
    async def story(client, container):
        assert await asked(client) == b"1"
        container.connections[0].write(more)
        await container.ended.wait()
        assert await asked(client) == b"2"
        assert len(container.connections) == 2

    told(story)


def test_an_answer_may_be_announced():
    async def story(client, container):
        waiting = asyncio.ensure_future(asked(client))
        await container.began.wait()
        container.connections[0].write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        assert await waiting == b"1"
        assert await asked(client) == b"2"

    told(story)


@pytest.mark.parametrize("wrong", [b"a\r\nHost: b", b"a\nb", b"a\rb", b"a\0b", b"a\r\n\r\nGET / "])
def test_no_header_is_more_than_one_line(wrong):
    async def story(client, container):
        with pytest.raises(HeadError):
            await client.invoke(client.only_invocation(), [(b"accept", wrong)], b"", PATIENCE)
        with pytest.raises(HeadError):
            client.invocation("model", wrong.decode())
        assert container.requests == []

    told(story)


def test_headers_are_spelled_as_sagemaker_spells_them():
    async def story(client, container):
        given = [(b"content-type", b"text/csv"), (b"accept", b"*/*")]
        given.append((b"x-amzn-sagemaker-custom-attributes", b"A=1"))
        invocation = client.invocation("model", "a.tar.gz")
        await client.invoke(invocation, given, b"1", PATIENCE)
        async with client.stream(invocation, given, b"1", PATIENCE, PATIENCE) as reply:
            await reply.rest()
        for request in container.requests:
            assert [line.partition(b":")[0] for line in request.splitlines()[1:-1]] == [
                *(b"Host", b"X-Amzn-SageMaker-Target-Model", b"Content-Type", b"Accept"),
                *(b"X-Amzn-SageMaker-Custom-Attributes", b"Content-Length"),
            ]
        assert len(container.requests) == 2

    told(story)
