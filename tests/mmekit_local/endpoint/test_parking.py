"""Models of the embedded server that nobody asks: loaded still, and in no memory."""

from __future__ import annotations

import json

import pytest

from mmekit_local.sagemaker.instances.container_client import _described
from mmekit_local.sagemaker.page.feed import _instance
from mmekit_local.sagemaker.snapshot import ParkingSnapshot
from tests.server_process import RUNTIME

MIB = 1 << 20
SIZE = 24
OWN = 120
"""MiB that a server, its fork server and a parent have besides their models."""

HEAVY = b"""
import os
from djl_python import Output

content = None

def handle(inputs):
    global content
    if inputs.is_empty():
        content = os.urandom(1 << 20) * 20
        return None
    return Output().add_as_json({"size": len(content)})
"""
PROPERTIES = (
    f"engine=Python\nmaxWorkers=1\nrequired_memory_mb={SIZE}\nreserved_memory_mb=0\n"
    "option.park_after={after}\n"
)


def slotted(rehearse, after):
    """Return an archive of a heavy model with worker slots."""
    runtime = {
        f"mmekit_runtime/{path.relative_to(RUNTIME)}": path.read_bytes()
        for path in RUNTIME.rglob("*.py")
    }
    files = {
        "model.py": HEAVY,
        "serving.properties": PROPERTIES.format(after=after).encode(),
        "sitecustomize.py": (RUNTIME / "site_hook.py").read_bytes(),
        **runtime,
    }
    return rehearse.archive(files)


def test_a_parked_model_is_loaded_and_the_instances_memory_falls(rehearse):
    async def story(rehearsal):
        assert (await rehearsal.seen("m.tar.gz"))["size"] == 20 * MIB
        await rehearsal.until(lambda: model_of(rehearsal).memory_bytes)
        await rehearsal.until(lambda: rehearsal.only_instance().memory_bytes)
        awake = rehearsal.only_instance()

        await rehearsal.until(lambda: model_of(rehearsal).parking.since)
        parked = await rehearsal.until(
            lambda: (one := rehearsal.only_instance()).memory_bytes < awake.memory_bytes and one
        )

        (model,) = parked.models
        assert (model.state, model.memory_bytes) == ("loaded", 0)
        assert parked.memory_bytes < awake.memory_bytes - 15 * MIB
        shown = _instance(parked)
        assert shown["loaded"] == 1
        assert shown["models"][0]["state"] == "parked"
        assert shown["models"][0]["parkedAt"] == model.parking.since

        await rehearsal.seen("m.tar.gz")
        assert model_of(rehearsal).parking.since is None
        await rehearsal.until(lambda: model_of(rehearsal).parking.wakes)
        assert _instance(rehearsal.only_instance())["models"][0]["wakes"] >= 1
        assert rehearsal.events("eviction") == []

    def model_of(rehearsal):
        return rehearsal.only_instance().models[0]

    def prepare(rehearsal):
        rehearsal.objects["models/m.tar.gz"] = slotted(rehearse, after=4)

    rehearse(story, container="embedded", prepare=prepare)


def test_an_instance_has_more_models_than_fit_awake_and_evicts_none(rehearse):
    targets = [f"m{number}.tar.gz" for number in range(14)]

    async def story(rehearsal):
        for _ in range(2):
            for target in targets:
                assert (await rehearsal.seen(target))["size"] == 20 * MIB
        await rehearsal.until(lambda: rehearsal.only_instance().memory_bytes)
        instance = rehearsal.only_instance()

        assert rehearsal.events("eviction") == []
        assert [model.state for model in instance.models] == ["loaded"] * len(targets)
        assert instance.memory_bytes < instance.memory_limit

    def prepare(rehearsal):
        archive = slotted(rehearse, after=300)
        for target in targets:
            rehearsal.objects[f"models/{target}"] = archive

    rehearse(
        story,
        container="embedded",
        prepare=prepare,
        memory=(OWN + 6 * SIZE) * MIB,
        environment={"MMEKIT_SLOTS_SPARES": "0"},
    )


@pytest.mark.parametrize(
    ("parking", "told"),
    [
        (None, None),
        ({"since": None, "wakes": 2}, ParkingSnapshot(None, 2)),
        ({"since": "1970-01-01T00:01:00.500Z", "wakes": 0}, ParkingSnapshot(60.5, 0)),
    ],
)
def test_what_a_container_tells_of_parking_is_read_where_it_tells(parking, told):
    model = {"status": "Healthy", "workerGroups": [{"workers": []}]}
    if parking is not None:
        model |= {"parking": parking, "processes": []}

    read = _described(json.dumps([{"models": [model]}]).encode())

    assert read.parking == told
    assert read.memory_bytes == (None if parking is None else 0)
