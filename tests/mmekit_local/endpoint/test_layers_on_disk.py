"""Layers on an instance's disk: each once, however many archives have it."""

import asyncio
import contextlib
import json
import os
import pathlib

import pytest

from mmekit_local.sagemaker.errors import AwsError
from tests.layered_archives import Layer, layered_archive, listing, tarball

MODEL = {"model.json": json.dumps({}).encode()}


def customer(number, *layers):
    return layered_archive({**MODEL, "own.bin": b"%d" % number * 5_000}, *layers)


def stored(on):
    """The layers that are there whole."""
    return sorted(one.name for one in on.folder.rglob(".mmekit-layers/*") if one.is_dir())


def held(on):
    """The layers that somebody in this process has open."""
    found = []
    for descriptor in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            path = descriptor.readlink()
            # One that is deleted has that behind its name.
            if path.is_relative_to(on.folder) and path.suffix.startswith(".lock"):
                found.append(path.stem)
    return sorted(found)


def test_a_layer_is_stored_once_and_is_in_no_models_folder(rehearse):
    body = Layer({"weights/a.bin": os.urandom(300_000), "b.txt": b"b"})

    async def story(on):
        for number in range(3):
            on.objects[f"models/{number}.tar.gz"] = customer(number, body)
        answers = [await on.seen(f"{number}.tar.gz") for number in range(3)]
        assert all("layers" not in answer["files"] for answer in answers), answers
        assert all("layers.json" in answer["files"] for answer in answers)
        assert stored(on) == [body.sha256]
        (folder,) = on.folder.rglob(f".mmekit-layers/{body.sha256}")
        assert (folder / "weights" / "a.bin").read_bytes() == body.files["weights/a.bin"]
        instance = on.only_instance()
        own = sum(model.disk_bytes for model in instance.models)
        assert instance.disk_bytes == own + body.size
        assert own < 3 * 7_000
        assert held(on) == [body.sha256]

    rehearse(story)


@pytest.mark.parametrize("data_url", ["s3://models/", "s3://models/1.tar.gz"])
def test_nothing_is_held_when_the_instance_has_ended(rehearse, data_url):
    body = Layer({"a.bin": os.urandom(1000)})
    seen = []

    async def story(on):
        await on.seen("1.tar.gz" if data_url.endswith("/") else "")
        assert held(on) == [body.sha256]
        seen.append(on)

    def prepare(on):
        on.objects["models/1.tar.gz"] = customer(1, body)

    rehearse(story, prepare=prepare, data_url=data_url)
    assert held(seen[0]) == []


def test_16_customers_at_once_unpack_their_layer_once(rehearse):
    body = Layer({"a.bin": os.urandom(2_000_000)})

    async def story(on):
        for number in range(16):
            on.objects[f"models/{number}.tar.gz"] = customer(number, body)
        await asyncio.gather(*(on.seen(f"{number}.tar.gz") for number in range(16)))
        assert stored(on) == [body.sha256]
        assert held(on) == [body.sha256]
        assert on.only_instance().disk_bytes < body.size + 16 * 20_000

    rehearse(story)


def test_a_lying_archive_among_those_that_come_at_once_harms_none_of_them(rehearse):
    body = Layer({"a.bin": os.urandom(500_000)})
    wrong = {f"layers/{body.sha256}/a.bin": os.urandom(500_000)}

    async def story(on):
        for number in range(8):
            lies = number % 2 == 0
            files = {**MODEL, **listing(body), **(wrong if lies else body.members())}
            on.objects[f"models/{number}.tar.gz"] = tarball(files)
        calls = (on.seen(f"{number}.tar.gz") for number in range(8))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert not any(isinstance(one, Exception) for one in outcomes[1::2]), outcomes
        (folder,) = on.folder.rglob(f".mmekit-layers/{body.sha256}")
        assert (folder / "a.bin").read_bytes() == body.files["a.bin"]
        assert held(on) == [body.sha256]

    rehearse(story)


@pytest.mark.parametrize("here", [False, True], ids=["first", "when it is here"])
def test_a_layer_that_is_not_what_it_is_called_is_a_bad_archive_and_harms_no_other(rehearse, here):
    body = Layer({"a.bin": b"a" * 1000})
    other = Layer({"a.bin": b"b" * 1000})
    wrong = {f"layers/{body.sha256}/a.bin": b"b" * 1000}
    lying = tarball({**MODEL, **listing(body), **wrong})

    async def story(on):
        on.objects["models/lying.tar.gz"] = lying
        on.objects["models/good.tar.gz"] = customer(1, body)
        on.objects["models/other.tar.gz"] = customer(2, other)
        if here:
            await on.seen("good.tar.gz")
            # What it brings is not looked at, as the true bytes are here.
            await on.seen("lying.tar.gz")
        else:
            files = on.files()
            with pytest.raises(AwsError, match="Failed to extract model data") as raised:
                await on.seen("lying.tar.gz")
            assert (raised.value.status, raised.value.code) == (400, "ValidationError")
            assert body.sha256[:12] in raised.value.message
            assert stored(on) == held(on) == []
            assert [one for one in on.files() if not one.endswith(".mmekit-layers")] == files
        await on.seen("good.tar.gz")
        await on.seen("other.tar.gz")
        for layer in (body, other):
            (folder,) = on.folder.rglob(f".mmekit-layers/{layer.sha256}")
            assert (folder / "a.bin").read_bytes() == layer.files["a.bin"]

    rehearse(story)


