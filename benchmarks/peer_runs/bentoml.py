"""BentoML: a service whose models are named in its program."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from mmekit_local.ports import free_port
from peer_runs.environments import Environment
from peer_runs.handlers import HANDLERS
from peer_runs.peer import Peer, Server, label
from peer_runs.processes import started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peer_runs.subjects import Subject

_START_S = 90.0
_START_EACH_S = 2.0


class BentoML(Peer):
    """BentoML with all models in one service."""

    name = "bentoml"
    title = "BentoML"
    package = "bentoml"
    setting = (
        "All models in one service, each with an API of its own; adaptive batching of up to 32 "
        "requests; one worker, which is its default."
    )
    pages = (
        "https://docs.bentoml.com/en/latest/get-started/model-composition.html",
        "https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html",
        "https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html",
    )
    dynamic = False
    isolated = False
    environment = Environment("bentoml", ("bentoml==1.4.39",))

    @contextlib.contextmanager
    def running(self, subject: Subject, models: Sequence[Path], work: Path) -> Iterator[Server]:
        """Run a service that knows these models."""
        port = free_port("127.0.0.1")
        program = str(self.environment.python.with_name("bentoml"))
        command = [program, "serve", "bentoml_service:Served", "--working-dir", str(HANDLERS)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        variables = {
            **self.environment.variables(),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(work / "home"),
            "PEER_MODELS": os.pathsep.join(map(str, models)),
            "PEER_TEXT": "1" if subject.kind == "text" else "",
        }

        def ready() -> bool:
            return self.answers(subject, port, models)

        within = _START_S + _START_EACH_S * len(models)
        with started(command, variables, work, ready=ready, within_s=within):
            yield Server(port)

    def answer(self, subject: Subject, body: bytes) -> object:
        """Return what was answered to the request's one instance."""
        found = json.loads(body)[0]
        return label(found) if subject.kind == "probabilities" else found
