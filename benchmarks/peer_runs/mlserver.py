"""MLServer: all models of a pool in each of its processes."""

from __future__ import annotations

import contextlib
import json
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

_HOST = "127.0.0.1"
_START_S = 90.0
_BATCH = 32
_BATCH_S = 0.001
_RUNTIMES = {
    "linear_regression": "mlserver_sklearn.SKLearnModel",
    "extra_trees_classifier": "mlserver_sklearn.SKLearnModel",
    "catboost_classifier": "mlserver_catboost.CatboostModel",
    "setfit_classifier": "mlserver_setfit.SetFitClassifier",
}


class MLServer(Peer):
    """MLServer with the runtimes that its project offers; SetFit has one of three lines."""

    name = "mlserver"
    title = "MLServer"
    package = "mlserver"
    setting = (
        "Its runtimes for scikit-learn and CatBoost, a custom one for SetFit; V2 inference "
        "protocol; one inference worker, which is its default."
    )
    pages = (
        "https://docs.seldon.ai/mlserver/runtimes/sklearn",
        "https://docs.seldon.ai/mlserver/runtimes/catboost",
        "https://docs.seldon.ai/mlserver/user-guide/custom",
        "https://docs.seldon.ai/mlserver/user-guide/parallel-inference",
        "https://docs.seldon.ai/mlserver/examples/model-repository",
    )
    dynamic = True
    isolated = False
    environment = Environment(
        "mlserver",
        (
            *("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "mlserver-catboost==1.7.1"),
            "uvloop==0.21.0",  # of its time: with 0.23 its workers do not start
        ),
    )
    health = "/v2/health/ready"

    def place(self, subject: Subject, folder: Path) -> None:
        """Write its settings beside the artefacts, as a repository of models has them."""
        subject.copied(folder)
        settings = {
            "name": folder.name,
            "implementation": _RUNTIMES[subject.name],
            "parameters": {"uri": "." if subject.kind == "text" else _file(folder)},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))

    @contextlib.contextmanager
    def running(self, subject: Subject, models: Sequence[Path], work: Path) -> Iterator[Server]:
        """Run it on a repository of its own, in which models appear when they are loaded."""
        repository = work / "models"
        repository.mkdir()
        for folder in models:
            (repository / folder.name).symlink_to(folder)
        port, grpc, metrics = (free_port(_HOST) for _ in range(3))
        settings = {
            "host": _HOST,
            "http_port": port,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "model_repository_root": str(repository),
        }
        (repository / "settings.json").write_text(json.dumps(settings))
        variables = {**self.environment.variables(), "PYTHONPATH": str(HANDLERS)}
        command = [str(self.environment.python.with_name("mlserver")), "start", str(repository)]

        def load(folder: Path) -> None:
            (repository / folder.name).symlink_to(folder)
            self._ask(port, "POST", f"/v2/repository/models/{folder.name}/load")

        def ready() -> bool:
            return self.answers(subject, port, models)

        with started(command, variables, work, ready=ready, within_s=_START_S):
            yield Server(port, load)

    def path(self, model: str) -> str:
        """Return where a model is asked."""
        return f"/v2/models/{model}/infer"

    def request(self, subject: Subject) -> tuple[bytes, str]:
        """Return the request in the V2 inference protocol."""
        instance = subject.instance
        if isinstance(instance, str):
            data = {"datatype": "BYTES", "shape": [1, 1], "data": [instance]}
            data["parameters"] = {"content_type": "str"}
        else:
            data = {"datatype": "FP64", "shape": [1, len(instance)], "data": instance}
        return json.dumps({"inputs": [{"name": "input", **data}]}).encode(), "application/json"

    def answer(self, subject: Subject, body: bytes) -> object:  # noqa: ARG002
        """Return what was answered to the request's one instance."""
        (output,) = json.loads(body)["outputs"]
        return output["data"][0]


def _file(folder: Path) -> str:
    return next(f"./{one.name}" for one in sorted(folder.iterdir()) if one.stem == "model")
