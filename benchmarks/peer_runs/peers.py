"""All servers under test: those that have environments of their own, and the order of all."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from mmekit_local.ports import free_port
from peer_runs import loopback
from peer_runs.containers import DjlSlots, DjlStock, Mmekit, Mms
from peer_runs.environments import Environment
from peer_runs.handlers import HANDLERS
from peer_runs.peer import Peer, Server, label
from peer_runs.processes import PeerFailure, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peer_runs.subjects import Subject

_HOST = "127.0.0.1"
_START_S, _RAY_START_S = 90.0, 120.0
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

        within = _START_S + 2.0 * len(models)
        with started(command, variables, work, ready=ready, within_s=within):
            yield Server(port)

    def answer(self, subject: Subject, body: bytes) -> object:
        """Return what was answered to the request's one instance."""
        found = json.loads(body)[0]
        return label(found) if subject.kind == "probabilities" else found


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
        within = _START_S + 6.0 * len(models)  # a process each
        with started(command, variables, work, ready=ready, within_s=within):
            yield Server(port)


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
        with started(command, variables, work, ready=ready, within_s=_RAY_START_S):
            yield Server(port, load)


PEERS: dict[str, Peer] = {
    one.name: one
    for one in (
        Mmekit(),
        DjlSlots(),
        DjlStock(),
        Mms(),
        MLServer(),
        BentoML(),
        LitServe(),
        RayServe(),
    )
}
OURS = Mmekit.name
