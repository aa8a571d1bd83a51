"""A container for load tests, whose models do what their names say.

``slow-50`` takes 50 ms, ``cold`` 200 ms until it has answered once, ``status-507`` refuses,
``close`` ends the connection after its answer, ``hangup`` before it, ``silent`` never answers and
``stall-20`` stops the whole server for half a second at its twentieth request. ``GET /seen`` tells
how often each was asked, and the most requests that were there at once.
"""

import asyncio
import json
import sys
import threading
import time
from collections import Counter

import httptools

seen = Counter()
heads = {}
answered = set()
at_once = {"now": 0, "most": 0}


class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_message_begin(self):
        self.headers, self.body = {}, b""

    def on_url(self, url):
        self.url = url.decode()

    def on_header(self, name, value):
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        if self.url == "/seen":
            self.write(200, {"count": seen, "heads": heads, "most": at_once["most"]})
            return
        at_once["now"] += 1
        at_once["most"] = max(at_once["most"], at_once["now"])
        name = self.url.split("/")[2] if self.url.count("/") > 1 else self.url
        seen[name] += 1
        heads[name] = {"headers": self.headers, "body": self.body.decode(), "url": self.url}
        kind, _, number = name.partition("-")
        later = asyncio.get_running_loop().call_later
        if kind == "slow":
            later(int(number) / 1000, self.answer, 200)
        elif kind == "cold" and name not in answered:
            later(0.2, lambda: (answered.add(name), self.answer(200)))
        elif kind == "status":
            self.answer(int(number), {"code": int(number), "type": "OutOfMemoryException"})
        elif kind == "hangup":
            self.transport.close()
        elif kind == "silent":
            return
        else:
            if kind == "stall" and seen[name] == int(number):
                time.sleep(0.5)
            self.answer(200)
            if kind == "close":
                self.transport.close()

    def answer(self, status, content=None):
        at_once["now"] -= 1
        self.write(status, content)

    def write(self, status, content):
        body = json.dumps(content or {"ok": True}).encode()
        head = f"HTTP/1.1 {status} So\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


async def main():
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def end_with_standard_input():
    sys.stdin.buffer.read()
    loop.call_soon_threadsafe(loop.stop)


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    serving = loop.create_task(main())
    loop.run_forever()
    serving.cancel()
