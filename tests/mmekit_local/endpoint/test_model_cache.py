"""What an instance has in memory and on disk."""

import asyncio
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import psutil
import pytest

from mmekit_local.sagemaker.errors import AwsError


def test_64_first_calls_are_one_download_and_one_load(rehearse):
    async def story(on):
        on.put("shared.tar.gz", load_seconds=0.3)
        answers = await asyncio.gather(*(on.seen("shared.tar.gz") for _ in range(64)))
        assert {answer["loads"] for answer in answers} == {1}
        assert len({answer["pid"] for answer in answers}) == 1
        assert on.reads == ["shared.tar.gz"]
        assert len(on.events("cold load")) == 1
        assert on.events("cold load")[0].milliseconds >= 300

    rehearse(story, count=2)


def test_more_than_may_wait_for_a_load_are_told_that_it_is_not_ready(rehearse):
    async def story(on):
        on.put("slow.tar.gz", load_seconds=0.5)
        calls = (on.seen("slow.tar.gz") for _ in range(7))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, AwsError)]
        assert [(error.status, error.code) for error in errors] == (
            [(429, "ModelNotReadyException")] * 3
        )
        assert (await on.seen("slow.tar.gz"))["loads"] == 1

    rehearse(story, waiting_requests=4)


def test_a_model_that_was_unloaded_is_loaded_again_from_disk_with_its_old_bytes(rehearse):
    async def story(on):
        for target in ("a.tar.gz", "b.tar.gz"):
            await on.seen(target)
        assert [event.target for event in on.events("eviction")] == ["a.tar.gz"]
        assert {model.state for model in on.only_instance().models} == {"loaded", "on disk"}
        on.put("a.tar.gz", load_status=500)
        await on.seen("a.tar.gz")
        assert on.reads == ["a.tar.gz", "b.tar.gz"]

    rehearse(story, environment={"CAPACITY": "1"})


def test_a_load_waits_for_what_was_unloaded_to_give_its_memory_back(rehearse):
    async def story(on):
        await on.seen("a.tar.gz")
        assert (await on.seen("b.tar.gz"))["loaded"] == 1

    rehearse(story, environment={"CAPACITY": "1", "LINGERS": "0.6"})


def test_a_load_waits_for_room_while_every_model_answers_a_request(rehearse):
    async def story(on):
        await on.seen("a.tar.gz")
        slow = asyncio.ensure_future(on.seen("a.tar.gz", b'{"seconds": 0.5}'))
        await on.until(lambda: on.variant.instances[0].in_flight == 1)
        assert (await on.seen("b.tar.gz"))["loaded"] == 1
        assert (await slow)["loads"] == 1

    rehearse(story, environment={"CAPACITY": "1"})


def test_a_model_that_is_always_busy_makes_room_for_another_and_comes_back(rehearse):
    async def story(on):
        on.put("busy.tar.gz", "waits.tar.gz")
        outcomes, stop = [], asyncio.Event()

        async def client():
            while not stop.is_set():
                outcomes.append(await on.seen("busy.tar.gz", b'{"seconds": 0.05}'))

        clients = [asyncio.ensure_future(client()) for _ in range(3)]
        await on.until(lambda: len(outcomes) > 5)
        await on.seen("waits.tar.gz")
        answered = len(outcomes)
        await on.until(lambda: len(outcomes) > answered + 5)
        stop.set()
        await asyncio.gather(*clients)
        assert any("got no room" in event.text for event in on.events("eviction"))

    rehearse(story, environment={"CAPACITY": "1"})


def test_models_that_grew_beyond_the_memory_are_unloaded_until_one_is_left(rehearse):
    async def story(on):
        for target in ("a.tar.gz", "b.tar.gz"):
            await on.seen(target)
        await on.until(lambda: on.events("eviction"))
        assert [event.target for event in on.events("eviction")] == ["a.tar.gz"]
        assert (await on.seen("b.tar.gz"))["loads"] == 1

    rehearse(story, memory=1 << 20)


def test_without_caching_a_model_is_unloaded_and_deleted_after_its_call(rehearse):
    async def story(on):
        together = await asyncio.gather(*(on.seen("a.tar.gz") for _ in range(4)))
        assert {answer["loads"] for answer in together} == {1}
        await on.until(lambda: not on.only_instance().models)
        assert on.only_instance().disk_bytes == 0
        assert (await on.seen("a.tar.gz"))["loads"] == 2
        assert on.reads == ["a.tar.gz", "a.tar.gz"]
        answers = [await on.seen("b.tar.gz") for _ in range(5)]
        assert [answer["loads"] for answer in answers] == [1, 2, 3, 4, 5]

    rehearse(story, caches=False)


