"""What a server tells about its models: names, states, workers.

Sources: DescribeWorkflowResponse, ListModelsResponse, ModelManager.workerStatus and
ModelInfo.inferModelNameFromUrl of DJL Serving 0.36.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mmekit_local.server import metrics

if TYPE_CHECKING:
    from mmekit_local.server.registry import Registry, ServedModel

_NO_NAME = re.compile(r"\W|^_", re.ASCII)
_ARCHIVE = re.compile(r"\.(tar\.gz|tar\.z|tar|tgz|zip|[^.]*)$")


def name_of(url: str) -> str:
    """Return the name of a model that is loaded without one.

    Examples
    --------
    >>> name_of("file:///opt/models/extra-trees/"), name_of("/opt/models/iris.tar.gz")
    ('extra_trees', 'iris')
    """
    with contextlib.suppress(ValueError):  # of what is no URL
        url = urlsplit(url).path
    path = unquote(url)
    name = path.rstrip("/").rpartition("/")[2]
    if not path.endswith("/"):
        name = _ARCHIVE.sub("", name)
    return _NO_NAME.sub("_", name)


def listed(registry: Registry) -> list[dict[str, str]]:
    """Return an entry for every model, those that are being loaded among them, by name."""
    loaded = {
        model.name: {"modelName": model.name, "modelUrl": model.url, "status": model.status}
        for model in registry
    }
    for name, url in registry.loading.items():
        loaded[name] = {"modelName": name, "modelUrl": url, "status": "PENDING"}
    return [loaded[name] for name in sorted(loaded)]


def health(registry: Registry) -> dict[str, str]:
    """Return the state of every model, as ``/ping`` has it."""
    models = {model.name: _health(model) for model in registry}
    return models | dict.fromkeys(registry.loading, "PENDING")


def of_model(model: ServedModel) -> dict[str, Any]:
    """Return everything about one model."""
    pool = model.pool
    processes = metrics.of_processes(model)
    parking = metrics.parking_of(model)
    workers = [
        {
            "id": worker.number + 1,
            "startTime": _timestamp(worker.started_at),
            "status": "READY",
            "pid": worker.pid,
        }
        for worker in pool.workers
    ]
    group = {
        "device": {"deviceType": "cpu", "deviceId": -1},
        "minWorkers": pool.size.min_workers,
        "maxWorkers": pool.size.max_workers,
        "workers": workers,
    }
    description = {
        "modelName": model.name,
        "modelUrl": model.url,
        "batchSize": pool.size.batch_size,
        "maxBatchDelayMillis": round(pool.size.max_batch_delay_s * 1000),
        "maxIdleSeconds": round(pool.size.max_idle_s),
        "queueSize": pool.size.queue_size,
        "requestInQueue": pool.queued,
        "status": _health(model),
        "loadedAtStartup": model.at_start,
        "workerGroups": [group],
        # Not in DJL Serving.
        "processes": [asdict(process) for process in processes],
        "parking": {
            "state": "PARKED" if parking.since else "AWAKE",
            "since": _timestamp(parking.since) if parking.since else None,
            "parks": parking.parks,
            "wakes": parking.wakes,
            "wakeSeconds": parking.wake_s,
        },
        "memory": {
            "admittedBytes": model.admitted_bytes,
            "usedBytes": sum(process.proportional_bytes for process in processes),
        },
    }
    return {"workflowName": model.name, "models": [description]}


def _health(model: ServedModel) -> str:
    if model.pool.failed:
        return "FAILED"
    enough = len(model.pool.workers) >= model.pool.size.min_workers
    return "Healthy" if enough else "Unhealthy"


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
