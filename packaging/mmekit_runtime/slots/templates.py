"""The template processes of a fork server: found, made when models need more, and asked to fork.

One is never changed once it has children: a set of imports that is not there yet gets a template
process of its own, forked from the one that has most of it. What two sets have in common becomes
one between them, so that it is imported, and kept in memory, once.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time

from mmekit_runtime.slots.import_tree import ImportTree
from mmekit_runtime.slots.loop import Loop, log
from mmekit_runtime.slots.shared_body import is_body
from mmekit_runtime.slots.template_process import (
    BASE_IMPORTS,
    TemplateProcess,
    fork_template,
    pair,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.shared_body import SharedBody

    Found = Callable[[TemplateProcess | None], None]
    Forked = Callable[[int, Channel | None], None]

SPARES_VARIABLE = "MMEKIT_SLOTS_SPARES"
"""``0`` has no process forked ahead."""

SPARE_AFTER_S = 0.02
"""After a model is ready, before another process is forked ahead: that takes a core as long as the
request that the model was woken for."""

MAX_FORKS = 8
"""That a template is asked for at a time: it does one after the other anyway."""

_BODY_AGAIN_S = 60.0
"""After which a body that could not be loaded is tried again, for the next process of a model."""

_FORK_S = 20.0
_IMPORT_S = 90.0
"""After which a template that does not fork, or is not ready, is stuck; fewer than workers wait."""


class Templates:
    """The template processes that one fork server has, and who waits for them.

    Parameters
    ----------
    loop
        The fork server's.
    exited
        Called with the id of a model process that has ended, and its status by waitpid(2).
    outdated
        Called when the folder of this runtime is gone: no further template process can start.
    """

    def __init__(
        self, loop: Loop, exited: Callable[[int, int], None], outdated: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._exited = exited
        self._outdated = outdated
        self._tree = ImportTree()
        self._dropped: set[str] = set()
        self._bodies: dict[str, SharedBody] = {}
        self._problems: dict[str, tuple[float, str]] = {}
        self._waiting: dict[frozenset[str], list[Found]] = {}
        self._forking: dict[int, tuple[TemplateProcess, Channel, Forked]] = {}
        self._number = 0
        self._spares = os.environ.get(SPARES_VARIABLE, "1").strip() != "0"
        self._due: dict[TemplateProcess, float] = {}

    def problem_of(self, token: str) -> str | None:
        """Return why models cannot be forked from a process that has a body; None when they can."""
        return self._problems[token][1] if token in self._problems else None

    def find(self, wanted: frozenset[str], then: Found, body: SharedBody | None = None) -> None:
        """Call ``then`` with a ready template that has these imports, or with None.

        Parameters
        ----------
        body
            What a token among the imports stands for, of the model that asks: of one that asked
            before, the folder may be gone.
        """
        if body is not None:
            self._bodies[body.token] = body
        wanted = self._usable(wanted | frozenset(BASE_IMPORTS))
        wanted = self._tree.widened(wanted)
        exact = self._tree.exact(wanted)
        if exact is not None and exact.ready:
            then(exact)
            return
        waiting = self._waiting.setdefault(wanted, [])
        waiting.append(then)
        if exact is None and len(waiting) == 1:
            try:
                self._grow(wanted)
            except OSError as error:
                log(f"no template process could be started: {error}")
                for one in self._waiting.pop(wanted, []):
                    one(None)

    def _usable(self, wanted: frozenset[str]) -> frozenset[str]:
        """Return what can be had in a template: not what was dropped, or has just failed."""
        now = time.monotonic()
        failing = {
            token for token, (since, _) in self._problems.items() if now - since < _BODY_AGAIN_S
        }
        return wanted - self._dropped - failing

    def _grow(self, wanted: frozenset[str]) -> None:
        base = frozenset(BASE_IMPORTS) - self._dropped
        ancestor, steps = self._tree.plan(wanted)
        if ancestor is None:
            # What every model needs is a step of its own, so that its pages are there once.
            steps = [base, *(step for step in steps if step != base)]
        elif not ancestor.ready:
            # It may end before it is ready: from which one to go on is asked anew then.
            self.find(ancestor.imports, lambda _: self._continue(wanted))
            return
        order = [name for name in (*BASE_IMPORTS, *sorted(wanted)) if name in steps[0]]
        missing = [name for name in order if ancestor is None or name not in ancestor.imports]
        if ancestor is None:
            pid, ours = fork_template(missing)
            template = self._tree.add(steps[0])
            self._template_started(template, pid, self._loop.channel(ours))
        else:
            template = self._tree.add(steps[0])
            bodies = {one: self._bodies[one].as_message() for one in missing if is_body(one)}
            message = {"fork": "template", "imports": missing, "bodies": bodies}
            self.fork(
                ancestor,
                message,
                lambda pid, channel: self._template_started(template, pid, channel),
            )
        if steps[0] != wanted:
            self._waiting.setdefault(steps[0], []).append(lambda _: self._continue(wanted))

    def _continue(self, wanted: frozenset[str]) -> None:
        current = self._usable(wanted)
        thens = self._waiting.pop(wanted, [])
        for then in thens:
            self.find(current, then)

    def _template_started(
        self, template: TemplateProcess, pid: int, channel: Channel | None
    ) -> None:
        template.pid = pid
        template.channel = channel
        if channel is None:
            self._template_ended(template)
            return
        self._loop.watch(
            channel.fileno(),
            lambda: self._template_is_readable(template),
            lambda _: self._end(template),
        )

    def _end(self, template: TemplateProcess) -> None:
        """End a template whose state is in doubt; the models that it has forked live on."""
        if template.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(template.pid, signal.SIGKILL)
        self._template_ended(template)

    def _template_is_readable(self, template: TemplateProcess) -> None:
        assert template.channel is not None  # noqa: S101
        messages = template.channel.receive_all()
        if messages is None:
            self._end(template)
            return
        for message, _ in messages:
            if "forked" in message:
                self._has_forked(message["forked"], message["pid"])
            elif "written" in message:
                template.written = message["written"]
                self._send_pages_to_spare(template)
            elif "ended" in message:
                self._exited(message["ended"], message["status"])
            elif "spoiled" in message:
                self._leave_to_models(message["spoiled"], message["reason"])
            elif "broken" in message:
                log(f"this runtime cannot be imported: {message['broken']}")
            elif "imported" in message:
                self._template_is_ready(template, message)

    def _leave_to_models(self, name: str, reason: str) -> None:
        self._dropped.add(name)
        if is_body(name):
            self._problems[name] = (time.monotonic(), reason)
        else:
            log(f"importing {name} {reason}: left to the models")

    def _template_is_ready(self, template: TemplateProcess, message: dict[str, Any]) -> None:
        template.failed = message["failed"]
        failed_bodies = {name: why for name, why in template.failed.items() if is_body(name)}
        if failed_bodies:
            # What failed may be gone the next time: another template tries it then.
            self._bodies_failed(template, failed_bodies)
            return
        template.ready = True
        template.own_ms = message["ms"]
        for name, reason in template.failed.items():
            log(f"{name} was not preloaded: {reason}")
        for name in filter(is_body, template.imports):
            self._problems.pop(name, None)
        log(f"{template} is ready after {template.own_ms:.0f} ms")
        for then in self._waiting.pop(template.imports, []):
            then(template)

    def _bodies_failed(self, template: TemplateProcess, reasons: dict[str, str]) -> None:
        now = time.monotonic()
        self._problems.update({name: (now, f"fails ({why})") for name, why in reasons.items()})
        self._end(template)

    def _template_ended(self, template: TemplateProcess) -> None:
        if template.channel is not None:
            self._loop.unwatch(template.channel.fileno())
            template.channel.close()
        self._tree.remove(template)
        self._due.pop(template, None)
        self.drop_spare(template)
        for number, (forking, _, _) in list(self._forking.items()):
            if forking is template:
                self._has_forked(number, 0)
        while template.wanted:
            _, forked = template.wanted.popleft()
            forked(0, None)
        if not template.ready:
            self._never_ready(template, self._waiting.pop(template.imports, []))

    def _never_ready(self, template: TemplateProcess, waiting: list[Found]) -> None:
        """Have those that wait for a template go on with another, if there is one."""
        if template.pid:
            self._blame_body(template)
        if not waiting:
            return
        smaller = self._usable(template.imports)
        if smaller != template.imports:
            for then in waiting:
                self.find(smaller, then)
            return
        log("a template process ended before it was ready")
        # The runtime is that of the model that came first, and is deleted with its folder.
        if not os.path.exists(__file__):  # noqa: PTH110
            self._outdated()
        for then in waiting:
            then(None)

    def _blame_body(self, template: TemplateProcess) -> None:
        """Note that a body has ended the process: its libraries had one of their own before."""
        for name in filter(is_body, self._usable(template.imports)):
            reason = "ends the process that calls it, or takes too long"
            self._problems[name] = (time.monotonic(), reason)

    def fork_model(self, template: TemplateProcess, forked: Forked, *, may_be_spare: bool) -> bool:
        """Have a model process forked, as `fork` does, or give the one that is forked already.

        Returns whether it is that one.
        """
        if template.spare is None or not may_be_spare:
            self.fork(template, {"fork": "model"}, forked)
            return False
        pid, channel = template.spare
        template.spare = None
        self._loop.unwatch(channel.fileno())
        forked(pid, channel)
        return True

    def keep_spare(self, template: TemplateProcess) -> None:
        """Have a template fork one process ahead soon, so that the next model need not wait."""
        if self._spares and template.spare is None and not template.is_sparing and template.channel:
            self._due.setdefault(template, time.monotonic() + SPARE_AFTER_S)

    def learn(self, template: TemplateProcess, pid: int) -> None:
        """Have a template note which pages one of its model processes has written to.

        Those that it forks ahead from then on have them copied while they wait.
        """
        if self._spares and template.channel is not None:
            template.learned_from += 1
            with contextlib.suppress(OSError):  # its end shows when it is read
                template.channel.send({"learn": pid, "known": template.written})

    def _send_pages_to_spare(self, template: TemplateProcess) -> None:
        if template.spare is not None and template.written:
            with contextlib.suppress(OSError):  # its end shows when it is read
                template.spare[1].send({"written": template.written})

    def until_spare_s(self) -> float:
        """Return the seconds until a process is to be forked ahead; infinity when none is."""
        return min(self._due.values(), default=math.inf) - time.monotonic()

    def fork_spares(self) -> None:
        """Have those templates fork ahead whose time has come."""
        now = time.monotonic()
        for template in [one for one, due in self._due.items() if due <= now]:
            del self._due[template]
            self._fork_spare(template)

    def _fork_spare(self, template: TemplateProcess) -> None:
        template.is_sparing = True
        self.fork(
            template,
            {"fork": "spare"},
            lambda pid, channel: self._spare_forked(template, pid, channel),
        )

    def _spare_forked(self, template: TemplateProcess, pid: int, channel: Channel | None) -> None:
        template.is_sparing = False
        if channel is not None:
            template.spare = (pid, channel)
            # It has nothing to say: what comes is its end.
            self._loop.watch(channel.fileno(), lambda: self.drop_spare(template))
            self._send_pages_to_spare(template)

    def drop_spare(self, template: TemplateProcess) -> None:
        """End the process that a template has forked ahead."""
        if template.spare is not None:
            _, channel = template.spare
            template.spare = None
            self._loop.unwatch(channel.fileno())
            channel.close()

    def drop_spares(self) -> None:
        """End all processes that were forked ahead, and fork none."""
        self._due.clear()
        for template in self._tree:
            self.drop_spare(template)

    def fork(self, template: TemplateProcess, message: dict[str, Any], forked: Forked) -> None:
        """Have a template fork.

        ``forked`` gets the new process's id and our end of a channel to it; 0 and None when there
        is no process.
        """
        template.wanted.append((message, forked))
        self._ask_for_more(template)

    def _ask_for_more(self, template: TemplateProcess) -> None:
        while template.wanted and template.forking < MAX_FORKS and template.channel is not None:
            message, forked = template.wanted.popleft()
            try:
                ours, theirs = pair()
            except OSError as error:
                log(f"no process can be forked: {error}")
                forked(0, None)
                continue
            self._number += 1
            if not template.forking:
                template.since = time.monotonic()
            template.forking += 1
            self._forking[self._number] = (template, self._loop.channel(ours), forked)
            with theirs:
                try:
                    template.channel.send({**message, "number": self._number}, [theirs.fileno()])
                except OSError:
                    # It has ended, which shows on its channel in this turn or the next.
                    return

    def _has_forked(self, number: int, pid: int) -> None:
        template, channel, forked = self._forking.pop(number)
        template.forking -= 1
        template.since = time.monotonic()
        if pid:
            forked(pid, channel)
        else:
            channel.close()
            forked(0, None)
        self._ask_for_more(template)

    def without_body(self, template: TemplateProcess) -> TemplateProcess | None:
        """Return the template below one that has a body, itself for one that has none."""
        if not template.has_body:
            return template
        others = frozenset(one for one in template.imports if not is_body(one))
        below = (one for one in self._tree if one.imports <= others)
        return max(below, key=lambda one: len(one.imports), default=None)

    def end_unused(self, used: set[TemplateProcess | None], unused_s: float) -> None:
        """End the templates from which no process was forked for so long that still lives.

        Those whose imports another one of them has as well go first: what a template has forked,
        templates among it, shares its memory.
        """
        now = time.monotonic()
        templates = list(self._tree)
        for template in templates:
            if template in used or template.forking or template.wanted or not template.ready:
                template.used_at = now
        for template in templates:
            if any(template.imports < other.imports for other in templates):
                template.used_at = now
            elif now - template.used_at >= unused_s:
                log(f"{template} has no model: ends")
                self._template_ended(template)

    def end_stuck(self, now: float) -> None:
        """End templates that have been stopped, or wait for something: others may do better."""
        for template in list(self._tree):
            waited_s = now - template.since
            if not template.ready and waited_s >= _IMPORT_S:
                log(f"{template} was not ready in time: ends")
                self._end(template)
            elif template.forking and waited_s >= _FORK_S:
                log(f"{template} does not fork: ends")
                self._end(template)

    def kill(self) -> None:
        """End them all."""
        for template in self._tree:
            if template.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(template.pid, signal.SIGKILL)
