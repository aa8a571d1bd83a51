"""Which variant and which instance serve a request."""

import asyncio
import contextlib
import os
import signal


def kill_and_wait(pid):
    """Kill a child and wait until its last thread has ended, which leaves it to be reaped.

    It is a zombie as soon as its first thread has ended: the others keep its sockets open for a
    while, and who connects meanwhile is accepted and never answered.
    """
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # it was reaped already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_models_requests_stick_to_one_instance_and_models_spread(rehearse):
    async def story(on):
        targets = [f"{n}.tar.gz" for n in range(6)]
        on.put(*targets)
        homes = {target: (await on.seen(target))["pid"] for target in targets}
        for _ in range(3):
            assert {target: (await on.seen(target))["pid"] for target in targets} == homes
        counts = [list(homes.values()).count(pid) for pid in set(homes.values())]
        assert sorted(counts) == [3, 3]
        assert len(on.events("cold load")) == 6

    rehearse(story, count=2)


def test_a_hot_model_spills_and_nobody_waits_for_its_second_load(rehearse, tmp_path):
    async def story(on):
        gate = tmp_path / "gate"
        gate.touch()
        on.put("hot.tar.gz", load_after=str(gate))
        await on.seen("hot.tar.gz")
        gate.unlink()
        slow = [asyncio.ensure_future(on.seen("hot.tar.gz", b'{"seconds": 0.2}')) for _ in "123"]
        await on.until(lambda: any(one.is_loading("hot.tar.gz") for one in on.variant.instances))
        await on.seen("hot.tar.gz")
        await asyncio.gather(*slow)
        assert len(on.events("cold load")) == 1  # the second load is not over
        gate.touch()
        await on.until(lambda: len(on.events("cold load")) == 2)
        both = await asyncio.gather(*(on.seen("hot.tar.gz", b'{"seconds": 0.1}') for _ in range(4)))
        assert len({one["pid"] for one in both}) == 2
        assert {one["loads"] for one in both} == {1}

    rehearse(story, count=2, busy_requests=2)


def test_a_request_that_never_began_is_served_by_another_instance(rehearse):
    async def story(on):
        victim = on.variant.instances[0]
        # It blocks: the request is routed before anybody can have noticed the death.
        kill_and_wait(victim.pid)
        assert len(on.variant.instances) == 2
        answers = await asyncio.gather(*(on.seen(target) for target in ("a.tar.gz", "b.tar.gz")))
        assert victim.pid not in {answer["pid"] for answer in answers}

    rehearse(story, count=2)


def test_requests_to_a_single_model_variant_are_shared_among_its_instances(rehearse):
    async def story(on):
        pids = {(await on.seen())["pid"] for _ in range(40)}
        assert len(pids) == 2

    rehearse(story, count=2, data_url="s3://models/only.tar.gz")


def test_weights_share_the_traffic_and_can_be_changed(rehearse):
    async def story(on):
        async def share():
            before = {variant.name: variant.invocations for variant in on.fleet.variants}
            for _ in range(60):
                await on.seen("a.tar.gz", variant=None)
            return {one.name: one.invocations - before[one.name] for one in on.fleet.variants}

        first = await share()
        assert first["AllTraffic"] > first["Other"] > 0
        on.fleet.set_weight("AllTraffic", 0)
        assert await share() == {"AllTraffic": 0, "Other": 60}
        await on.seen("a.tar.gz", variant="AllTraffic")

    rehearse(story, weights={"AllTraffic": 4, "Other": 1})