def test_files_beyond_the_disks_budget_are_deleted_least_recently_used_first(rehearse):
    async def story(on):
        targets = [f"{n}.tar.gz" for n in range(4)]
        on.put(*targets, padding=40_000)
        for target in (*targets[:3], targets[0]):
            await on.seen(target)
        # Two fit into memory and three onto the disk: 0 and 2 are loaded, 1 is on disk only.
        on.reads.clear()
        await on.seen(targets[3])
        instance = on.only_instance()
        states = {model.target: model.state for model in instance.models}
        assert states == {targets[0]: "loaded", targets[3]: "loaded", targets[2]: "on disk"}
        assert instance.disk_bytes <= instance.disk_limit == 150_000
        await on.seen(targets[1])
        assert on.reads == [targets[3], targets[1]]

    rehearse(story, environment={"CAPACITY": "2"}, disk_bytes=150_000)


def test_a_full_disk_unloads_idle_models_when_nothing_else_is_left_to_delete(rehearse):
    async def story(on):
        targets = [f"{n}.tar.gz" for n in range(5)]
        on.put(*targets, padding=40_000)
        for target in targets:
            await on.seen(target)
            assert on.only_instance().disk_bytes <= 150_000
        assert {model.state for model in on.only_instance().models} == {"loaded"}
        assert [event.target for event in on.events("eviction")] == targets[:2]

    rehearse(story, disk_bytes=150_000)


def hostile(name="../../../../escaped", kind=tarfile.REGTYPE):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc"
        tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", hostile(), hostile("/etc/x"), hostile("x", tarfile.SYMTYPE), hostile()[:40]],
    ids=["empty", "text", "upwards", "absolute", "link", "cut off"],
)
def test_a_bad_archive_is_a_validation_error_and_leaves_nothing(rehearse, content):
    async def story(on):
        before = await on.seen("a.tar.gz")
        files = on.files()
        on.objects["models/bad.tar.gz"] = content
        with pytest.raises(AwsError, match="Failed to extract model data archive") as raised:
            await on.seen("bad.tar.gz")
        assert (raised.value.status, raised.value.code) == (400, "ValidationError")
        assert on.files() == files
        assert (await on.seen("a.tar.gz"))["pid"] == before["pid"]
        assert any("Failed to extract" in event.text for event in on.events("error"))

    rehearse(story)


def test_an_archive_that_unpacks_to_more_than_the_disk_holds_touches_nothing_else(rehearse):
    async def story(on):
        await on.seen("a.tar.gz")
        files = on.files()
        on.put("large.tar.gz", zeros=1_000_000)
        with pytest.raises(AwsError, match="no space left on the instance") as raised:
            await on.seen("large.tar.gz")
        assert raised.value.code == "ValidationError"
        assert on.files() == files
        assert (await on.seen("a.tar.gz"))["loads"] == 1

    rehearse(story, disk_bytes=100_000)


def test_a_model_whose_load_ends_the_container_is_an_error_and_the_others_come_back(rehearse):
    async def story(on):
        on.put("poison.tar.gz", load_exit=9)
        await on.seen("a.tar.gz")
        with pytest.raises(AwsError, match="gave no answer") as raised:
            await on.seen("poison.tar.gz")
        assert raised.value.code == "ModelError"
        await on.until(lambda: len(on.variant.instances) == 2)
        await on.seen("a.tar.gz")

    rehearse(story, count=2)


@pytest.mark.parametrize("wish", [b'{"fail": true}', b'{"stop": true}'])
def test_a_broken_model_is_mended_and_its_next_request_is_answered(rehearse, wish):
    async def story(on):
        await on.seen("a.tar.gz", wish)
        assert (await on.seen("a.tar.gz"))["loads"] == 2
        assert (await on.seen("a.tar.gz"))["loads"] == 2
        assert any("unloaded and loaded again" in event.text for event in on.events("error"))

    rehearse(story)


def test_a_failed_model_that_nobody_asks_is_mended_and_the_container_stays(rehearse):
    async def story(on):
        first = await on.seen("a.tar.gz", b'{"fail": true}')
        await on.until(lambda: on.events("error"))
        again = await on.seen("a.tar.gz")
        assert (again["pid"], again["loads"]) == (first["pid"], 2)

    rehearse(story, health_seconds=0.2)


