"""The registry by itself."""

import asyncio

import pytest

from mmekit.engine import engine_folder
from mmekit.server.memory import Memory
from mmekit.server.refusal import Refusal
from mmekit.server.registry import Registry


def test_there_is_an_end_to_the_number_of_models(tmp_path):
    (tmp_path / "model.py").write_text("def handle(inputs): return None")
    (tmp_path / "serving.properties").write_text("engine=Python\nminWorkers=0\n")

    async def scenario():
        registry = Registry(engine_folder(), tmp_path, Memory(), max_models=1)
        await registry.load("first", str(tmp_path))
        try:
            with pytest.raises(Refusal) as refused:
                await registry.load("second", str(tmp_path))
            await registry.unload("first")
            await registry.load("second", str(tmp_path))
        finally:
            await registry.close()
        return refused.value

    refusal = asyncio.run(scenario())

    assert (refusal.status, refusal.kind) == (507, "WlmOutOfMemoryException")
    assert refusal.what == "No more than 1 models are loaded at once."
