"""What a server under test has to offer."""

from __future__ import annotations

import contextlib
import http.client
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from slot_runs.servers import ServerFailure, ask

from mmekit_bench import Target
from peer_runs.environments import Environment, make

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from peer_runs.subjects import Subject

_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Server:
    """A running peer.

    Attributes
    ----------
    port
        Of its HTTP, on loopback.
    load
        Has it load one more model, from a folder with the model's name; None where it cannot.
    """

    port: int
    load: Callable[[Path], None] | None = None


class Peer(ABC):
    """A server under test.

    Attributes
    ----------
    name, title
        For the command line, and for tables.
    package
        What its version is read from.
    setting
        How it is set up here, in a sentence or two.
    pages
        Where its documentation says so.
    dynamic
        Whether it loads a model that it did not know when it was started.
    isolated
        Whether each model has processes of its own, so that none can harm another.
    warm_up_s
        Seconds of load before a measurement.
    parks_after_s
        Seconds after which it gives back the memory of a model that nobody asks; 0 for never.
    health
        A path that is answered as soon as the server is there.
    listens_everywhere
        Whether it listens on every interface, whatever it is told.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    setting: ClassVar[str]
    pages: ClassVar[tuple[str, ...]]
    dynamic: ClassVar[bool]
    isolated: ClassVar[bool]
    warm_up_s: ClassVar[int] = 1
    parks_after_s: ClassVar[int] = 0
    health: ClassVar[str] = "/ping"
    listens_everywhere: ClassVar[bool] = False
    environment: ClassVar[Environment]

    def prepare(self, say: Callable[[str], None]) -> None:
        """Make what it needs, on first use.

        Raises
        ------
        PeerUnavailable
            It cannot be had here.
        """
        make(self.environment, say)

    @property
    def version(self) -> str:
        """Its version."""
        return self.environment.version(self.package)

    def place(self, subject: Subject, folder: Path) -> None:
        """Make a new folder with a model as this server takes it; the folder's name is its."""
        subject.copied(folder)

    @abstractmethod
    def running(
        self, subject: Subject, models: Sequence[Path], work: Path
    ) -> AbstractContextManager[Server]:
        """Run it until the block ends.

        Parameters
        ----------
        models
            Folders of the models that it serves from its start. The block begins when the first
            of them has answered; where there is none, when the server answers.
        work
            A new folder of its own.

        Raises
        ------
        PeerFailure
            It does not start.
        """

    def path(self, model: str) -> str:
        """Return where a model is asked."""
        return f"/{model}"

    def request(self, subject: Subject) -> tuple[bytes, str]:
        """Return the body of the request, and its content type."""
        return json.dumps({"instances": [subject.instance]}).encode(), "application/json"

    def answer(self, subject: Subject, body: bytes) -> object:
        """Return what was answered to the request's one instance: a number, or its class."""
        found = json.loads(body)["predictions"][0]
        return label(found) if subject.kind == "probabilities" else found

    def target(self, subject: Subject, port: int, model: str) -> Target:
        """Return the request as the load generator takes it."""
        return Target(f"http://127.0.0.1:{port}{self.path(model)}", *self.request(subject))

    def ask(self, subject: Subject, port: int, model: str) -> object:
        """Ask a model, on a connection of its own; return what it answered.

        Raises
        ------
        ServerFailure
            It refused, or answered something else.
        """
        body = self._ask(port, "POST", self.path(model), *self.request(subject))
        try:
            return self.answer(subject, body)
        except (ValueError, LookupError, TypeError) as error:
            raise ServerFailure(f"{self.path(model)} answered {body[:200]!r}") from error

    def answers(self, subject: Subject, port: int, models: Sequence[Path]) -> bool:
        """Say whether the first of some models answers; without any, whether the server does."""
        try:
            if models:
                self.ask(subject, port, models[0].name)
            else:
                self._ask(port, "GET", self.health)
        except (OSError, http.client.HTTPException, ServerFailure):
            return False
        return True

    def _ask(
        self,
        port: int,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
    ) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        with contextlib.closing(connection):
            return ask(connection, method, path, body, content_type)


def label(probabilities: Sequence[float]) -> int:
    """Return the number of the most probable class."""
    return max(range(len(probabilities)), key=probabilities.__getitem__)
