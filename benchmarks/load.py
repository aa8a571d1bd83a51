"""Closed-loop HTTP load: each connection asks again as soon as it has its answer.

`measure` uses wrk when it is installed, and otherwise this file as a program of its own, so that
the load never shares an interpreter with what it measures::

    python benchmarks/load.py http://127.0.0.1:8080/models/ridge/invoke --data request.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httptools

Tool = Literal["wrk", "python"]

_TOO_LONG_S = 30
_SUCCESS = range(200, 300)
_PERCENTILES = (0.50, 0.95, 0.99, 0.999)

# Response times of wrk are microseconds.
_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "{content_type}"
wrk.body = "{body}"

function done(summary, latency, requests)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{{"requests": %d, "seconds": %f, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f, '
    .. '"p999_ms": %f, "errors": %d}}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Target:
    """What to send, and where to.

    Attributes
    ----------
    url
        ``http://host:port/path``.
    """

    url: str
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Load:
    """What came of it.

    Attributes
    ----------
    p50_ms, p95_ms, p99_ms, p999_ms
        Percentiles of the response times, in milliseconds; the last is that of 99.9 %.
    errors
        Requests without an answer, or with one that is no success.
    """

    tool: str
    connections: int
    requests: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    errors: int

    @property
    def requests_per_second(self) -> float:
        """Answers in a second, over all connections."""
        return self.requests / self.seconds


def measure(target: Target, connections: int, seconds: int, tool: Tool | None = None) -> Load:
    """Put load on a server.

    Parameters
    ----------
    tool
        None takes wrk when it is installed.

    Raises
    ------
    RuntimeError
        The tool failed; the text is what it said.
    """
    tool = tool or ("wrk" if shutil.which("wrk") else "python")
    with tempfile.TemporaryDirectory(prefix="mme-load-") as name:
        command = _COMMANDS[tool](target, connections, seconds, Path(name))
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + _TOO_LONG_S
        )
    if finished.returncode != 0:
        raise RuntimeError(f"{tool} failed: {finished.stderr or finished.stdout}")
    return Load(tool=tool, connections=connections, **json.loads(finished.stderr))


def _wrk_command(target: Target, connections: int, seconds: int, folder: Path) -> list[str]:
    # Lua reads any byte as \ddd.
    body = "".join(f"\\{byte:03d}" for byte in target.body)
    script = folder / "request.lua"
    script.write_text(_WRK_SCRIPT.format(content_type=target.content_type, body=body))
    counts = ["--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    # Whatever takes longer is an error, and no response time.
    counts += ["--timeout", f"{seconds + _TOO_LONG_S}s"]
    return ["wrk", *counts, "--script", str(script), target.url]


def _python_command(target: Target, connections: int, seconds: int, folder: Path) -> list[str]:
    body = folder / "request"
    body.write_bytes(target.body)
    options = {
        "--data": str(body),
        "--content-type": target.content_type,
        "--connections": str(connections),
        "--seconds": str(seconds),
    }
    pairs = [part for option in options.items() for part in option]
    return [sys.executable, __file__, target.url, *pairs]


_COMMANDS = {"wrk": _wrk_command, "python": _python_command}


class _Connection(asyncio.Protocol):
    """One connection; its response times are kept in seconds."""

    def __init__(self, request: bytes, deadline: float) -> None:
        self.times: list[float] = []
        self.errors = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._deadline = deadline
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        self.times.append(now - self._asked)
        if self._parser.get_status_code() not in _SUCCESS:
            self.errors += 1
        if now < self._deadline:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        # A server that hangs up early leaves a request without its answer.
        self.errors += time.perf_counter() < self._deadline
        if not self.ended.done():
            self.ended.set_result(None)

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(self._request)


async def _generate(target: Target, connections: int, seconds: float) -> dict[str, float]:
    address = urlsplit(target.url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    head = (
        f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: {target.content_type}\r\nContent-Length: {len(target.body)}\r\n\r\n"
    )
    request = head.encode() + target.body
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: _Connection(request, began + seconds), host, port)
        for _ in range(connections)
    ]
    protocols = [protocol for _, protocol in opened]
    await asyncio.gather(*(protocol.ended for protocol in protocols))
    elapsed = time.perf_counter() - began
    times = sorted(one for protocol in protocols for one in protocol.times)
    p50, p95, p99, p999 = (_percentile(times, share) * 1000 for share in _PERCENTILES)
    return {
        "requests": len(times),
        "seconds": elapsed,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "p999_ms": p999,
        "errors": sum(protocol.errors for protocol in protocols),
    }


def _percentile(times: list[float], share: float) -> float:
    """Return the smallest time that at least this share of all times does not exceed."""
    if not times:
        return float("nan")
    return times[min(len(times) - 1, int(share * len(times)))]


def main() -> None:
    """Put load on a URL and say what came of it, as JSON on standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--content-type", default="application/json")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    target = Target(arguments.url, arguments.data.read_bytes(), arguments.content_type)
    generating = _generate(target, arguments.connections, arguments.seconds)
    try:
        import uvloop  # not on Windows
    except ImportError:
        found = asyncio.run(generating)
    else:
        found = uvloop.run(generating)
    print(json.dumps(found), file=sys.stderr)


if __name__ == "__main__":
    main()
