"""The environments of a server's models: each made once, whoever asks for it first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING

from mmekit_local.redaction import redacted
from mmekit_local.server import errors
from mmekit_local.server.worker import end_with_server

if TYPE_CHECKING:
    from mmekit_local.server.environment_spec import EnvironmentSpec

_logger = logging.getLogger("mmekit.server")

_MAKING_S = 3600.0
_KEPT = 60  # lines
_LONGEST = 1500
_LONGEST_LINE = 1 << 22
# What uv says on its way, and what it draws around its reasons.
_PROGRESS = re.compile(
    r"(Using|Creating|Activate|Resolved|Prepared|Installed|Uninstalled|Audited|Downloading|Checked"
    r"|Downloaded|Building|Built|Updating|Updated|Bytecode|warning:|making|what the image"
    r"|what requirements)"
    r"|[+~-] "
)
_DRAWN = re.compile("[\u00d7\u2500-\u257f\u25b6]+")


class Environments:
    """Makes environments by recipes, and knows those that are being made."""

    def __init__(self) -> None:
        self._making: dict[str, asyncio.Task[None]] = {}

    async def python_of(self, recipe: EnvironmentSpec) -> str:
        """Return the Python of an environment, which is made when it is not there yet.

        Raises
        ------
        Refusal
            It cannot be made; uv's reason is said.
        """
        python = recipe.interpreter
        if not await asyncio.to_thread(python.exists):
            making = self._making.get(recipe.key)
            if making is None:
                making = self._making[recipe.key] = asyncio.create_task(_make(recipe))
                making.add_done_callback(lambda done: self._made(recipe.key, done))
            # Others wait for it too, and the next load wants it even if this one is given up.
            try:
                await asyncio.shield(making)
            except asyncio.CancelledError:
                if not making.cancelled():
                    raise
                raise errors.load_failed("the server ends", "ModelException") from None
        return str(python)

    def _made(self, key: str, done: asyncio.Task[None]) -> None:
        del self._making[key]
        if not done.cancelled():
            done.exception()  # whoever waits for it has it, if anybody still does

    async def close(self) -> None:
        """End what is being made."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)


async def _make(recipe: EnvironmentSpec) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mmekit_local.server.making"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LONGEST_LINE,
        start_new_session=True,
        preexec_fn=end_with_server,
    )
    assert process.stdin is not None  # noqa: S101  asked for
    assert process.stdout is not None  # noqa: S101
    said: deque[str] = deque(maxlen=_KEPT)
    reading = asyncio.create_task(_read(process.stdout, recipe.key, said))
    try:
        process.stdin.write(recipe.to_json())
        process.stdin.close()
        await asyncio.wait((reading,), timeout=_MAKING_S)
        if reading.done():
            await process.wait()
        else:
            said.append(f"error: it was not made within {_MAKING_S:.0f} s")
    finally:
        reading.cancel()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode:
        message = (
            f"requirements.txt asks for what cannot be installed: {_reason(said)}. Correct it, or "
            "connect to the network (a mirror is named by UV_DEFAULT_INDEX or PIP_INDEX_URL) and "
            "load the model again; in the container pip would fail as well, and the model be "
            "loaded without"
        )
        raise errors.load_failed(message, "ModelException")


async def _read(stream: asyncio.StreamReader, key: str, said: deque[str]) -> None:
    async for line in stream:
        text = line.decode(errors="replace").rstrip()
        said.append(text)
        _logger.info("environment %s: %s", key, text)


def _reason(said: deque[str]) -> str:
    lines = [line.strip() for line in said if line.strip()]
    reasons = [line for line in lines if not _PROGRESS.match(line)]
    text = " ".join(_DRAWN.sub(" ", " ".join(reasons or lines[-1:])).split())
    text = redacted(text.removeprefix("error: ")).rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
