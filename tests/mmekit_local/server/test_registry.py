"""The registry of the server's models by itself: how many, how loaded, with which settings."""

import asyncio
import os

import pytest

from mmekit.engine import engine_folder
from mmekit_local.server.errors import ApiError
from mmekit_local.server.limits import ServerLimits
from mmekit_local.server.memory import ServerMemory
from mmekit_local.server.registry import Registry
from mmekit_local.server.requirements import missing_requirements


def test_there_is_an_end_to_the_number_of_models(tmp_path):
    (tmp_path / "model.py").write_text("def handle(inputs): return None")
    (tmp_path / "serving.properties").write_text("engine=Python\nminWorkers=0\n")

    async def scenario():
        registry = Registry(engine_folder(), tmp_path, ServerMemory(), ServerLimits(models=1))
        await registry.load("first", str(tmp_path))
        try:
            with pytest.raises(ApiError) as refused:
                await registry.load("second", str(tmp_path))
            await registry.unload("first")
            await registry.load("second", str(tmp_path))
        finally:
            await registry.close()
        return refused.value

    refusal = asyncio.run(scenario())

    assert (refusal.status, refusal.kind) == (507, "WlmOutOfMemoryException")
    assert refusal.what == "No more than 1 model is loaded at once (MMEKIT_MAX_MODELS)."


def test_a_disk_that_takes_its_time_holds_up_the_load_and_nobody_else(tmp_path):
    (tmp_path / "model.py").write_text("def handle(inputs): return None")
    os.mkfifo(tmp_path / "serving.properties")  # whose reader waits for a writer

    async def scenario():
        registry = Registry(engine_folder(), tmp_path, ServerMemory())
        loading = asyncio.ensure_future(registry.load("slow", str(tmp_path)))
        while "slow" not in registry.loading:  # noqa: ASYNC110  it has no such event
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert not loading.done()
        text = b"engine=Python\nminWorkers=0\n"
        await asyncio.to_thread((tmp_path / "serving.properties").write_bytes, text)
        try:
            return (await loading).name
        finally:
            await registry.close()

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == "slow"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("serving.properties", "a=b\n" * 20_000),
        ("requirements.txt", "a\n" * 200_000),
        ("requirements.txt", "numpy\n" * 3000),
    ],
)
def test_settings_that_nobody_writes_are_not_read(tmp_path, name, text):
    (tmp_path / "model.py").write_text("def handle(inputs): return None")
    (tmp_path / name).write_text(text)

    async def scenario():
        registry = Registry(engine_folder(), tmp_path, ServerMemory())
        try:
            await registry.load("model", str(tmp_path))
        finally:
            await registry.close()

    with pytest.raises(ApiError, match=name) as refused:
        asyncio.run(scenario())
    assert (refused.value.status, refused.value.kind) == (500, "ModelException")


def test_comments_and_hashes_are_no_requirements(tmp_path):
    hashes = "  --hash=sha256:00 \\\n" * 3000
    (tmp_path / "requirements.txt").write_text(f"# one\nnumpy \\\n{hashes}\n")

    assert missing_requirements(tmp_path) == []
