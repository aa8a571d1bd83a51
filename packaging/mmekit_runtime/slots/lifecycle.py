"""How a model's processes start and end: they are forked, crash, and are given up."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import Protocol

from mmekit_runtime.slots.scoreboard import ScoreboardFile
from mmekit_runtime.slots.shared_body import is_body
from mmekit_runtime.slots.slot import ProcessHandle
from mmekit_runtime.slots.template_process import BASE_IMPORTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.loop import Loop
    from mmekit_runtime.slots.shared_body import SharedBody
    from mmekit_runtime.slots.slot import Slot
    from mmekit_runtime.slots.template_process import TemplateProcess
    from mmekit_runtime.slots.templates import Templates

MAX_CRASHES = 3
CRASH_WINDOW_S = 60.0
"""So many crashes within so many seconds are borne; with the next one the model is given up."""

_MAX_ATTEMPTS = 3


class StartingModel(Protocol):
    """A model that wants a process."""

    imports: frozenset[str]
    body: SharedBody | None

    @property
    def needed(self) -> int:
        """The bytes that one process takes."""

    def guarded(self, act: Callable[..., None]) -> Callable[..., None]:
        """Return what does the same, and ends the model when that fails unexpectedly."""

    def streams(self) -> tuple[int, int]:
        """Return where a new process prints to."""

    def start_message(self, process: ProcessHandle) -> dict[str, Any]:
        """Return what a new process is told of the model."""

    def started(self, process: ProcessHandle) -> None:
        """Go on with a process that has been forked."""

    def not_started(self, process: ProcessHandle, reason: str) -> None:
        """Go on without a process that there will not be."""


class Reservations(Protocol):
    """Memory that is counted as taken before a process takes it."""

    def reserve(self, who: object, needed: int) -> None:
        """Count bytes as taken."""

    def release(self, who: object) -> None:
        """Count them no more."""


class ProcessStart:
    """One process of a model on its way.

    Parameters
    ----------
    model
        The model; it is told `started` or `not_started`.
    process
        What it will be; whether it has slots says whether it is still wanted.
    templates
        From which it is forked.
    """

    def __init__(self, model: StartingModel, process: ProcessHandle, templates: Templates) -> None:
        self._model = model
        self._process = process
        self._templates = templates
        self._began = 0.0

    def begin(self) -> None:
        """Look for a template process that has the model's libraries."""
        found = self._model.guarded(self._template_found)
        self._templates.find(self._model.imports, found, self._model.body)

    def _template_found(self, template: TemplateProcess | None) -> None:
        process = self._process
        if template is None:
            # A worker that has no slot yet can run the plain engine at once; others cannot.
            again = any(slot.confirmed for slot in process.slots)
            self._fail("no template process could be started", again=again)
        elif not process.is_wanted:
            self._model.not_started(process, "it is not wanted any more")
        else:
            self._began = time.monotonic()
            process.template = template
            forked = self._model.guarded(self._forked)
            process.was_spare = self._templates.fork_model(
                template, forked, may_be_spare=process.may_be_spare
            )

    def _forked(self, pid: int, channel: Channel | None) -> None:
        process = self._process
        if channel is None:
            self._fail("no process could be forked", again=True)
            return
        if not process.is_wanted:
            channel.close()  # which ends it
            self._model.not_started(process, "it is not wanted any more")
            return
        try:
            scoreboard = ScoreboardFile()
        except OSError as error:
            channel.close()
            self._fail(f"no process could be started: {error}", again=False)
            return
        process.fork_ms = (time.monotonic() - self._began) * 1000
        process.started(pid, channel, scoreboard)
        process.tell(self._first_message(), (scoreboard.fd, *self._model.streams()))
        self._model.started(process)

    def _fail(self, reason: str, *, again: bool) -> None:
        """Try again with another template process: this one has ended, or cannot fork."""
        process = self._process
        if again and process.is_wanted and process.attempt < _MAX_ATTEMPTS:
            process.attempt += 1
            self.begin()
        else:
            self._model.not_started(process, reason)

    def _first_message(self) -> dict[str, Any]:
        process = self._process
        template = process.template
        assert template is not None  # noqa: S101
        return {
            **self._model.start_message(process),
            "times": {
                "imports": [
                    "a shared body" if is_body(name) else name
                    for name in sorted(template.imports - set(BASE_IMPORTS))
                ],
                "template_ms": (self._began - process.asked_at) * 1000,
                "fork_ms": process.fork_ms,
            },
        }


