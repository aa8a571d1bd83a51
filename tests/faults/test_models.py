"""The disk of an endpoint's instances, when it is really full: nothing that is left has to stay."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tests.faults.conftest import fill
from tests.mmekit_local.endpoint.conftest import Service, _start_service, archive_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL_BYTES = 1 << 20


@pytest.fixture
def service(tmp_path: Path, small_folder: Path) -> Iterator[Service]:
    """Start a service whose models are on a small disk; five of them would not fit twice."""
    running = _start_service(tmp_path, TMPDIR=str(small_folder))
    for key in "abcde":
        size = MODEL_BYTES - (ord(key) << 8)  # each fits where the one before was
        running.put(f"{key}.tar.gz", archive_of(noise=size))
    running.create_endpoint("small")
    yield running
    running.stop()


def loads(service: Service, key: str) -> int:
    """Ask a model; return how often the container has loaded it."""
    return int(service.seen("small", f"{key}.tar.gz")["loads"])


def test_idle_models_make_room_on_a_disk_that_others_have_filled(service, small_folder):
    for key in "abc":
        loads(service, key)
    fill(small_folder)

    for key in "deabcde":
        loads(service, key)

    assert service.log.count("unloaded to make room on disk") >= 5
    assert "Traceback" not in service.log


def test_a_model_in_use_stays_until_it_has_answered(service, small_folder, tmp_path):
    gate = tmp_path / "gate"
    loads(service, "a")
    fill(small_folder)
    wish = json.dumps({"hold": str(gate)}).encode()
    with ThreadPoolExecutor() as threads:
        try:
            held = threads.submit(service.seen, "small", "a.tar.gz", wish)
            service.wait_until(gate.with_name("gate.held").exists)
            other = threads.submit(loads, service, "b")
        finally:
            gate.touch()
        assert held.result()["loads"] == 1
        assert other.result() == 1


def test_what_fits_nowhere_is_refused_and_moves_nobody(service, small_folder):
    loads(service, "a")
    service.put("f.tar.gz", archive_of(zeros=16 * MODEL_BYTES))
    with pytest.raises(ClientError, match="no space left on the instance's disk"):
        loads(service, "f")
    assert loads(service, "a") == 1
    assert "unloaded" not in service.log

    full = fill(small_folder)
    with pytest.raises(ClientError, match="no space left on the instance's disk"):
        service.seen("small", "f.tar.gz")
    full.unlink()
    assert loads(service, "b") == 1
