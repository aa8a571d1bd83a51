"""Instances: what they get, and what happens when one is lost."""

import asyncio
import os
import signal

import psutil
import pytest
from moto.core.utils import get_service_model

from mmekit.instance_types import accelerator_of, instance_type, is_graviton
from mmekit_local.sagemaker.errors import AwsError
from mmekit_local.sagemaker.instances.fleet import FleetStartError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("kind", "memory", "gib"),
    [
        ("ml.m6i.large", None, 8),
        ("ml.c5.xlarge", None, 8),
        ("ml.r5.large", None, 16),
        ("ml.m6i.large", 3 * GIB, 3),
        ("ml.g5.xlarge", None, None),
    ],
)
def test_a_container_has_the_memory_of_its_instance_type(rehearse, kind, memory, gib):
    async def story(on):
        told = (await on.seen("a.tar.gz"))["memory"]
        assert told == (None if gib is None else gib * GIB)

    rehearse(story, instance_type=kind, memory=memory)


@pytest.mark.parametrize(
    ("name", "vcpus", "gib"),
    [
        ("ml.t2.medium", 2, 4),
        ("ml.t2.xlarge", 4, 16),
        ("ml.c4.large", 2, 3.75),
        ("ml.c4.8xlarge", 36, 60),
        ("ml.c5.9xlarge", 36, 72),
        ("ml.m4.10xlarge", 40, 160),
        ("ml.m5d.24xlarge", 96, 384),
        ("ml.r6i.32xlarge", 128, 1024),
        ("ml.c7i.48xlarge", 192, 384),
        ("ml.m8g.medium", 1, 4),
    ],
)
def test_the_table_of_instance_types(name, vcpus, gib):
    found = instance_type(name)
    assert (found.vcpus, found.memory_bytes) == (vcpus, gib * GIB)


@pytest.mark.parametrize("name", ["ml.p3.2xlarge", "m5.large", "ml.m5.huge", "", "ml.m5"])
def test_a_type_that_is_not_in_the_table_is_none(name):
    assert instance_type(name) is None


def test_a_killed_instance_costs_what_was_in_flight_on_it_and_is_replaced(rehearse):
    async def story(on):
        on.put(*(f"{n}.tar.gz" for n in range(4)))
        targets = [f"{n}.tar.gz" for n in range(4)]
        homes = {target: (await on.seen(target))["pid"] for target in targets}
        assert len(set(homes.values())) == 2
        outcomes, stop = [], asyncio.Event()

        async def client(target):
            while not stop.is_set():
                try:
                    outcomes.append((await on.seen(target, b'{"seconds": 0.01}'))["pid"])
                except AwsError as error:
                    outcomes.append(error)

        clients = [asyncio.ensure_future(client(target)) for target in targets]
        await on.until(lambda: len(outcomes) > 20)
        victim = next(one for one in on.variant.instances if one.pid == homes[targets[0]])
        os.kill(victim.pid, signal.SIGKILL)
        await on.until(lambda: victim not in on.variant.instances)
        await on.until(lambda: on.events("instance")[-1].text == "replaced")
        answered = len(outcomes)
        await on.until(lambda: len(outcomes) > answered + 20)
        stop.set()
        await asyncio.gather(*clients)
        failures = [outcome for outcome in outcomes if isinstance(outcome, AwsError)]
        assert len(failures) <= list(homes.values()).count(homes[targets[0]])  # one in flight each
        assert {failure.code for failure in failures} <= {"ModelError"}
        assert sorted(one.number for one in on.variant.instances) == [1, 2]

    rehearse(story, count=2)


def test_the_only_instance_is_replaced_and_says_so_meanwhile(rehearse):
    async def story(on):
        first = (await on.seen("a.tar.gz"))["pid"]
        with pytest.raises(AwsError, match="gave no answer"):
            await on.seen("a.tar.gz", b'{"exit": 3}')
        await on.until(lambda: not on.variant.instances)
        with pytest.raises(AwsError) as raised:
            await on.seen("a.tar.gz")
        assert (raised.value.status, raised.value.code) == (503, "ServiceUnavailable")
        await on.until(lambda: on.variant.instances)
        assert (await on.seen("a.tar.gz"))["pid"] != first
        await on.until(lambda: not psutil.pid_exists(first))
        assert any("exit status 3" in event.text for event in on.events("instance"))

    rehearse(story)


