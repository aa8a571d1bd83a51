"""`mme demo`: execute the notebooks against a local endpoint, and show what came of it.

One endpoint service serves all notebooks; each notebook runs in a kernel of its own. Notebook 5
makes the endpoint, and before it deletes that, notebook 9 asks it as well: as one who reads them
would do it. What they leave is under build/: artifacts/, archives/, the executed notebooks/,
results.json and the service's endpoint.log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mmekit.aws_environment import program_environment
from mmekit.errors import DemoError
from mmekit.settings import Settings
from mmekit_local.companion import local_endpoint
from mmekit_local.demo_progress import DemoProgress
from mmekit_local.notebook import Notebook
from mmekit_local.ports import free_port

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType

    _Stops = Mapping[str, Callable[[], Awaitable[object]]]

__all__ = ["Result", "run"]

# Those that train need nothing of each other. Training SetFit takes as long as the others
# together, so two kernels side by side keep two cores busy.
_LANE = ("0_set_up", "1_linear_regression", "2_extra_trees_classifier", "3_multi_output_classifier")
_SETFIT = "4_setfit_classifier"
_ENDPOINT = "5_multi_model_endpoint"
_TABLES = "9_tables"
# Where notebook 9 begins to ask an endpoint, and where notebook 5 deletes it.
_ASK, _CLEAN_UP = "Ask the endpoint", "Clean up"


@dataclass(frozen=True)
class Result:
    """How one model class did at the endpoint.

    Attributes
    ----------
    model
        The name of its package.
    cold_ms, warm_ms
        Milliseconds that its first call took, and the median of the later ones.
    answer
        Its predictions for the sample request, as JSON.
    """

    model: str
    cold_ms: float
    warm_ms: float
    answer: str


def run(root: Path | None = None, *, console: Console | None = None) -> tuple[Result, ...]:
    """Execute all notebooks and print the table of results.

    Parameters
    ----------
    root
        The repository's folder; the working folder unless it is given.
    console
        Where progress and table go; standard output unless it is given.

    Raises
    ------
    DemoError
        ``root`` has no notebooks, another demonstration is under way there, the endpoint service
        did not start, or a cell failed: names the notebook and the cell, and has the last lines
        of its error.
    """
    root = (root or Path.cwd()).resolve()
    console = console or Console()
    notebooks = {
        name: _read(root / "notebooks" / f"{name}.ipynb")
        for name in (*_LANE, _SETFIT, _ENDPOINT, _TABLES)
    }
    build = root / "build"
    (build / "notebooks").mkdir(parents=True, exist_ok=True)
    results = build / "results.json"
    started = time.monotonic()
    with (
        _ended_by_signals(),
        _alone_in(build),
        tempfile.TemporaryDirectory(prefix="mme-demo-", ignore_cleanup_errors=True) as scratch,
        _endpoint(build / "endpoint.log") as url,
        DemoProgress(console, list(notebooks.values())) as progress,
    ):
        results.unlink(missing_ok=True)
        region = Settings(target="local").region
        environment = program_environment(os.environ, url, region)
        environment |= {"MME_TARGET": "local", "TMPDIR": scratch}

        async def execute(name: str, stops: _Stops | None = None) -> None:
            await notebooks[name].execute(root, build / "notebooks", environment, progress, stops)

        _run_beside_main_thread(lambda: _in_order(execute))
    found = tuple(Result(**row) for row in json.loads(results.read_text()))
    console.print(_table(found))
    console.print(f"{len(notebooks)} notebooks in {time.monotonic() - started:.0f} s; see {build}")
    return found


def _read(path: Path) -> Notebook:
    if not path.is_file():
        raise DemoError(
            "A notebook of the demonstration is missing.",
            where=str(path),
            remedy="run it in the folder of the repository, where notebooks/ is",
        )
    return Notebook.read(path)


def _table(results: Sequence[Result]) -> Table:
    table = Table("model class", title=f"one endpoint, {len(results)} models")
    table.add_column("cold ms", justify="right")
    table.add_column("warm ms", justify="right")
    table.add_column("answer")
    for result in results:
        table.add_row(
            result.model, f"{result.cold_ms:,.0f}", f"{result.warm_ms:,.1f}", result.answer
        )
    return table


async def _in_order(execute: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """Execute the notebooks: two side by side that train, and two that take turns to ask."""
    packed, served, asked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hand_over(done: asyncio.Event, wanted: asyncio.Event) -> None:
        done.set()
        await wanted.wait()

    async def tables_last() -> None:
        for name in _LANE:
            await execute(name)
        await execute(_TABLES, {_ASK: lambda: hand_over(packed, served)})
        packed.set()  # also when somebody has taken the heading away
        asked.set()

    async def endpoint_last() -> None:
        await execute(_SETFIT)
        await packed.wait()
        await execute(_ENDPOINT, {_CLEAN_UP: lambda: hand_over(served, asked)})
        served.set()

    await _together([tables_last(), endpoint_last()])


async def _together(lanes: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines side by side; when one fails, end the others before the error goes on."""
    tasks = [asyncio.ensure_future(lane) for lane in lanes]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _run_beside_main_thread(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a thread, and cancel it when the main thread is interrupted.

    In the main thread nbclient would take SIGINT and SIGTERM for itself, once a kernel, so that
    only the last of several kernels would hear of it.
    """
    interrupted = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def cancellable() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report)
        task = asyncio.ensure_future(main())
        running.append((loop, task))
        if interrupted.is_set():
            task.cancel()
        await task

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # What nbclient left half done when it was cancelled is no news.
        if not interrupted.is_set():
            loop.default_exception_handler(context)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(asyncio.run, cancellable())
        try:
            future.result()
        except KeyboardInterrupt:
            interrupted.set()
            for loop, task in running:
                with contextlib.suppress(RuntimeError):  # it has just ended by itself
                    loop.call_soon_threadsafe(task.cancel)
            wait([future])  # however that ends: the interruption is why
            raise


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C, so that they clear up as well.

    Whatever fails after one of the three fails because of it, and is not reported instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    heard: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup has it
    }
    try:
        yield
    except Exception:
        if heard:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _alone_in(build: Path) -> Iterator[None]:
    """Keep a second demonstration out of a folder build/ for as long as the block runs."""
    if fcntl is None:
        yield
        return
    lock = build / "demo.lock"
    with lock.open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                "Another demonstration uses this folder build/.",
                where=str(build),
                remedy="wait until it has ended, or end it",
            ) from None
        yield


def _endpoint(log: Path) -> AbstractContextManager[str]:
    port = free_port()
    return local_endpoint(["--port", str(port)], "127.0.0.1", port, log)
