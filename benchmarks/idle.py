"""What endpoints take of a core while nobody asks them: `mme up`, its containers, their models.

Each endpoint is multi-model, of one instance, on the embedded server, and has one model loaded
that was asked once. Three minutes with 25 of them::

    .venv/bin/python benchmarks/idle.py --endpoints 25 --seconds 60

With a page open as well, and as JSON::

    .venv/bin/python benchmarks/idle.py --page --json

Everything runs on loopback, and is ended at the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from endpoint_runs.models import SmallModel, small_model
from endpoint_runs.service import BUCKET, Service, running

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTLING_S = 60.0
"""What has just been loaded and asked is looked at more often for a while: that is no rest yet."""


@dataclass(frozen=True)
class Idle:
    """Processor time of everything that runs while nobody asks.

    Attributes
    ----------
    percent
        Of one core, all together.
    by_kind
        Of one core, by what it is: the service, its containers, what those have started.
    wakes_a_second
        Voluntary context switches: how often something had to be woken to look at something.
    """

    endpoints: int
    seconds: float
    page: bool
    percent: float
    by_kind: dict[str, float]
    wakes_a_second: float


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="mme-idle-") as name:
        work = Path(name).resolve()
        model = small_model("ridge", work)
        with running(work, *arguments.options) as service:
            _serve(service, model, arguments.endpoints)
            found = _measure(service, arguments)
    if arguments.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    page = ", a page open" if found.page else ""
    print(
        f"{found.endpoints} endpoints, {found.seconds:.0f} s{page}: {found.percent:.1f} % of a core"
    )
    for kind, percent in found.by_kind.items():
        print(f"  {kind:<28} {percent:5.1f} %")
    print(f"  woken                        {found.wakes_a_second:5.0f} times a second")
    return 0


def _serve(service: Service, model: SmallModel, endpoints: int) -> None:
    runtime = service.client("sagemaker-runtime")
    for number in range(endpoints):
        name = f"idle-{number:02}"
        service.upload(model.archive, [f"{name}/model.tar.gz"], lambda: None)
        service.create_model(name, f"s3://{BUCKET}/{name}/")
        service.create_endpoint(name, {"InstanceType": "ml.m6i.large", "InitialInstanceCount": 1})
        runtime.invoke_endpoint(
            EndpointName=name,
            TargetModel="model.tar.gz",
            Body=model.request,
            ContentType="application/json",
        )


def _measure(service: Service, arguments: argparse.Namespace) -> Idle:
    if arguments.page:
        threading.Thread(target=_look, args=(service.url,), daemon=True).start()
    time.sleep(_SETTLING_S)
    before, began = dict(_looked_at(service)), time.monotonic()
    time.sleep(arguments.seconds)
    after, seconds = dict(_looked_at(service)), time.monotonic() - began
    by_kind: dict[str, float] = {}
    wakes = 0.0
    for (pid, kind), (cpu, switches) in after.items():
        then = before.get((pid, kind), (0.0, 0))
        by_kind[kind] = by_kind.get(kind, 0.0) + 100 * (cpu - then[0]) / seconds
        wakes += (switches - then[1]) / seconds
    return Idle(
        arguments.endpoints,
        round(seconds, 1),
        arguments.page,
        round(sum(by_kind.values()), 2),
        {kind: round(percent, 2) for kind, percent in by_kind.items()},
        round(wakes, 1),
    )


def _looked_at(service: Service) -> Iterator[tuple[tuple[int, str], tuple[float, int]]]:
    """Yield ((process id, what it is), (seconds of processor, voluntary switches))."""
    root = psutil.Process(service.pid)
    containers = root.children()
    yield (root.pid, "the service"), _spent(root)
    for container in containers:
        yield (container.pid, "containers"), _spent(container)
        for process in container.children(recursive=True):
            yield (process.pid, "fork servers and models"), _spent(process)


def _spent(process: psutil.Process) -> tuple[float, int]:
    try:
        times = process.cpu_times()
        return times.user + times.system, process.num_ctx_switches().voluntary
    except psutil.Error:
        return 0.0, 0


def _look(url: str) -> None:
    """Read what a page is told, until the service ends."""
    with urllib.request.urlopen(f"{url}/_mme/events") as stream:  # noqa: S310 - of loopback
        while stream.read1(1 << 16):
            pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--endpoints", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--page", action="store_true", help="have a page open meanwhile")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("options", nargs="*", help="of mme up, after --")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
