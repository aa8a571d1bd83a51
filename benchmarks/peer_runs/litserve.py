"""LitServe: a server's models are named in its program, and each has a process of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mmekit_local.ports import free_port
from peer_runs.environments import Environment
from peer_runs.handlers import HANDLERS
from peer_runs.peer import Peer, Server
from peer_runs.processes import started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peer_runs.subjects import Subject

_START_S = 90.0
_START_EACH_S = 6.0


class LitServe(Peer):
    """LitServe with one LitAPI for each model."""

    name = "litserve"
    title = "LitServe"
    package = "litserve"
    setting = (
        "One `LitAPI` for each model, on one port; batches of up to 32 requests without waiting, "
        "the fast queue, one worker."
    )
    pages = (
        "https://lightning.ai/docs/litserve/features/multiple-apis-single-port",
        "https://lightning.ai/docs/litserve/features/batching",
        "https://lightning.ai/docs/litserve/api-reference/litserver",
    )
    dynamic = False
    isolated = True
    environment = Environment("litserve", ("litserve==0.2.19",))

    @contextlib.contextmanager
    def running(self, subject: Subject, models: Sequence[Path], work: Path) -> Iterator[Server]:
        """Run a server that knows these models."""
        port = free_port("127.0.0.1")
        command = [
            str(self.environment.python),
            str(HANDLERS / "litserve_server.py"),
            str(port),
            *map(str, models),
        ]

        def ready() -> bool:
            return self.answers(subject, port, models)

        variables = self.environment.variables()
        within = _START_S + _START_EACH_S * len(models)
        with started(command, variables, work, ready=ready, within_s=within):
            yield Server(port)