def test_an_instance_whose_ping_fails_again_and_again_is_replaced(rehearse):
    async def story(on):
        first = (await on.seen("a.tar.gz", b'{"unwell": true}'))["pid"]
        await on.until(lambda: on.variant.instances and on.variant.instances[0].pid != first)
        assert (await on.seen("a.tar.gz"))["pid"] != first
        assert any("/ping" in event.text for event in on.events("instance"))

    rehearse(story, health_seconds=0.05)


def test_growing_and_shrinking_under_load_fails_no_request(rehearse):
    async def story(on):
        await on.seen("a.tar.gz")
        outcomes, stop = [], asyncio.Event()

        async def client():
            while not stop.is_set():
                outcomes.append((await on.seen("a.tar.gz", b'{"seconds": 0.02}'))["pid"])

        clients = [asyncio.ensure_future(client()) for _ in range(6)]
        await on.fleet.resize("AllTraffic", 3)
        assert [one.number for one in on.variant.instances] == [1, 2, 3]
        pids = [one.pid for one in on.variant.instances]
        await on.fleet.resize("AllTraffic", 1)
        assert [one.number for one in on.variant.instances] == [1]
        await on.until(lambda: not any(psutil.pid_exists(pid) for pid in pids[1:]))
        stop.set()
        await asyncio.gather(*clients)
        assert on.variant.invocations == len(outcomes) + 1

    rehearse(story, busy_requests=2)


def test_an_instance_that_does_not_come_up_leaves_the_others(rehearse, tmp_path):
    async def story(on):
        on.objects["models/only.tar.gz"] = b"no archive any more"
        with pytest.raises(FleetStartError, match="Failed to extract"):
            await on.fleet.resize("AllTraffic", 2)
        assert (await on.seen())["loads"] == 1
        assert len(on.fleet.snapshot().variants[0].instances) == 1

    rehearse(story, data_url="s3://models/only.tar.gz")


def test_a_fleet_that_was_stopped_starts_no_more_instances(rehearse):
    async def story(on):
        await on.fleet.stop()
        with pytest.raises(FleetStartError, match="deleted before"):
            await on.fleet.resize("AllTraffic", 1)
        assert on.variant.known_instances() == ()

    rehearse(story)


def test_a_snapshot_tells_what_an_instance_takes(rehearse):
    async def story(on):
        await on.seen("a.tar.gz")
        await on.until(lambda: on.only_instance().memory_bytes)
        instance = on.only_instance()
        assert instance.label == "rehearsal/AllTraffic/1"
        assert (instance.state, instance.memory_limit) == ("in service", 8 * GIB)
        assert instance.memory_bytes > 5 << 20
        assert instance.disk_bytes > 0
        assert instance.disk_limit > instance.disk_bytes
        (model,) = instance.models
        assert (model.target, model.state, model.invocations) == ("a.tar.gz", "loaded", 1)
        assert model.disk_bytes == instance.disk_bytes

    rehearse(story)


def test_a_volume_is_as_large_as_the_config_says(rehearse):
    async def story(on):
        await on.seen("a.tar.gz")
        assert on.only_instance().disk_limit == 3 << 30

    rehearse(story, variant={"volume_gb": 3})


def test_a_container_has_as_long_to_start_as_the_config_says(rehearse, tmp_path):
    async def story(_):
        pytest.fail("it has started")

    gate = {"START_AFTER": str(tmp_path / "never")}
    with pytest.raises(FleetStartError, match="within 0 seconds"):
        rehearse(story, environment=gate, variant={"startup_seconds": 0.2})


def test_every_instance_type_is_of_a_kind():
    known = get_service_model("sagemaker").shape_for("ProductionVariantInstanceType").enum
    accelerated = {name.split(".")[1][:2] for name in known if accelerator_of(name)}
    assert accelerated == {"p2", "p3", "p4", "p5", "p6", "g4", "g5", "g6", "g7", "in", "tr", "dl"}
    graviton = {name.split(".")[1].rstrip("dn") for name in known if is_graviton(name)}
    assert graviton == {"c6g", "c7g", "c8g", "m6g", "m8g", "r6g", "r7g", "r8g"}
