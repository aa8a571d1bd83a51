"""resnet_onnx and resnet_torchscript: JPEG and PNG in, the five most probable classes out."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmekit.testing import load_handler, read_sample

# torch warns that the exporter which needs no further library is the older one.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
PACKAGES = ("resnet_onnx", "resnet_torchscript")
CLASSES = [f"digit {number}" for number in range(9)] + ["neuf, nine"]
FIVE = re.compile(r"probability=([01]\.\d{6}), class=(.+)")


@pytest.fixture(scope="module")
def torch():
    """Return torch, imported here: it takes seconds, in each process that collects the tests."""
    import torch

    torch.set_num_threads(1)  # two threads that spin are slow beside another test process
    return torch


@pytest.fixture(scope="module")
def resnet(torch):
    """Return the module beside notebook 7 that makes and exports networks."""
    folder = str(ROOT / "notebooks" / "networks")
    sys.path.insert(0, folder)
    try:
        import resnet
    finally:
        sys.path.remove(folder)
    return resnet


@pytest.fixture(scope="module")
def network(torch, resnet):
    """Return a ResNet-18 for images of 40 x 24 that has seen nothing."""
    torch.manual_seed(0)
    return resnet.ResNet(18, len(CLASSES)).eval()


@pytest.fixture(scope="module")
def exported(resnet, network, tmp_path_factory):
    """Return the folder with an artefact folder for each package."""
    folder = tmp_path_factory.mktemp("artifacts")
    formats = {name.partition("_")[2]: folder / name for name in PACKAGES}
    resnet.export(network, (24, 40), CLASSES, **formats)
    return folder


@pytest.fixture(scope="module")
def both(exported):
    """Return the loaded packages by name."""
    first, second = (ROOT / "model_packages" / name for name in PACKAGES)
    with (
        load_handler(first, exported / first.name) as onnx,
        load_handler(second, exported / second.name) as torchscript,
    ):
        yield {first.name: onnx, second.name: torchscript}


@pytest.fixture(params=PACKAGES)
def model(request, both):
    return both[request.param]


def picture(kind="PNG", mode="RGB", size=(40, 24)):
    noise = np.random.default_rng(0).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def expected(torch, network):
    """Return a function from an image to its probabilities, by the network itself."""

    def expected(body):
        with Image.open(io.BytesIO(body)) as image:
            pixels = np.asarray(image.convert("RGB").resize((40, 24), Image.Resampling.BILINEAR))
        with torch.inference_mode():
            return network(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))[0]

    return expected


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (picture(), "image/png"),
        (picture(), "application/x-image"),
        (picture("JPEG"), "image/jpeg"),
        (picture(mode="RGBA", size=(300, 200)), "image/png"),
        (picture(mode="L", size=(8, 8)), "Image/PNG; q=1"),
        (picture(mode="P"), "image/png"),
        (picture("JPEG", mode="CMYK"), "image/jpeg"),
    ],
)
def test_an_image_is_answered_with_its_five_most_probable_classes(
    model, expected, body, content_type
):
    answer = model.invoke(body, content_type=content_type)
    assert (answer.status, answer.content_type) == (200, "application/json"), answer.text
    five = [FIVE.fullmatch(line).groups() for line in answer.json()]
    probabilities = expected(body)
    best = probabilities.argsort(descending=True)[:5].tolist()
    assert [name for _, name in five] == [CLASSES[one] for one in best]
    for (probability, _), one in zip(five, best, strict=True):
        assert float(probability) == pytest.approx(probabilities[one].item(), abs=1e-5)


def test_both_packages_answer_what_the_network_says(both, expected):
    body = picture()
    probabilities = expected(body).numpy()
    for model in both.values():
        answer = model.invoke(body, content_type="image/png", attributes="probabilities=true")
        content = answer.json()
        assert content["classes"] == CLASSES
        assert np.abs(np.array(content["probabilities"][0]) - probabilities).max() < 1e-5
        assert sum(content["probabilities"][0]) == pytest.approx(1, abs=1e-5)


def test_other_formats_are_answered_on_demand(model):
    five = model.invoke(picture(), content_type="image/png").json()
    lines = model.invoke(picture(), content_type="image/png", accept="application/jsonlines")
    assert json.loads(lines.text) == {"prediction": five}
    array = model.invoke(picture(), content_type="image/png", accept="application/x-npy")
    assert np.load(io.BytesIO(array.body)).tolist() == [five]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "image/png", 400),
        (b"RIFF", "image/png", 400),
        (picture()[:200], "image/png", 400),
        (picture("GIF"), "application/x-image", 400),
        (picture(), "image/gif", 415),
        (b"[1, 2]", "application/json", 415),
    ],
)
def test_what_is_no_image_is_refused(model, body, content_type, status):
    answer = model.invoke(body, content_type=content_type)
    assert answer.status == status
    assert answer.json()["expected"]
    assert answer.json()["received"]
    assert model.invoke(picture(), content_type="image/png").ok, "the model lives on"


def test_a_small_file_that_unpacks_to_too_many_pixels_is_refused(model):
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "PNG")
    answer = model.invoke(buffer.getvalue(), content_type="image/png")
    assert answer.status == 400
    assert "8000 x 8000" in answer.json()["received"]


def test_the_sample_request_gets_an_answer_like_the_sample_answer(both):
    for name, model in both.items():
        sample = read_sample(ROOT / "model_packages" / name)
        assert sample.content_type.startswith("image/")
        answer = model.invoke(sample.body, content_type=sample.content_type)
        assert answer.status == 200, answer.text
        for line in (*answer.json(), *sample.answer):
            assert FIVE.fullmatch(line)
        assert len(answer.json()) == len(sample.answer) == 5


def test_requests_that_came_together_are_answered_apart(both):
    from mmekit_runtime import Request

    bodies = [picture(), b"none", picture("JPEG")]
    for model in both.values():
        handle = model._module.handle
        replies = handle.answer([Request(body, "image/png") for body in bodies])
        assert [reply.status for reply in replies] == [200, 400, 200]
        alone = model.invoke(bodies[2], content_type="image/png").json()
        together = json.loads(replies[2].body)
        assert [line.partition(", ")[2] for line in together] == [
            line.partition(", ")[2] for line in alone
        ]


def test_a_network_of_gluon_becomes_the_same_in_torch(torch, resnet, tmp_path):
    """Parameters are numbered in the order of the layers: nothing may be left out or swapped."""
    torch.manual_seed(1)
    original = resnet.ResNet(50, 3).eval()
    state = original.state_dict()
    arrays = [state[name].numpy() for name in state if not name.endswith("num_batches_tracked")]
    np.savez(tmp_path / "parameters.npz", **{f"{n:04}": one for n, one in enumerate(arrays)})
    pixels = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        assert torch.equal(resnet.read_gluon(50, tmp_path)(pixels), original(pixels))


def test_a_squeezenet_of_gluon_becomes_the_same_in_torch(torch, resnet, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "notebooks" / "networks"))
    import squeezenet

    original = squeezenet.SqueezeNet(3).eval()
    arrays = [values.numpy() for values in original.state_dict().values()]
    # Of the zoo's squeezenet1_0 with three classes: 26 convolutions, each with weights and a bias.
    assert len(arrays) == 52
    assert sum(array.size for array in arrays) == 736_963
    np.savez(tmp_path / "parameters.npz", **{f"{n:04}": one for n, one in enumerate(arrays)})
    pixels = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        found = squeezenet.read_gluon(tmp_path)(pixels)
        assert torch.equal(found, original(pixels))
    assert found.sum(dim=1).numpy() == pytest.approx([1, 1])


def test_training_for_a_few_steps_lowers_the_loss(torch, resnet):
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 8)
    images = generator.integers(100, size=(16, 3, 32, 32)).astype(np.uint8)
    images[labels == 1] += 120
    torch.manual_seed(0)
    network = resnet.ResNet(18, 2, width=16)
    trained = resnet.train(network, images, labels, steps=6, batch=16)
    with torch.inference_mode():
        scores = trained.train().scores(torch.from_numpy(images).float())
    assert (scores.argmax(dim=1).numpy() == labels).all()


def test_the_onnx_package_needs_no_torch(exported):
    package = ROOT / "model_packages" / "resnet_onnx"
    artifacts = exported / "resnet_onnx"
    code = f"""
import sys
from mmekit.testing import load_handler, read_sample
sample = read_sample({str(package)!r})
with load_handler({str(package)!r}, {str(artifacts)!r}) as model:
    assert model.invoke(sample.body, content_type=sample.content_type).ok
print("torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
