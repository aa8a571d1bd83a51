"""Models that have layers in common, behind the endpoint: inline, thin from S3, or in an image."""

import collections
import concurrent.futures
import os

import pytest

from mmekit.archive import pack
from mmekit_local.sagemaker.specification import ServerlessSpecification
from tests.layered_archives import (
    Layer,
    layered_archive,
    put_into_store,
    runtime_layer,
    tarball,
)
from tests.signed_objects import SignedObjects

CUSTOMER = b"""
import os
from mmekit_runtime import TextHandler

class Customer(TextHandler):
    def load_shared(self, folder):
        return (folder / "body" / "words.txt").read_text()

    def load(self, folder, shared):
        assert not (folder / "body").exists(), "the body is not the model's own"
        return shared + " " + (folder / "own.txt").read_text()

    def predict(self, model, rows, parameters):
        return [model] * len(rows)

handle = Customer()
"""
RUNTIME, KEPT = runtime_layer()
PROPERTIES = b"engine=Python\nminWorkers=1\nmaxWorkers=2\nretry_threshold=10\n"


def files(number):
    own = {"model.py": CUSTOMER, "own.txt": b"%d" % number, "serving.properties": PROPERTIES}
    return own | KEPT


def inline(number, body):
    # The runtime is the archive's own, as it is unless an archive is thin.
    return layered_archive({**RUNTIME.files, **files(number)}, body)


def thin(number, body):
    return layered_archive(files(number), RUNTIME, body, inline=False)


CONTAINERS = [
    "embedded",
    pytest.param(
        "djl",
        marks=pytest.mark.skipif(
            not os.environ.get("MMEKIT_DJL_HOME"), reason="MMEKIT_DJL_HOME is not set"
        ),
    ),
]


@pytest.fixture(scope="module", params=CONTAINERS)
def service_options(request):
    return ["--container", request.param]


@pytest.fixture
def body():
    """A layer that no other test has."""
    return Layer({"body/words.txt": b"of all", "body/weights.bin": os.urandom(500_000)})


@pytest.fixture
def in_s3(service, body):
    """Return where the layers of thin archives are in S3."""
    for layer in (RUNTIME, body):
        service.put(f"models-layers/{layer.sha256}.tar.gz", tarball(layer.files), "shop")
    return "s3://shop/models-layers/"


@pytest.fixture
def in_image(body, tmp_path):
    """Return a folder in which the layers lie ready."""
    for layer in (RUNTIME, body):
        put_into_store(layer, tmp_path / "layers")
    return str(tmp_path / "layers")


def answers(service, endpoint, numbers):
    """Ask for each customer at once."""

    def ask(number):
        more = {"body": b'["x"]', "ContentType": "application/json"}
        return service.seen(endpoint, f"{number}.tar.gz", **more)["predictions"]

    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as threads:
        return list(threads.map(ask, numbers))


@pytest.fixture
def at_once(service, service_options):
    """Ask for 16 customers at once, each for the first time."""

    def ask(endpoint):
        if "djl" in service_options:
            # DJL Serving 0.36 initialises its engine with its first model, and not two of them.
            answers(service, endpoint, [15])
        assert answers(service, endpoint, range(16)) == [[f"of all {n}"] for n in range(16)]

    return ask


def copies(service, layer):
    """Return how often a layer is on the disks of all instances."""
    return len(list(service.folder.rglob(f".mmekit-layers/{layer.sha256}")))


def test_customers_at_once_have_one_copy_of_their_inline_layer(service, at_once, body):
    for number in range(16):
        service.put(f"inline/{number}.tar.gz", inline(number, body))
    endpoint = service.create_endpoint("inline", data_url="s3://models/inline/")
    at_once(endpoint)
    assert copies(service, body) == 1


def test_customers_at_once_fetch_what_their_thin_archives_name_once(service, at_once, body, in_s3):
    for number in range(16):
        service.put(f"thin/{number}.tar.gz", thin(number, body))
    endpoint = service.create_endpoint(
        "thin", data_url="s3://models/thin/", environment={"MMEKIT_LAYERS": in_s3}
    )
    at_once(endpoint)
    assert copies(service, body) == 1


def test_a_thin_archive_that_knows_no_place_for_its_layers_says_so(service, body):
    service.put("lost/1.tar.gz", thin(1, body))
    endpoint = service.create_endpoint("lost", data_url="s3://models/lost/")
    runtime = service.client("sagemaker-runtime", parameter_validation=False)
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        service.invoke(endpoint, "1.tar.gz")
    message = raised.value.response["OriginalMessage"]
    assert f"layer {RUNTIME.sha256[:12]} (runtime" in message
    assert "MMEKIT_LAYERS is not set" in message


