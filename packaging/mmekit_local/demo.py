"""`mme demo`: execute the notebooks against a local endpoint, and show what came of it.

One endpoint service serves all notebooks; each notebook runs in a kernel of its own. Notebook 5
makes the endpoint, and before it deletes that, notebook 9 asks it as well: as one who reads them
would do it. What they leave is under build/: artifacts/, archives/, the executed notebooks/,
results.json and the service's endpoint.log.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import re
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mmekit.aws_environment import program_environment
from mmekit.errors import DemoError
from mmekit.plural import counted
from mmekit.printing import TextTable, show
from mmekit.settings import Settings
from mmekit_local.companion import local_endpoint
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

__all__ = ["ModelResult", "run"]

# Those that train need nothing of each other. Training SetFit takes as long as the others
# together, so two kernels side by side keep two cores busy.
_LANE = ("0_set_up", "1_linear_regression", "2_extra_trees_classifier", "3_multi_output_classifier")
_SETFIT = "4_setfit_classifier"
_ENDPOINT = "5_multi_model_endpoint"
_TABLES = "9_tables"
# Where notebook 9 begins to ask an endpoint, and where notebook 5 deletes it.
_ASK, _CLEAN_UP = "Ask the endpoint", "Clean up"

_CELL_SECONDS = 600
_ERROR_LINES = 12
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class ModelResult:
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


def run(root: Path | None = None, *, console: Console | None = None) -> tuple[ModelResult, ...]:
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
    progress = _Progress(console, list(notebooks.values()))
    build = root / "build"
    (build / "notebooks").mkdir(parents=True, exist_ok=True)
    results = build / "results.json"
    started = time.monotonic()
    with (
        _ended_by_signals(),
        _alone_in(build),
        tempfile.TemporaryDirectory(prefix="mme-demo-", ignore_cleanup_errors=True) as scratch,
        _endpoint(build / "endpoint.log") as url,
        progress.bars,
    ):
        results.unlink(missing_ok=True)
        region = Settings(target="local").region
        environment = program_environment(os.environ, url, region)
        environment |= {"MME_TARGET": "local", "TMPDIR": scratch}

        async def execute(name: str, stops: _Stops | None = None) -> None:
            await notebooks[name].execute(root, build / "notebooks", environment, progress, stops)

        _run_beside_main_thread(lambda: _in_order(execute))
    found = tuple(ModelResult(**row) for row in json.loads(results.read_text()))
    show(_table(found), console=console)
    console.print(
        f"{counted(len(notebooks), 'notebook')} in {time.monotonic() - started:.0f} s; see {build}"
    )
    return found


def _read(path: Path) -> _Notebook:
    if not path.is_file():
        raise DemoError(
            "A notebook of the demonstration is missing.",
            where=str(path),
            remedy="run it in the folder of the repository, where notebooks/ is",
        )
    return _Notebook.read(path)


def _table(results: Sequence[ModelResult]) -> TextTable:
    heads = ("model class", "cold ms", "warm ms", "answer")
    rows = (
        (result.model, f"{result.cold_ms:,.0f}", f"{result.warm_ms:,.1f}", result.answer)
        for result in results
    )
    title = f"one endpoint, {counted(len(results), 'model')}"
    return TextTable(heads, tuple(rows), numbers=heads[1:3], title=title)


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


@dataclass(frozen=True)
class _Notebook:
    """A notebook file, and its content as nbformat has it."""

    path: Path
    node: Any

    @classmethod
    def read(cls, path: Path) -> _Notebook:
        """Read a notebook file of format 4."""
        return cls(path, nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def code_cells(self) -> int:
        """How many cells there are to execute."""
        return sum(cell.cell_type == "code" for cell in self.node.cells)

    async def execute(
        self,
        folder: Path,
        output: Path,
        environment: Mapping[str, str],
        progress: _Progress,
        stops: Mapping[str, Callable[[], Awaitable[object]]] | None = None,
    ) -> None:
        """Execute every cell in a fresh kernel, and save the notebook with its outputs.

        Parameters
        ----------
        folder
            The kernel's working folder.
        output
            The folder to save to, also after an error.
        environment
            The kernel's environment variables.
        progress
            Is told of it.
        stops
            What to wait for before the first cell under a heading, by heading. It is not counted
            as the notebook's time.

        Raises
        ------
        DemoError
            A cell failed, or the kernel died: names the cell, and has the error's last lines.
        """
        positions = [i for i, cell in enumerate(self.node.cells) if cell.cell_type == "code"]
        ahead = dict(stops or {})
        current = 0
        waited = 0.0

        async def at_cell(cell: Any, cell_index: int) -> None:
            nonlocal current, waited
            if cell.cell_type != "code":
                return
            current = positions.index(cell_index) + 1
            heading = self._heading_above(cell_index)
            progress.at_cell(self, current, heading)
            if heading in ahead:
                since = time.monotonic()
                await ahead.pop(heading)()
                waited += time.monotonic() - since

        client = NotebookClient(
            self.node,
            timeout=_CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            on_cell_start=at_cell,
        )
        started = time.monotonic()
        saved = output / self.path.name
        log = saved.with_suffix(".log")
        try:
            with log.open("wb") as stream:
                await client.async_execute(env=dict(environment), stdout=stream, stderr=stream)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            what = f"{self.path.name} stopped in code cell {current} of {len(positions)}"
            heading = self._heading_above(positions[current - 1])
            raise DemoError(
                f'{what}, under "{heading}":\n{_last_lines(error)}',
                where=str(saved),
                remedy="open that notebook for all of the cell's output; what the kernel itself "
                f"had to say is in {log.name} beside it",
            ) from None
        finally:
            await _let_go(client)
            nbformat.write(self.node, saved)  # type: ignore[no-untyped-call]
        log.unlink()
        progress.finished(self, time.monotonic() - started - waited)

    def _heading_above(self, index: int) -> str:
        for cell in reversed(self.node.cells[: index + 1]):
            if cell.cell_type == "markdown":
                headings: list[str] = _HEADING.findall(cell.source)
                if headings:
                    return headings[-1]
        return self.name


async def _let_go(client: NotebookClient) -> None:
    """End the kernel of a client that was cancelled while it started one.

    nbclient clears up in such a case only when the interpreter exits, and fails at that.
    """
    atexit.unregister(client._cleanup_kernel)  # noqa: SLF001 - what it registered
    if client.km is not None and client.km.has_kernel:
        await client._async_cleanup_kernel()  # noqa: SLF001 - the one way that waits for the end


def _last_lines(error: Exception) -> str:
    """Return the end of a cell's traceback; it is what says why."""
    text = error.traceback if isinstance(error, CellExecutionError) else str(error)
    lines = [line for line in _ANSI.sub("", text).splitlines() if line.strip()]
    return "\n".join(lines[-_ERROR_LINES:])


class _Progress:
    """Shows each notebook with its cell, its section and the time it takes.

    A terminal gets a bar for each notebook; a file or a pipe, such as the log of a CI run, gets a
    line when a notebook begins and when it ends.
    """

    def __init__(self, console: Console, notebooks: Sequence[_Notebook]) -> None:
        self._console = console
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("cell {task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[section]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {
            notebook.name: self.bars.add_task(
                notebook.name, start=False, total=notebook.code_cells, section=""
            )
            for notebook in notebooks
        }

    def at_cell(self, notebook: _Notebook, number: int, heading: str) -> None:
        """Show that a code cell begins; ``number`` counts code cells from 1."""
        task = self._tasks[notebook.name]
        if number == 1:
            self.bars.start_task(task)
            self._say(f"{notebook.name}: {notebook.code_cells} cells")
        self.bars.update(task, completed=number - 1, section=heading)

    def finished(self, notebook: _Notebook, seconds: float) -> None:
        """Show that a notebook has run to its end, and how long it has worked."""
        task = self._tasks[notebook.name]
        self.bars.update(task, completed=notebook.code_cells, section="")
        self._say(f"{notebook.name}: done in {seconds:.1f} s")

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line, highlight=False)
