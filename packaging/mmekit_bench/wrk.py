"""wrk, the load generator that ours is held against: the same requests, in a closed loop.

Source: https://github.com/wg/wrk, whose Lua interface this uses.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.errors import MmekitError
from mmekit_bench.destination import Heads
from mmekit_bench.result import Load

if TYPE_CHECKING:
    from mmekit_bench.plan import Plan

__all__ = ["is_installed", "put_load_with_wrk", "require_wrk"]

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


def is_installed() -> bool:
    """Return whether there is a wrk on the PATH."""
    return shutil.which("wrk") is not None


def require_wrk() -> None:
    """Make sure that there is a wrk.

    Raises
    ------
    MmekitError
        There is none.
    """
    if not is_installed():
        raise MmekitError(
            "wrk is not installed.",
            where="PATH",
            remedy="Install it: apt install wrk, or brew install wrk.",
        )


def put_load_with_wrk(plan: Plan, seconds: int) -> Load:
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


def _script(plan: Plan) -> bytes:
    heads = Heads(plan.destination, plan.targets, plan.payload)
    shares = accumulate(plan.shares)
    lines = []
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
    return "".join(f"\\{byte:03d}" for byte in data)
