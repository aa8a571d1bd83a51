"""Puts a load on a destination, by our generator or by wrk, and waits for what it found.

wrk is what ours is held against: the same requests, in a closed loop. Source:
https://github.com/wg/wrk, whose Lua interface this uses.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from mmekit.errors import EndpointError, MmekitError
from mmekit.interpreter import module_command
from mmekit_bench.plan import Destination, LoadPlan, Payload
from mmekit_bench.recording import messages
from mmekit_bench.requests import RequestHeads
from mmekit_bench.result import FORMAT, Load, LoadResult, this_machine, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit_bench.recording import GeneratorMessage, LoadProgress

__all__ = [
    "Target",
    "Tool",
    "is_wrk_installed",
    "measure",
    "put_load",
    "put_load_with_wrk",
    "require_wrk",
]

Tool = Literal["wrk", "python"]

_TOO_LONG_S = 30

# Response times of wrk are microseconds.
_SCRIPT = """
local requests, shares = {}, {}
math.randomseed(%(seed)d)

function init(args)
  local body = "%(body)s"
%(requests)s
end

function request()
  if #requests == 1 then return requests[1] end
  local drawn = math.random()
  for number = 1, #shares do
    if drawn < shares[number] then return requests[number] end
  end
  return requests[#requests]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"requests": %%d, "seconds": %%f, "percentiles_us": [%%f, %%f, %%f, %%f], "errors": %%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(95),
    latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def put_load(plan: LoadPlan, tell: Callable[[LoadProgress], None] | None = None) -> LoadResult:
    """Put a load on a destination.

    SIGINT ends it early, and what was found until then is returned; a second one raises
    KeyboardInterrupt.

    Parameters
    ----------
    plan
        What the load is to be.
    tell
        Is told how far it is, about every second.

    Raises
    ------
    EndpointError
        Nobody answers there.
    MmekitError
        The plan makes no sense, or the generator itself failed.
    ModuleNotFoundError
        The extra `bench` is not installed.
    """
    import httptools  # noqa: F401 - who lacks what the generator needs is to hear of it here

    plan.check()  # before anything is started
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine = this_machine()
    with (
        # A file and no pipe: nobody reads it until the end, and a full pipe would stop the load.
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            module_command("mmekit_bench.generator"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # Ctrl-C is for us to pass on
        ) as process,
        _passing_on_interrupts(process) as interrupted,
    ):
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise AssertionError  # both are pipes
        _send(stdin, plan)
        last = _listen(stdout, tell)
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        process.wait()
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()
    if last is None or last.recording is None:
        raise _failure(last, said)
    return LoadResult(
        format=FORMAT,
        started=started,
        plan=plan,
        recording=last.recording,
        machine=machine,
        versions=versions(),
        interrupted=interrupted.is_set(),
    )


def is_wrk_installed() -> bool:
    """Return whether there is a wrk on the PATH."""
    return shutil.which("wrk") is not None


def require_wrk() -> None:
    """Make sure that there is a wrk.

    Raises
    ------
    MmekitError
        There is none.
    """
    if not is_wrk_installed():
        raise MmekitError(
            "wrk is not installed.",
            where="PATH",
            remedy="Install it: apt install wrk, or brew install wrk.",
        )


def put_load_with_wrk(plan: LoadPlan, seconds: int) -> Load:
    """Put a plan's requests on its destination with wrk, in a closed loop of even level.

    Parameters
    ----------
    seconds
        How long.

    Raises
    ------
    MmekitError
        wrk is not installed, or failed.
    """
    require_wrk()
    with tempfile.TemporaryDirectory(prefix="mme-bench-") as folder:
        script = Path(folder, "requests.lua")
        script.write_bytes(_script(plan))
        command = ["wrk", "--threads", "1", "--connections", str(plan.connections)]
        command += ["--duration", f"{seconds}s"]
        # Whatever takes longer is an error, and no response time.
        command += ["--timeout", f"{seconds + _TOO_LONG_S}s"]
        finished = subprocess.run(
            [*command, "--script", str(script), plan.destination.origin],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 2 * _TOO_LONG_S,
        )
    if finished.returncode != 0:
        raise MmekitError(
            f"wrk failed: {(finished.stderr or finished.stdout).strip()}",
            where=plan.destination.url,
        )
    # The script writes there: standard output has wrk's own report, which is for people.
    found = json.loads(finished.stderr)
    p50, p95, p99, p999 = (value / 1e3 for value in found["percentiles_us"])
    return Load(
        tool="wrk",
        connections=plan.connections,
        requests=found["requests"],
        seconds=found["seconds"],
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        errors=found["errors"],
    )


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


def measure(target: Target, connections: int, seconds: int, tool: Tool | None = None) -> Load:
    """Put load on a server: so many requests are under way at any time.

    Parameters
    ----------
    tool
        ``python`` is the generator of `mme bench`. None takes wrk when it is installed.

    Raises
    ------
    EndpointError
        Nobody answers.
    MmekitError
        The tool failed.
    """
    plan = LoadPlan(
        Destination.of_url(target.url),
        Payload(target.body, target.content_type),
        (target.url,),
        connections=connections,
        duration=float(seconds),
    )
    if tool == "wrk" or (tool is None and is_wrk_installed()):
        return put_load_with_wrk(plan, seconds)
    return put_load(plan).load


def _send(stdin: IO[bytes], plan: LoadPlan) -> None:
    with contextlib.suppress(BrokenPipeError):  # then it says why on standard error
        stdin.write(TypeAdapter(LoadPlan).dump_json(plan) + b"\n")
        stdin.flush()


def _listen(
    stdout: IO[bytes], tell: Callable[[LoadProgress], None] | None
) -> GeneratorMessage | None:
    """Read until the generator ends; return its last message."""
    message = None
    for line in stdout:
        message = messages.validate_json(line)
        if message.progress is not None and tell is not None:
            tell(message.progress)
    return message


def _failure(last: GeneratorMessage | None, said: str) -> MmekitError:
    if last is not None and last.failure is not None:
        failure = last.failure
        return EndpointError(failure.what, where=failure.where, remedy=failure.remedy)
    return MmekitError(
        "The load generator failed.", where="mmekit_bench.generator", remedy=said or None
    )


@contextlib.contextmanager
def _passing_on_interrupts(process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Let the first SIGINT end the load, whose generator ends with its standard input."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals are none of this thread's business
        return

    def pass_on(_number: int, _frame: Any) -> None:
        if interrupted.is_set():
            process.kill()
            raise KeyboardInterrupt
        interrupted.set()
        if process.stdin is not None:
            process.stdin.close()

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield interrupted
    except BaseException:
        process.kill()
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _script(plan: LoadPlan) -> bytes:
    heads = RequestHeads(plan.destination, plan.targets, plan.payload)
    shares = accumulate(plan.shares)
    lines = []
    # Signed once for all of wrk's requests: AWS takes a signature for five minutes, and for an
    # endpoint wrk is asked for ten seconds at most.
    for number, share in enumerate(shares):
        fields = heads.headers(number).items()
        headers = ", ".join(f"[{_quoted(name)}] = {_quoted(value)}" for name, value in fields)
        path = _quoted(heads.path(number))
        lines.append(f'  requests[#requests + 1] = wrk.format("POST", {path}, {{{headers}}}, body)')
        lines.append(f"  shares[#shares + 1] = {share!r}")
    script = _SCRIPT % {
        "seed": plan.seed,
        "body": _escaped(plan.payload.body),
        "requests": "\n".join(lines),
    }
    return script.encode()


def _quoted(text: str) -> str:
    return f'"{_escaped(text.encode())}"'


def _escaped(data: bytes) -> str:
    r"""Write any bytes as Lua reads them in a string: \ddd."""
    # Three digits always: Lua would take a digit that follows for one of them.
    return "".join(f"\\{byte:03d}" for byte in data)
