"""Single-model endpoints: the container finds its model when it starts."""

import asyncio

import pytest

from mmekit_local.sagemaker.instances.fleet import FleetStartError

HANDLER = b"""
from djl_python import Input, Output

def handle(inputs):
    return None if inputs.is_empty() else Output().add_as_json({"seen": inputs.get_as_string()})
"""


def test_the_container_gets_its_model_and_answers_invocations(rehearse):
    async def story(on):
        seen = await on.seen()
        assert seen["name"] == "only"
        assert seen["files"] == ["model.json"]
        assert seen["environment"]["SAGEMAKER_MULTI_MODEL"] is None
        assert "x-amzn-sagemaker-target-model" not in seen["headers"]
        (model,) = on.only_instance().models
        assert (model.target, model.state, model.invocations) == ("", "loaded", 1)

    rehearse(story, data_url="s3://models/only.tar.gz")


def test_a_snapshot_can_be_taken_at_any_moment_of_the_start(rehearse):
    async def story(on):
        growing = asyncio.ensure_future(on.fleet.resize("AllTraffic", 2))
        states = set()
        while not growing.done():
            states |= {one.state for one in on.fleet.snapshot().variants[0].instances}
            await asyncio.sleep(0)
        await growing
        assert states == {"in service", "starting"}

    rehearse(story, data_url="s3://models/only.tar.gz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "Failed to download model data"),
        (b"hello", "Failed to extract model data archive"),
        ({"load_exit": 1}, "could not import nonsense"),
    ],
)
def test_a_model_that_cannot_be_had_fails_the_start_with_its_reason(rehearse, content, words):
    async def story(on):
        raise AssertionError("it is in service")

    def prepare(on):
        if content is None:
            del on.objects["models/only.tar.gz"]
        elif isinstance(content, bytes):
            on.objects["models/only.tar.gz"] = content
        else:
            on.put("only.tar.gz", **content)

    with pytest.raises(FleetStartError, match=words):
        rehearse(story, data_url="s3://models/only.tar.gz", prepare=prepare)


def test_a_url_that_is_not_in_s3_fails_the_start(rehearse):
    async def story(on):
        raise AssertionError("it is in service")

    with pytest.raises(FleetStartError, match="is not an address in S3"):
        rehearse(story, data_url="ftp://models/only.tar.gz")


def test_the_embedded_server_serves_a_single_model(rehearse):
    async def story(on):
        assert await on.seen(body=b"hello") == {"seen": "hello"}
        assert await on.seen(body=b"again") == {"seen": "again"}

    def prepare(on):
        files = {"model.py": HANDLER, "serving.properties": b"engine=Python\nmaxWorkers=1\n"}
        on.objects["models/only.tar.gz"] = rehearse.archive(files)

    rehearse(story, data_url="s3://models/only.tar.gz", prepare=prepare, container="embedded")