@pytest.mark.parametrize("order", ["listing last", "layer in two places", "names with ./"])
def test_an_archive_that_was_packed_again_by_tar_has_its_layers_too(rehearse, order):
    body = Layer({"a.bin": b"a" * 1000, "b.bin": b"b" * 1000})
    first, second = body.members().items()
    files = {**listing(body), **body.members(), **MODEL}
    if order == "listing last":
        files = {**body.members(), **MODEL, **listing(body)}
    elif order == "layer in two places":
        files = {**dict([first]), **MODEL, **listing(body), **dict([second])}
    else:
        files = {f"./{name}": content for name, content in files.items()}

    async def story(on):
        on.objects["models/x.tar.gz"] = tarball(files)
        if order == "layer in two places":
            # Half of it came before it was named: that is another layer, and said to be one.
            with pytest.raises(AwsError, match="Failed to extract model data"):
                await on.seen("x.tar.gz")
            assert stored(on) == held(on) == []
            return
        assert "layers" not in (await on.seen("x.tar.gz"))["files"]
        assert stored(on) == held(on) == [body.sha256]

    rehearse(story)


def test_folders_that_no_listing_names_are_the_models_own(rehearse):
    body = Layer({"a.bin": b"a" * 1000})

    async def story(on):
        on.objects["models/none.tar.gz"] = tarball({**MODEL, **body.members()})
        on.objects["models/odd.tar.gz"] = tarball({**MODEL, "layers.json": b"[]", **body.members()})
        for target in ("none.tar.gz", "odd.tar.gz"):
            assert "layers" in (await on.seen(target))["files"]
        assert stored(on) == held(on) == []

    rehearse(story)


def test_a_small_disk_keeps_a_layer_while_a_model_has_it(rehearse):
    body = Layer({"a.bin": os.urandom(100_000)})

    async def story(on):
        for number in range(12):
            on.objects[f"models/{number}.tar.gz"] = customer(number, body)
        for number in range(12):
            await on.seen(f"{number}.tar.gz")
            assert on.only_instance().disk_bytes <= 150_000
        # As many as fit beside the one layer, although each archive is as large as that.
        assert len(on.only_instance().models) >= 5
        assert stored(on) == held(on) == [body.sha256]

    rehearse(story, environment={"CAPACITY": "2"}, disk_bytes=150_000)


def test_a_layer_of_no_model_makes_room_and_comes_back(rehearse):
    first, second = (Layer({"a.bin": os.urandom(60_000)}) for _ in range(2))

    async def story(on):
        on.objects["models/1.tar.gz"] = customer(1, first)
        on.objects["models/2.tar.gz"] = customer(2, second)
        await on.seen("1.tar.gz")
        assert stored(on) == [first.sha256]
        await on.seen("2.tar.gz")
        assert on.only_instance().disk_bytes <= 100_000
        assert stored(on) == held(on) == [second.sha256]
        assert [model.target for model in on.only_instance().models] == ["2.tar.gz"]
        await on.seen("1.tar.gz")
        assert stored(on) == held(on) == [first.sha256]
        assert on.reads == ["1.tar.gz", "2.tar.gz", "1.tar.gz"]

    rehearse(story, environment={"CAPACITY": "1"}, disk_bytes=100_000)


def test_without_caching_a_layer_stays_when_its_model_goes(rehearse):
    body = Layer({"a.bin": os.urandom(100_000)})

    async def story(on):
        on.objects["models/1.tar.gz"] = customer(1, body)
        await on.seen("1.tar.gz")
        await on.until(lambda: not on.only_instance().models)
        assert on.only_instance().disk_bytes == body.size
        assert stored(on) == [body.sha256]
        assert held(on) == []

    rehearse(story, caches=False)


def test_what_containers_fetch_beside_the_models_counts_and_makes_room(rehearse):
    body = Layer({"a.bin": os.urandom(60_000)})

    async def story(on):
        await on.seen("a.tar.gz")
        (models,) = on.folder.rglob("models")
        store = models / ".mmekit-layers"
        (store / body.sha256).mkdir(parents=True)
        (store / body.sha256 / "a.bin").write_bytes(body.files["a.bin"])
        (store / f"{body.sha256}.lock").write_text(f"{body.size}\n")
        assert on.only_instance().disk_bytes >= body.size
        on.objects["models/1.tar.gz"] = tarball({**MODEL, "own.bin": os.urandom(60_000)})
        await on.seen("1.tar.gz")
        assert stored(on) == []
        assert 60_000 < on.only_instance().disk_bytes <= 100_000

    rehearse(story, disk_bytes=100_000)


def test_a_single_model_endpoint_has_its_layers_beside_its_model(rehearse):
    body = Layer({"a.bin": os.urandom(1000)})

    async def story(on):
        assert "layers" not in (await on.seen())["files"]
        assert stored(on) == held(on) == [body.sha256]

    def prepare(on):
        on.objects["models/only.tar.gz"] = customer(1, body)

    rehearse(story, prepare=prepare, data_url="s3://models/only.tar.gz")


def test_layers_stay_in_their_models_where_containers_have_a_store_elsewhere(rehearse, tmp_path):
    body = Layer({"a.bin": os.urandom(1000)})

    async def story(on):
        on.objects["models/1.tar.gz"] = customer(1, body)
        assert "layers" in (await on.seen("1.tar.gz"))["files"]
        assert stored(on) == held(on) == []

    rehearse(story, environment={"MMEKIT_LAYERS_STORE": str(tmp_path / "elsewhere")})
