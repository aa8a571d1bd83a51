"""Packs archives with the mmekit that PYTHONPATH names: one list of jobs in JSON on its input.

A program of its own, as archives of the code before layers are wanted as well. A job has the
arguments of pack, and ``measured``: the measured.json of the same model with other coefficients,
which is not to be measured once more. Printed is one line of JSON for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mmekit.archive import pack
from mmekit.archive.measure import fingerprint
from mmekit.archive.package import MEASURED_FILE, merge, read_artifacts, read_package


def main() -> None:
    """Pack what is asked for."""
    for job in json.load(sys.stdin):
        print(json.dumps(_packed(job)), flush=True)


def _packed(job: dict[str, Any]) -> dict[str, Any]:
    package, artifacts, output = (Path(job[name]) for name in ("package", "artifacts", "output"))
    measured = job.get("measured")
    if measured is not None:
        content = json.loads(Path(measured).read_text())
        contents = merge(read_package(package), read_artifacts(artifacts))
        text = json.dumps({**content, "fingerprint": fingerprint(contents)})
        (artifacts / MEASURED_FILE).write_text(text)
    packed = pack(package, artifacts, output, **job.get("options", {}))
    return {"path": str(packed.path), "sha256": packed.sha256, "size": packed.size}


if __name__ == "__main__":
    main()
