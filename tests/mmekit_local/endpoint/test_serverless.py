"""Serverless variants: started on demand, as many requests at once as they may have, and gone."""

import asyncio
import collections
import sys

import psutil
import pytest

from mmekit_local.sagemaker.errors import AwsError
from mmekit_local.sagemaker.specification import ServerlessSpecification
from tests.server_process import give_slots

SLOW = b'{"seconds": 0.5}'


async def outcomes_of(calls):
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return collections.Counter(
        (one.status, one.code) if isinstance(one, AwsError) else "answer" for one in outcomes
    )


def test_of_160_clients_at_once_150_are_answered_and_10_throttled(rehearse):
    async def story(on):
        assert on.variant.instances == ()
        expected = {"answer": 150, (400, "ThrottlingException"): 10}
        # Once while the container is starting, and once when it is there.
        for _ in range(2):
            assert await outcomes_of(on.seen(body=SLOW) for _ in range(160)) == expected
        assert await outcomes_of(on.seen() for _ in range(150)) == {"answer": 150}

    rehearse(
        story, serverless=ServerlessSpecification(2048, 150), data_url="s3://models/only.tar.gz"
    )


SLEEPER = b"""
import time

from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    time.sleep(1)
    return Output().add_as_json({"slept": 1})
"""


@pytest.mark.thorough
@pytest.mark.parametrize("slots", [True, False])
def test_as_many_requests_of_a_second_as_are_let_in_are_answered(rehearse, tmp_path, slots):
    if slots and sys.platform != "linux":
        pytest.skip("slots need Linux")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.py").write_bytes(SLEEPER)
    (folder / "serving.properties").write_bytes(b"engine=Python\nmaxWorkers=1\n")
    if slots:
        give_slots(folder)
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (*folder.rglob("*"), *folder.glob("mmekit_runtime/**/*.py"))
        if path.is_file()
    }

    async def story(on):
        found = await outcomes_of(on.seen() for _ in range(170))
        assert found == {"answer": 150, (400, "ThrottlingException"): 20}

    def prepare(on):
        on.objects["models/sleeper.tar.gz"] = rehearse.archive(files)

    rehearse(
        story,
        container="embedded",
        prepare=prepare,
        serverless=ServerlessSpecification(2048, 150),
        data_url="s3://models/sleeper.tar.gz",
    )


def test_it_starts_on_demand_with_its_memory_and_scales_to_zero(rehearse):
    async def story(on):
        assert on.fleet.snapshot().variants[0].instances == ()
        first, second = await asyncio.gather(on.seen(), on.seen())
        assert first["memory"] == 3072 << 20
        assert second["pid"] == first["pid"]
        await on.until(lambda: not on.fleet.snapshot().variants[0].instances)
        await on.until(lambda: not psutil.pid_exists(first["pid"]))
        again = await on.seen()
        assert again["pid"] != first["pid"]
        assert on.variant.metrics.setup.ever == 2
        assert any("scaled to zero" in event.text for event in on.events("instance"))

    rehearse(
        story,
        serverless=ServerlessSpecification(3072, 5),
        data_url="s3://models/only.tar.gz",
        serverless_idle_seconds=0.3,
    )


def test_a_container_that_dies_is_started_again_by_the_next_request(rehearse):
    async def story(on):
        first = await on.seen()
        with pytest.raises(AwsError, match="gave no answer"):
            await on.seen(body=b'{"exit": 3}')
        await on.until(lambda: not on.variant.instances)
        assert (await on.seen())["pid"] != first["pid"]

    rehearse(story, serverless=ServerlessSpecification(1024, 5), data_url="s3://models/only.tar.gz")


def test_a_container_that_does_not_start_is_a_model_error_with_its_reason(rehearse):
    async def story(on):
        for _ in range(2):
            with pytest.raises(AwsError, match="no engine to be found") as raised:
                await on.seen()
            assert (raised.value.status, raised.value.code) == (424, "ModelError")

    rehearse(
        story,
        serverless=ServerlessSpecification(1024, 5),
        data_url="s3://models/only.tar.gz",
        environment={"REFUSE_TO_START": "yes"},
    )


def test_a_body_over_4_mb_is_a_validation_error(rehearse):
    async def story(on):
        limit = 4 * 1024 * 1024
        assert (await on.seen(body=b"x" * limit))["length"] == limit
        with pytest.raises(AwsError, match="at 'body'") as raised:
            await on.seen(body=b"x" * (limit + 1))
        assert (raised.value.status, raised.value.code) == (400, "ValidationError")

    rehearse(story, serverless=ServerlessSpecification(1024, 5), data_url="s3://models/only.tar.gz")


def test_provisioned_concurrency_keeps_a_container(rehearse):
    async def story(on):
        (instance,) = on.variant.instances
        assert (await on.seen())["pid"] == instance.pid
        await asyncio.sleep(0)  # the idle time is 0: had it one, the expiry would come first
        assert on.variant.instances == (instance,)

    rehearse(
        story,
        serverless=ServerlessSpecification(1024, 5, provisioned_concurrency=1),
        data_url="s3://models/only.tar.gz",
        serverless_idle_seconds=0.0,
    )


def test_what_waits_for_the_container_is_answered_before_it_stops(rehearse):
    async def story(on):
        waiting = [asyncio.ensure_future(on.seen()) for _ in range(3)]
        await on.until(lambda: on.fleet.snapshot().variants[0].instances)
        await on.fleet.stop(drain=True)
        assert {one["name"] for one in await asyncio.gather(*waiting)} == {"only"}

    rehearse(story, serverless=ServerlessSpecification(1024, 5), data_url="s3://models/only.tar.gz")
