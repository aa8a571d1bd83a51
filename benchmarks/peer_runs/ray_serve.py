"""Ray Serve: one deployment that multiplexes models, on a cluster of this machine alone."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mmekit_local.ports import free_port
from peer_runs import loopback
from peer_runs.environments import Environment
from peer_runs.handlers import HANDLERS
from peer_runs.peer import Peer, Server
from peer_runs.processes import PeerFailure, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peer_runs.subjects import Subject

_START_S = 120.0


class RayServe(Peer):
    """Ray Serve with a multiplexed deployment."""

    name = "ray"
    title = "Ray Serve"
    package = "ray"
    setting = (
        "One deployment that multiplexes its models, as for many models of the same shape; "
        "batches of up to 32 requests without waiting; one replica, which is its default; the "
        "flags for throughput; its own proxy, and not HAProxy, which is an option."
    )
    pages = (
        "https://docs.ray.io/en/latest/serve/model-multiplexing.html",
        "https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html",
        "https://docs.ray.io/en/latest/serve/advanced-guides/performance.html",
    )
    dynamic = True
    isolated = False
    environment = Environment("ray", ("ray[serve]==2.60.0",))
    health = "/-/healthz"
    listens_everywhere = True

    @contextlib.contextmanager
    def running(self, subject: Subject, models: Sequence[Path], work: Path) -> Iterator[Server]:
        """Run it on a folder in which its deployment looks for a model that it is asked for."""
        if not loopback.alone():
            raise PeerFailure("it would listen on every interface")
        store = work / "models"
        store.mkdir()
        port = free_port("127.0.0.1")
        program = str(HANDLERS / "ray_application.py")
        temporary = work / "r"
        command = [str(self.environment.python), program, str(port), str(store), str(temporary)]
        variables = {
            **self.environment.variables(),
            "PYTHONPATH": str(HANDLERS),
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "90",
        }

        def load(folder: Path) -> None:
            # There is nothing to tell it: the first request loads the model.
            (store / folder.name).symlink_to(folder)

        def ready() -> bool:
            return self.answers(subject, port, models)

        for folder in models:
            load(folder)
        with started(command, variables, work, ready=ready, within_s=_START_S):
            yield Server(port, load)
