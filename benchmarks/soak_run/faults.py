"""What is done to a server, and which errors that explains."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from slot_runs.servers import ServerFailure, ask, family

from soak_run.models import PASSING, of_rows

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from slot_runs.servers import Server

    from soak_run.models import Loaded
    from soak_run.traffic import Mishap

_DEATHS_A_MINUTE = 3
"""With the fourth a server gives a model up, and is right to."""

_WINDOW_S = 65.0
_NEW_S = 2.0
_REPLACED_S = 5.0
"""After its death a model's process may still be on the way to being replaced."""

_LATE_S = 10.0
"""After a fault its last hit may still be under way."""

_SPARED = True
"""What a fault returns that was left out."""

_POLL_S = 0.1
_FEW_DESCRIPTORS_S = 0.5
_FORK_SERVER = "mmekit_runtime.slots.forkserver"


@dataclass
class _Hit:
    """A fault that may cost requests of a model: no more than ``left`` in its time."""

    model: str
    began: float
    ended: float
    left: int


class Faults:
    """Breaks one thing after the other.

    Attributes
    ----------
    counts
        How often each fault was injected.
    """

    def __init__(self, server: Server, models: Sequence[Loaded], chance: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._server = server
        self._models = models
        self._chance = chance
        self._hits: list[_Hit] = []
        self._deaths: dict[str, deque[float]] = {
            one.name: deque(maxlen=_DEATHS_A_MINUTE) for one in models
        }
        self._passing = models[0].folder.with_name(PASSING)
        self._round: list[Callable[[], bool | None]] = []
        self._open: dict[str, list[socket.socket]] = {}
        everywhere = (
            self._killed_process,
            self._request_that_kills,
            self._poisoned_request,
            self._client_that_goes_away,
            self._clients_that_are_slow,
            self._client_that_reads_nothing,
            self._garbage,
            self._idle_connections,
            self._form_with_too_many_fields,
            self._offers_of_another_protocol,
            self._bodies_in_tiny_chunks,
            self._flood_of_lines,
            self._model_that_comes_and_goes,
            self._killed_templates,
        )
        embedded = (
            self._killed_fork_server,
            self._stopped_fork_server,
            self._few_descriptors,
            self._trailers_without_end,
            self._pages_of_another_origin,
        )
        self._kinds: tuple[Callable[[], bool | None], ...] = everywhere
        if server.kind == "embedded":
            self._kinds += embedded

    def one(self) -> str:
        """Inject a fault, each kind once in a round; return its name.

        One that would be a death too many for a model is left out, and not counted.
        """
        if not self._round:
            # All in a round, so that what a server needs at most shows in the first minutes.
            self._round = self._chance.sample(self._kinds, len(self._kinds))
        kind = self._round.pop()
        name = kind.__name__.strip("_").replace("_", " ")
        if kind() is _SPARED:
            return f"no {name}"
        self.counts[name] += 1
        return name

    def explain(self, errors: Sequence[Mishap]) -> tuple[int, list[str]]:
        """Return how many errors are hits of faults, and what the others were."""
        others = []
        for error in sorted(errors, key=lambda one: one.ended):
            hit = next((one for one in self._hits if _explains(one, error)), None)
            if hit:
                hit.left -= 1
            else:
                others.append(f"{error.model}: {error.what}")
        return len(errors) - len(others), others

    def wait_until_whole(self, seconds: float) -> None:
        """Wait until no client misbehaves and every model, loaded anew, has all of its workers."""
        for name in list(self._open):
            self._keep(name, [])
        for model in self._models:
            # Without this, what is measured depends on what was killed last: processes that a dead
            # template process has forked share their memory with nobody.
            self._server.unload(model.name)
            self._server.load(model.name, model.folder)
        deadline = time.monotonic() + seconds
        while not all(self._is_whole(model) for model in self._models):
            if time.monotonic() > deadline:
                raise ServerFailure(f"not every model had its workers within {seconds:.0f} s")
            time.sleep(_POLL_S)

    def _is_whole(self, model: Loaded) -> bool:
        with contextlib.closing(self._server.connect()) as connection:
            (described,) = json.loads(ask(connection, "GET", f"/models/{model.name}"))
        (group,) = described["models"][0]["workerGroups"]
        return sum(one["status"] == "READY" for one in group["workers"]) == model.workers

    # Processes.

    def _victim(self) -> Loaded | None:
        """Return a model whose process may die once more within the minute."""
        able = [one for one in self._models if self._may_die(one)]
        if not able:
            return None
        model = self._chance.choice(able)
        self._deaths[model.name].append(time.monotonic())
        return model

    def _may_die(self, model: Loaded) -> bool:
        deaths = self._deaths[model.name]
        return len(deaths) < _DEATHS_A_MINUTE or time.monotonic() - deaths[0] > _WINDOW_S

    def _hits_on(self, model: Loaded) -> None:
        now = time.monotonic()
        self._hits.append(_Hit(model.name, now, now + _LATE_S, model.workers))

    def _killed_process(self) -> bool | None:
        model = self._victim()
        if model is None:
            return _SPARED
        pids = [one.pid for one in family(self._server) if _works_in(one, model)]
        if not pids:
            return _SPARED
        self._hits_on(model)
        _kill(self._chance.choice(pids))
        return None

    def _request_that_kills(self) -> bool | None:
        model = self._victim()
        if model is None:
            return _SPARED
        self._hits_on(model)
        self._post(model, of_rows(-2))
        return None

    def _killed_templates(self) -> None:
        folders = {str(one.folder) for one in self._models} | {str(self._passing)}
        for process in family(self._server):
            with contextlib.suppress(psutil.Error, OSError):
                is_forked = _FORK_SERVER in process.cmdline()
                root = process.ppid() in (self._server.pid, 1)
                # A model process that has just been forked is not in its folder yet.
                is_new = time.time() - process.create_time() < _NEW_S
                if is_forked and not root and not is_new and process.cwd() not in folders:
                    _kill(process.pid)

    def _killed_fork_server(self) -> bool | None:
        # A process that has just been forked, and is not given its connections yet, ends with the
        # fork server: for the server that is one more death of its model, and it is right.
        now = time.monotonic()
        hurt = [
            one
            for one in self._models
            if one.has_slots and any(now - died < _REPLACED_S for died in self._deaths[one.name])
        ]
        if not all(self._may_die(one) for one in hurt):
            return _SPARED
        for model in hurt:
            self._deaths[model.name].append(now)
            self._hits_on(model)
        for process in psutil.Process(self._server.pid).children():
            with contextlib.suppress(psutil.Error):
                if _FORK_SERVER in process.cmdline():
                    _kill(process.pid)
        return None

    def _stopped_fork_server(self) -> None:
        # Those that it has forked go on; loads, from now on, are another one's.
        for process in psutil.Process(self._server.pid).children():
            with contextlib.suppress(psutil.Error):
                if _FORK_SERVER in process.cmdline():
                    process.suspend()
                    self._model_that_comes_and_goes()
                    process.resume()

    # Clients.

    def _post(self, model: Loaded, body: bytes, **more: str) -> int:
        headers = {"Content-Type": "application/json", **more}
        with contextlib.closing(self._server.connect()) as connection:
            try:
                connection.request("POST", f"/models/{model.name}/invoke", body, headers)
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                return 0

    def _poisoned_request(self) -> None:
        model = self._chance.choice(self._models)
        status = self._post(model, of_rows(-1))
        if status not in (424, 503):
            raise ServerFailure(f"a handler that raises was answered with {status}")

    def _form_with_too_many_fields(self) -> None:
        model = self._chance.choice(self._models)
        fields = "&".join(f"f{number}=1" for number in range(40_000)).encode()
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        # DJL Serving writes a count that overflows, and loses its worker over it.
        if self._server.kind == "embedded":
            self._expect(400, self._post(model, fields, **form))

    def _offers_of_another_protocol(self) -> None:
        model = self._chance.choice(self._models)
        body = of_rows(1)
        offer = {
            "Connection": "Upgrade, HTTP2-Settings",
            "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA",
        }
        if self._server.kind == "embedded":
            self._expect(200, self._post(model, body, Upgrade="h2c", **offer), 503)

    def _bodies_in_tiny_chunks(self) -> None:
        model = self._chance.choice(self._models)
        head = _head(model, 0, b"text/csv").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        with self._connect() as connection, contextlib.suppress(OSError):
            connection.sendall(head + b"2\r\n1,\r\n" * 20_000)

    def _trailers_without_end(self) -> None:
        model = self._chance.choice(self._models)
        head = _head(model, 0, b"text/csv").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        with self._connect() as connection, contextlib.suppress(OSError):
            connection.sendall(head + b"3\r\n1,1\r\n0\r\n" + b"X-More: 1\r\n" * 100_000)

    def _pages_of_another_origin(self) -> None:
        model = self._chance.choice(self._models)
        self._expect(403, self._post(model, of_rows(1), Origin="http://attacker.example"))

    def _flood_of_lines(self) -> None:
        model = self._chance.choice(self._models)
        self._post(model, of_rows(-4))

    @staticmethod
    def _expect(wanted: int, status: int, *also: int) -> None:
        # 0 is no answer: the connection was one too many, or its server short of descriptors.
        if status not in (wanted, 0, *also):
            raise ServerFailure(f"answered with {status}, not {wanted}")

    def _client_that_goes_away(self) -> None:
        model = self._chance.choice(self._models)
        body = of_rows(-3)
        for _ in range(self._chance.randrange(1, 4)):
            with self._connect() as connection:
                connection.sendall(_head(model, len(body), b"application/json") + body)
                time.sleep(self._chance.uniform(0, 0.05))

    def _clients_that_are_slow(self) -> None:
        model = self._chance.choice(self._models)
        opened = [self._connect() for _ in range(self._chance.randrange(1, 50))]
        for one in opened:
            one.sendall(_head(model, 1000, b"text/csv")[: self._chance.randrange(5, 60)])
        self._keep("slow", opened)

    def _client_that_reads_nothing(self) -> None:
        model = self._chance.choice(self._models)
        body = json.dumps({"instances": [[1, 1]] * 20_000}).encode()
        connection = self._connect()
        connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            connection.sendall((_head(model, len(body), b"application/json") + body) * 5)
        self._keep("unread", [connection])

    def _garbage(self) -> None:
        for _ in range(5):
            with self._connect() as connection, contextlib.suppress(OSError):
                connection.sendall(self._chance.randbytes(self._chance.randrange(1, 30_000)))

    def _idle_connections(self) -> None:
        opened = [self._connect() for _ in range(500)]
        self._keep("idle", opened)

    def _few_descriptors(self) -> None:
        process = psutil.Process(self._server.pid)
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + 5, before[1]))
        opened: list[socket.socket] = []
        try:
            opened += [self._connect() for _ in range(20)]
            time.sleep(_FEW_DESCRIPTORS_S)
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
            _close(opened)

    def _model_that_comes_and_goes(self) -> None:
        self._server.load(PASSING, self._passing)
        body = json.dumps({"instances": [[1, 2]]}).encode()
        self._server.invoke(PASSING, body, "application/json")
        self._server.unload(PASSING)

    def _keep(self, name: str, opened: list[socket.socket]) -> None:
        """Keep connections open until the next ones of this kind."""
        _close(self._open.pop(name, []))
        self._open[name] = opened

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._server.port), timeout=30)


def _explains(hit: _Hit, error: Mishap) -> bool:
    in_time = error.ended >= hit.began and error.began <= hit.ended
    unanswered = error.what.startswith("503")
    return hit.model == error.model and in_time and unanswered and hit.left > 0


def _works_in(process: psutil.Process, model: Loaded) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return bool(process.cwd() == str(model.folder) and process.cmdline()[0] != "mmekit-slot")
    return False


def _head(model: Loaded, size: int, content_type: bytes) -> bytes:
    return (
        b"POST /models/%b/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\n"
        b"Content-Length: %d\r\n\r\n" % (model.name.encode(), content_type, size)
    )


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)


def _close(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()