DJL_HANDLER = b"""
import os, time
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    time.sleep(float(inputs.get_as_string()))
    return Output().add_as_json({"pid": os.getpid()})
"""
DJL_PROPERTIES = b"engine=Python\nmaxWorkers=1\noption.predict_timeout=1\n"


def test_a_setting_that_the_server_refuses_is_told_and_nothing_counts_as_loaded(rehearse):
    async def story(on):
        for _ in range(2):
            with pytest.raises(AwsError, match="99999999999") as raised:
                await on.seen("model.tar.gz")
            assert raised.value.members["OriginalStatusCode"] == 409
        assert not on.events("cold load")

    def prepare(on):
        properties = b"engine=Python\nminWorkers=99999999999\n"
        files = {"model.py": DJL_HANDLER, "serving.properties": properties}
        on.objects["models/model.tar.gz"] = rehearse.archive(files)

    rehearse(story, prepare=prepare, container="embedded")


@pytest.mark.skipif(not os.environ.get("MMEKIT_DJL_HOME"), reason="MMEKIT_DJL_HOME is not set")
def test_djl_servings_dead_workers_and_failed_models_are_mended(rehearse):
    async def story(on):
        first = (await on.seen("model.tar.gz", b"0"))["pid"]
        os.kill(first, signal.SIGKILL)
        await on.until(lambda: not psutil.pid_exists(first))
        again = await on.seen("model.tar.gz", b"0")
        assert again["pid"] != first
        assert (await on.seen("model.tar.gz", b"0"))["pid"] == again["pid"]
        assert len(on.events("cold load")) == 2
        # A request that takes too long makes DJL Serving mark the model as failed.
        with pytest.raises(AwsError) as raised:
            await on.seen("model.tar.gz", b"3")
        assert raised.value.code == "ModelError"
        assert (await on.seen("model.tar.gz", b"0"))["pid"] != again["pid"]
        assert len(on.events("cold load")) == 3

    def prepare(on):
        files = {"model.py": DJL_HANDLER, "serving.properties": DJL_PROPERTIES}
        on.objects["models/model.tar.gz"] = rehearse.archive(files)

    rehearse(story, prepare=prepare, container="djl")


FULL = """
import asyncio, pathlib, sys
from mmekit_local.sagemaker.errors import AwsError
from mmekit_local.sagemaker.observability.metrics import VariantMetrics
from mmekit_local.sagemaker.instances.model_disk import ModelDisk
from mmekit_local.sagemaker.aws_client import ObjectAddress
from mmekit_local.sagemaker.specification import EndpointId

folder, archive = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes()

async def main():
    metrics = VariantMetrics(EndpointId("1", "r", "e"), "v")
    disk = ModelDisk(folder, lambda bucket, key: archive, 1 << 40, metrics)
    used = set()
    for number in range(3):  # two fit; for a third all is deleted that is not in use
        await disk.fetch(ObjectAddress("b", str(number)), used.__contains__)
    assert [stored.address.key for stored in disk.stored] == ["2"], disk.stored
    try:
        for number in range(3, 6):
            used.update(stored.name for stored in disk.stored)
            await disk.fetch(ObjectAddress("b", str(number)), used.__contains__)
    except AwsError as error:
        assert "no space left on the instance's disk" in error.message, error.message
    else:
        raise AssertionError("they fitted")
    assert len(disk.stored) == len(used) == 2
    assert len(list(folder.iterdir())) == 2

asyncio.run(main())
"""


def test_a_full_disk_makes_room_by_deleting_and_is_not_taken_for_a_broken_archive(
    rehearse, tmp_path
):
    """Needs a file system of its own: a tmpfs in a user namespace of Linux."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False).returncode:
        pytest.skip("this machine grants no user namespaces (unshare -Urm)")
    (tmp_path / "disk").mkdir()
    (tmp_path / "archive").write_bytes(rehearse.archive(noise=1_500_000))
    (tmp_path / "story.py").write_text(FULL)
    mount = 'mount -t tmpfs -o size=4m none "$1" && exec "$0" "$3" "$1" "$2"'
    arguments = [str(tmp_path / name) for name in ("disk", "archive", "story.py")]
    command = [unshare, "-Urm", "sh", "-c", mount, sys.executable, *arguments]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
