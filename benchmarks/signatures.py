"""What checking requests against a signature costs.

Two models of the same coefficients on one embedded server, each behind worker slots: a `Handler`
with rows of ten numbers, and a `TableHandler` whose signature has ten named columns. Both get the
same bytes (lists, in the order of training) from 8 connections, in turn.

    .venv/bin/python benchmarks/signatures.py [--seconds 5] [--rounds 7] [--server djl]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from reporting import Conditions
from sklearn.linear_model import Ridge
from slot_runs.servers import running, why_not

import mmekit
from mmekit.archive import pack, unpack
from mmekit_bench import Target, measure
from mmekit_runtime.signature import FILE_NAME

CONNECTIONS = 8
COLUMNS = 10
MOST_PERCENT = 15

_MODEL = """import joblib
from mmekit_runtime import {base}

class Model({base}):
    def load(self, folder):
        return joblib.load(folder / "model.joblib")

    def predict(self, model, rows, parameters):
        return model.predict(rows)

handle = Model()
"""


def main() -> int:
    """Measure, print a line for each round, and the ratio; 1 when it is below the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each")
    parser.add_argument("--server", choices=("embedded", "djl"), default="embedded")
    arguments = parser.parse_args()
    reason = why_not(arguments.server)
    if reason is not None:
        sys.exit(reason)
    machine = Conditions.this()
    machine.warn_if_busy()
    print(machine)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmekit-signatures-")))
        server = stack.enter_context(running(arguments.server))
        body = _train(work)
        targets = {}
        for base in ("Handler", "TableHandler"):
            server.load(base, _unpacked(work, base))
            target = Target(server.url(base), body, "application/json")
            measure(target, CONNECTIONS, 2)
            targets[base] = target
        ratios = []
        for _ in range(arguments.rounds):
            rates = {
                base: measure(target, CONNECTIONS, arguments.seconds).requests_per_second
                for base, target in targets.items()
            }
            ratios.append(rates["TableHandler"] / rates["Handler"])
            said = ", ".join(f"{base} {rate:,.0f} a second" for base, rate in rates.items())
            print(f"{said}: {ratios[-1]:.2f}", flush=True)
    cost = (1 - statistics.median(ratios)) * 100
    print(f"A signature of {COLUMNS} columns costs {cost:.1f} % (median), at most {MOST_PERCENT} %")
    return int(cost > MOST_PERCENT)


def _train(work: Path) -> bytes:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        random.normal(size=(200, COLUMNS)), columns=[f"column {place}" for place in range(COLUMNS)]
    )
    target = frame.sum(axis=1)
    for base, table in (("Handler", frame.to_numpy()), ("TableHandler", frame)):
        artifacts = work / base / "artifacts"
        artifacts.mkdir(parents=True)
        model = Ridge().fit(table, target)
        joblib.dump(model, artifacts / "model.joblib")
        if base == "TableHandler":
            signature = mmekit.signature(frame, target, model)
            (artifacts / FILE_NAME).write_bytes(signature.to_json())
    return json.dumps({"instances": frame[:1].to_numpy().tolist()}).encode()


def _unpacked(work: Path, base: str) -> Path:
    package = work / base / "package"
    package.mkdir()
    (package / "model.py").write_text(_MODEL.format(base=base))
    (package / "serving.properties").write_text("engine=Python\nminWorkers=1\nmaxWorkers=16\n")
    archive = work / f"{base}.tar.gz"
    pack(package, work / base / "artifacts", archive)
    folder = work / base / "model"
    unpack(archive, folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
