"""The rehearsal in a template process: it leaves nothing behind but what others share."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from mmekit.engine import engine_folder

REHEARSE = """
import json, logging, os, sys, threading
import numpy
import mmekit_runtime.slots.model_process
from mmekit_runtime.slots import rehearsal

def state():
    root = logging.getLogger()
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "logging": [len(root.handlers), root.level],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": sys.argv,
        "scratch": os.listdir(os.environ["TMPDIR"]),
        "standard": [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)],
    }

before = state()
for _ in range(2):
    rehearsal.rehearse()
models = [name for name in sys.modules if name.startswith("model")]
left = {name: [value, now] for (name, value), now in zip(before.items(), state().values())
        if value != now}
print(json.dumps([left, models]))
"""


def test_a_rehearsal_changes_nothing_that_a_model_would_see(tmp_path):
    variables = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(engine_folder()), *filter(None, sys.path)]),
    }

    done = subprocess.run(
        [sys.executable, "-c", REHEARSE],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout) == [{}, []], done.stdout
    assert done.stderr == ""
