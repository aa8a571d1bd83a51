"""The environments of a server's models: each made once, whoever asks for it first.

Each is made by a process of its own, which can be ended with the server whatever uv or the build of
a distribution is busy with. It reads the specification from standard input and prints what it does;
its last line is the environment's Python, or why there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.errors import MmekitError
from mmekit.uv import find_uv, run_uv, uv_variables
from mmekit_local.environments import made_once
from mmekit_local.redaction import redacted
from mmekit_local.server import errors
from mmekit_local.server.environment_spec import HEAVY, EnvironmentSpec
from mmekit_local.server.requirements import shown
from mmekit_local.server.worker import end_with_server

if TYPE_CHECKING:
    from collections.abc import Sequence

_logger = logging.getLogger("mmekit.server")

_PROGRAM = "from mmekit_local.server.environments import main; raise SystemExit(main())"
_UNINDEXED = "DJL_OFFLINE"
"""With ``true`` DJL Serving has pip ask no index, where there are wheels beside the file."""

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
    """Makes environments, and knows those that are being made."""

    def __init__(self) -> None:
        self._making: dict[str, asyncio.Task[None]] = {}

    async def python_of(self, spec: EnvironmentSpec) -> str:
        """Return the Python of an environment, which is made when it is not there yet.

        Raises
        ------
        Refusal
            It cannot be made; uv's reason is said.
        """
        python = spec.interpreter
        if not await asyncio.to_thread(python.exists):
            making = self._making.get(spec.key)
            if making is None:
                making = self._making[spec.key] = asyncio.create_task(_make_in_process(spec))
                making.add_done_callback(lambda done: self._made(spec.key, done))
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


async def _make_in_process(spec: EnvironmentSpec) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM),
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
    reading = asyncio.create_task(_read(process.stdout, spec.key, said))
    try:
        process.stdin.write(spec.to_json())
        process.stdin.close()
        await asyncio.wait((reading,), timeout=_MAKING_S)
        if reading.done():
            await process.wait()
        else:
            said.append(f"error: it was not made within {_MAKING_S:.0f} s")
    finally:
        reading.cancel()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # With uv, and whatever the build of a distribution has started.
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


# In the process.


def _make(spec: EnvironmentSpec) -> Path:
    """Return the Python of an environment, which is made when it is not there yet."""

    def fill(scratch: Path, made: Path) -> None:
        _fill(spec, scratch, made)

    return made_once(spec.key, f"on Python {spec.version}", fill)


def _fill(spec: EnvironmentSpec, scratch: Path, made: Path) -> None:
    # Relocatable: the scripts in bin/ name no folder, so that it can be renamed.
    venv = ["venv", "--quiet", "--relocatable", "--no-python-downloads", "--no-project"]
    run_uv([*venv, "--python", spec.python, str(made)], scratch)
    site = next(made.glob("lib/python*/site-packages"))
    for name, version in spec.linked:
        _link(name, version, site)
    if spec.below:
        # A plain path would do for modules, and not for the .pth files beside them.
        lines = [f"import site; site.addsitedir({path!r})" for path in spec.below]
        (site / "_below.pth").write_text("\n".join([*lines, ""]))
    install = ["pip", "install", "--python", str(made / "bin" / "python")]
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        install.append("--compile-bytecode")  # otherwise by whoever imports it first
    asked = [*install, *_asked(spec, scratch)]
    if spec.wanted.lines:
        _logger.info("what requirements.txt asks for: %s", ", ".join(map(shown, spec.wanted.lines)))
    if spec.spare and not _can_spare(asked, scratch):
        for name, version in spec.spare:
            _link(name, version, site)
    if spec.base:
        _logger.info("what the image has: %s", ", ".join(spec.base))
        # The image has the build for CPUs; PyPI's for Linux brings the libraries of CUDA.
        on_cpus = any(line.startswith("torch") for line in spec.base)
        run_uv([*install, *(("--torch-backend", "cpu") if on_cpus else ()), *spec.base], scratch)
    if spec.wanted.lines:
        run_uv(asked, scratch)


def _asked(spec: EnvironmentSpec, scratch: Path) -> list[str]:
    """Return what uv is told of a requirements.txt."""
    file = scratch / "requirements.txt"
    file.write_text("\n".join([*spec.wanted.lines, ""]))
    told = [*spec.wanted.options, "--requirement", str(file)]
    if spec.wanted.constraints:
        constraints = scratch / "constraints.txt"
        constraints.write_text("\n".join([*spec.wanted.constraints, ""]))
        told += ["--constraint", str(constraints)]
    if spec.links is not None:
        told += ["--find-links", spec.links]
        if os.environ.get(_UNINDEXED, "").lower() == "true":
            told.append("--no-index")
    return told


def _can_spare(asked: Sequence[str], folder: Path) -> bool:
    """Whether what is asked for brings nothing of the large things that the image has."""
    done = subprocess.run(
        [find_uv(), *asked, "--dry-run"],
        cwd=folder,
        env=uv_variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, flush=True)  # noqa: T201
        done.check_returncode()
    brought = {line.split("==")[0].strip(" +") for line in done.stdout.splitlines()}
    return brought.isdisjoint(HEAVY)


def _link(name: str, version: str, site: Path) -> None:
    """Give an environment a distribution of this one; what is shared takes no room."""
    distribution = importlib.metadata.distribution(name)
    if distribution.version != version:
        return  # it has been replaced meanwhile; uv will fetch it
    for entry in distribution.files or ():
        if ".." in entry.parts:
            continue  # a script of bin/, which names this environment's Python
        source = Path(str(distribution.locate_file(entry)))
        # A .pyc holds its source's time and size: it counts for a linked source as well.
        compiled = (
            source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        )
        for one in (source, compiled) if source.suffix == ".py" else (source,):
            target = site / one.relative_to(Path(str(distribution.locate_file(""))))
            if one.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(one, target)
                except OSError:  # on another disk
                    target.symlink_to(one)


def main() -> int:
    """Make the environment that standard input describes, and print its Python; 1 if it cannot."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    spec = EnvironmentSpec.from_json(sys.stdin.buffer.read())
    try:
        print(_make(spec), flush=True)  # noqa: T201
    except MmekitError as error:
        print(f"error: {error.what}: {error.remedy}", flush=True)  # noqa: T201
        return 1
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}", flush=True)  # noqa: T201
        return 1
    except subprocess.CalledProcessError:
        return 1  # uv has said why
    return 0