@pytest.mark.thorough
def test_layers_may_lie_ready_in_a_folder_of_the_image(service, body, in_image):
    service.put("image/1.tar.gz", thin(1, body))
    endpoint = service.create_endpoint(
        "image", data_url="s3://models/image/", environment={"MMEKIT_LAYERS": in_image}
    )
    assert answers(service, endpoint, [1]) == [["of all 1"]]
    assert copies(service, body) == 0


@pytest.mark.parametrize("make", [pytest.param(inline, marks=pytest.mark.thorough), thin])
def test_a_single_model_has_its_layers(service, body, in_s3, make):
    name = f"single-{make.__name__}"
    service.put(f"{name}.tar.gz", make(7, body))
    endpoint = service.create_endpoint(
        name,
        data_url=f"s3://models/{name}.tar.gz",
        mode="SingleModel",
        environment={"MMEKIT_LAYERS": in_s3},
    )
    answer = service.seen(endpoint, body=b'["x"]', ContentType="application/json")
    assert answer["predictions"] == ["of all 7"]
    assert copies(service, body) == 1


def test_a_serverless_model_has_its_layers(rehearse, body, in_image):
    async def story(on):
        assert (await on.seen(body=b"x"))["predictions"] == ["of all 3"]

    def prepare(on):
        on.objects["models/customer.tar.gz"] = thin(3, body)

    rehearse(
        story,
        container="embedded",
        prepare=prepare,
        serverless=ServerlessSpecification(2048, 5),
        data_url="s3://models/customer.tar.gz",
        environment={"MMEKIT_LAYERS": in_image},
    )


@pytest.mark.parametrize(
    "is_thin",
    [pytest.param(False, id="inline", marks=pytest.mark.thorough), pytest.param(True, id="thin")],
)
def test_what_packing_writes_is_served(service, tmp_path, is_thin):
    package, artifacts = tmp_path / "package", tmp_path / "artifacts"
    words = os.urandom(8).hex()
    for file, text in {
        package / "model.py": CUSTOMER.decode(),
        package / "serving.properties": "engine=Python\noption.shared=body\n",
        artifacts / "own.txt": "packed",
        artifacts / "body" / "words.txt": words,
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    packed = pack(package, artifacts, tmp_path / "packed.tar.gz", thin=is_thin)
    name = f"packed-{is_thin}".lower()
    service.put(f"{name}/1.tar.gz", packed.path.read_bytes())
    for file in (tmp_path / "layers").glob("*.tar.gz"):
        service.put(f"packed-layers/{file.name}", file.read_bytes(), "shop")
    endpoint = service.create_endpoint(
        name,
        data_url=f"s3://models/{name}/",
        environment={"MMEKIT_LAYERS": "s3://shop/packed-layers/"},
    )
    assert answers(service, endpoint, [1]) == [[f"{words} packed"]]
    assert {layer.kind for layer in packed.layers} == {"body", *(["runtime"] if is_thin else [])}
    (shared,) = (layer for layer in packed.layers if layer.kind == "body")
    assert copies(service, shared) == 1


@pytest.fixture
def objects():
    running = SignedObjects()
    yield running
    running.close()


@pytest.mark.parametrize("make", [pytest.param(inline, marks=pytest.mark.thorough), thin])
def test_on_a_small_disk_layers_make_room_for_each_other_and_come_back(
    rehearse, objects, body, make
):
    other = Layer({"body/words.txt": b"of others", "body/weights.bin": os.urandom(500_000)})
    bodies = {"0.tar.gz": body, "1.tar.gz": other}
    for layer in (RUNTIME, body, other):
        objects.put(layer.sha256, tarball(layer.files))

    async def story(on):
        for target in [*bodies, *bodies]:
            words = bodies[target].files["body/words.txt"].decode()
            answer = await on.seen(target, b"x")
            assert answer["predictions"] == [f"{words} {target[0]}"]
            instance = on.only_instance()
            assert instance.disk_bytes <= instance.disk_limit
        # A layer that is only named is fetched again by itself.
        assert on.reads == [*bodies, *([] if make is thin else bodies)]
        fetched = collections.Counter(path[-71:-7] for path in objects.requests)
        turns = {RUNTIME.sha256: 1, body.sha256: 2, other.sha256: 2}
        assert fetched == (turns if make is thin else {})

    def prepare(on):
        for number, (target, layer) in enumerate(bodies.items()):
            on.objects[f"models/{target}"] = make(number, layer)

    room = RUNTIME.size + body.size + 200_000
    environment = objects.environment()
    rehearse(story, container="embedded", prepare=prepare, disk_bytes=room, environment=environment)
