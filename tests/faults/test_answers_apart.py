"""Each client gets its own answer and nobody else's, whoever leaves meanwhile."""

from __future__ import annotations

import asyncio
import random

import pytest

CLIENTS = 16
LEFT, WANTED, ANSWERED = 0.02, 0.9, b"HTTP/1.1 200"


class Client:
    """Asks what nobody else asks, and sometimes leaves before, or while, it is answered."""

    def __init__(self, port: int, name: str, number: int) -> None:
        self.answered = self.left = 0
        self.wrong: list[str] = []
        self._port, self._name, self._number = port, name, number
        self._chance = random.Random(number)  # noqa: S311  so that a run can be repeated

    async def ask(self, count: int) -> None:
        reader, writer = await self._connect()
        for turn in range(count):
            own = self._number * 10_000_000 + turn
            # Bodies, and answers, of many lengths: what is cut at a wrong place shows.
            body = f"'{own}' + '.' * {own % 700}".encode()
            head = f"POST /models/{self._name}/invoke HTTP/1.1\r\nHost: localhost\r\n"
            request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
            if self._chance.random() < LEFT:
                writer.write(request[: self._chance.randrange(1, len(request) + 1)])
                await writer.drain()
                if self._chance.random() < 1 / 2:
                    await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=0.002)
                writer.transport.abort()
                self.left += 1
                reader, writer = await self._connect()
                continue
            writer.write(request)
            status, content = await self._read(reader)
            self.answered += 1
            if not status.startswith(ANSWERED) or content != b"%d" % own + b"." * (own % 700):
                self.wrong.append(f"{own}: {status!r} {content[:80]!r}")
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
        status, _, headers = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        for line in headers.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                return status, await reader.readexactly(int(value))
        raise AssertionError(status + headers)


async def ask_all(port: int, name: str, count: int) -> list[Client]:
    clients = [Client(port, name, number) for number in range(CLIENTS)]
    await asyncio.gather(*(client.ask(count // CLIENTS) for client in clients))
    return clients


@pytest.mark.parametrize(
    ("slots", "count"),
    [
        pytest.param(True, 4_000, id="slots"),
        pytest.param(False, 4_000, id="plain"),
        pytest.param(True, 127_000, id="slots-long", marks=pytest.mark.thorough),
        pytest.param(False, 127_000, id="plain-long", marks=pytest.mark.thorough),
    ],
)
def test_no_answer_is_anothers_though_clients_leave_all_the_while(server, model, slots, count):
    name = server.loaded(model(slots=slots, minWorkers=1, maxWorkers=4))

    clients = asyncio.run(ask_all(server.port, name, count))

    assert [wrong for client in clients for wrong in client.wrong] == []
    assert sum(client.answered for client in clients) > WANTED * count
    assert all(client.left for client in clients)
    assert server.value(name, "1 + 1") == "2"
    assert server.described(name)["requestInQueue"] == 0
    assert "Traceback" not in server.log