class ModelProcesses:
    """The processes of a model, oldest first: those that answer, and those on their way.

    Parameters
    ----------
    model
        Whose they are.
    loop, templates, memory
        The fork server's.
    """

    def __init__(
        self, model: StartingModel, loop: Loop, templates: Templates, memory: Reservations
    ) -> None:
        self._model = model
        self._loop = loop
        self._templates = templates
        self._memory = memory
        self._processes: list[ProcessHandle] = []

    def __iter__(self) -> Iterator[ProcessHandle]:
        """Yield those that there are now; they may end meanwhile."""
        return iter(list(self._processes))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._processes)

    def start(
        self, slots: Iterable[Slot] = (), *, is_further: bool = False, may_be_spare: bool = True
    ) -> None:
        """Have a process forked that answers these slots; its memory is reserved from now on."""
        process = ProcessHandle(is_further=is_further, may_be_spare=may_be_spare)
        self._processes.append(process)
        # Before the fork: whoever is admitted in the same turn must not find this memory, too.
        self._memory.reserve(process, self._model.needed)
        for slot in slots:
            process.assign(slot)
        ProcessStart(self._model, process, self._templates).begin()

    def discard(self, process: ProcessHandle) -> None:
        """Let go of a process that has ended, and of its memory."""
        if process in self._processes:
            self._processes.remove(process)
        self._memory.release(process)
        if process.channel is not None:
            self._loop.unwatch(process.channel.fileno())
        process.close()

    def least_used(self) -> ProcessHandle:
        """Return the one that has the fewest slots."""
        return min(self._processes, key=lambda one: len(one.slots))

    @property
    def are_ready(self) -> bool:
        """Whether all of them are."""
        return all(one.ready for one in self._processes)

    @property
    def may_park(self) -> bool:
        """Whether there are some, all of which could be asked to end."""
        return bool(self._processes) and all(
            one.ready and not one.parking for one in self._processes
        )

    @property
    def are_parking(self) -> bool:
        """Whether some have been asked to end, and are there still."""
        return any(one.parking for one in self._processes)

    def used_at(self) -> float:
        """Return when one was last asked, by the monotonic clock."""
        return max(process.used_at() for process in self._processes)

    def park(self) -> None:
        """Ask them to end; one that has something to do stays."""
        for process in self._processes:
            process.ask_to_park(is_last=process is self._processes[-1])


class Sharing:
    """What the processes of one model are forked with of the body that it shares with others.

    Parameters
    ----------
    body
        None for a model that shares nothing.
    templates
        From which they are forked.
    say
        Prints a line for the model's worker: once, when each process loads the body by itself.
    """

    def __init__(
        self, body: SharedBody | None, templates: Templates, say: Callable[[str], object]
    ) -> None:
        self._body = body
        self._templates = templates
        self._say = say
        self._has_said = False

    def token_for(self, template: TemplateProcess | None) -> str | None:
        """Return the token of the body that a template has, None where a process loads its own."""
        if self._body is None or template is None:
            return None
        token = self._body.token
        problem = self._templates.problem_of(token)
        if problem is None and token in template.imports:
            return token
        if not self._has_said:
            self._has_said = True
            self._say(
                "WARN::mmekit: the shared body is loaded in each process by itself: load_shared "
                f"{problem or 'could not be called before the fork'}"
            )
        return None


class CrashHistory:
    """When the processes of a model have crashed last."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=MAX_CRASHES)

    def one_too_many(self) -> str | None:
        """Count a crash; when it is one too many, say when the others were."""
        now = time.monotonic()
        if len(self._last) == MAX_CRASHES and now - self._last[0] < CRASH_WINDOW_S:
            return ", ".join(f"{now - one:.1f}" for one in self._last)
        self._last.append(now)
        return None


def exit_reason(status: int) -> str:
    """Say how a process ended, by the status that waitpid(2) gave."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}"
