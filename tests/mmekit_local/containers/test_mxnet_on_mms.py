"""The handler of MXNet in Multi Model Server itself, with a network of Gluon's zoo."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmekit_local.containers.mms import prepare, serving
from tests.mmekit_local.containers.management import ask, load

pytestmark = [
    # Making the environment is part of the first test.
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.environ.get("MMEKIT_TEST_MMS") != "1" or "MMEKIT_MMS_PYTHON" in os.environ,
        reason="MMEKIT_TEST_MMS=1 without MMEKIT_MMS_PYTHON asks for MXNet in Multi Model Server",
    ),
]

ROOT = Path(__file__).parents[3]
HANDLER = ROOT / "infrastructure" / "containers" / "mms" / "mxnet" / "model_handler.py"
NETWORKS = ROOT / "notebooks" / "networks"
CLASSES = [f"thing {number}" for number in range(7)]

# What AWS's example serves: a network of before Gluon, which ends in a layer with a label.
OLD = """
import sys
import mxnet as mx
flat = mx.sym.Flatten(mx.sym.Variable("data"))
scores = mx.sym.FullyConnected(flat, num_hidden=7, name="scores")
network = mx.sym.SoftmaxOutput(scores, name="softmax")
shapes = network.infer_shape(data=(1, 3, 32, 32))[0]
sizes = dict(zip(network.list_arguments(), shapes))
weights = {name: mx.nd.zeros(sizes[name]) for name in ("scores_weight", "scores_bias")}
weights["scores_bias"][4] = 3
mx.model.save_checkpoint(sys.argv[1] + "/old", 0, network, weights, {})
"""
ASK = """
import sys
import mxnet as mx, numpy as np
folder, pixels, answer = sys.argv[1:]
files = f"{folder}/resnet-symbol.json", ["data"], f"{folder}/resnet-0000.params"
network = mx.gluon.nn.SymbolBlock.imports(*files)
np.save(answer, network(mx.nd.array(np.load(pixels))).asnumpy())
"""


@pytest.fixture(scope="module")
def python():
    return prepare(HANDLER)


@pytest.fixture(scope="module")
def networks(python, tmp_path_factory):
    """Return the folders of a ResNet-18 and a ResNet-34 that have been trained for one step."""
    folder = tmp_path_factory.mktemp("networks")
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(70, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(70) % 7, classes=CLASSES)
    for depth in (18, 34):
        options = [f"--depth={depth}", "--steps=1", "--data", folder / "data.npz"]
        command = [python, NETWORKS / "gluon.py", *options, "--output", folder / str(depth)]
        subprocess.run(command, check=True, capture_output=True)
    return folder / "18", folder / "34"


@pytest.fixture(scope="module")
def in_torch(networks):
    """Return the same two in torch."""
    sys.path.insert(0, str(NETWORKS))
    try:
        import resnet
    finally:
        sys.path.remove(str(NETWORKS))
    return [resnet.read_gluon(int(folder.name), folder) for folder in networks]


@pytest.fixture(scope="module")
def server(networks):
    with serving(HANDLER) as server:
        for name, folder in zip(("one", "two"), networks, strict=True):
            status, text = load(server, name, folder)
            assert status == 200, text
        yield server


def picture(kind="PNG"):
    noise = np.random.default_rng(1).integers(256, size=(32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def probabilities(network, body):
    import torch

    with Image.open(io.BytesIO(body)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)
    with torch.inference_mode():
        return network(torch.from_numpy(pixels[None].copy()))[0].numpy()


def read(line):
    probability, _, name = line.removeprefix("probability=").partition(", class=")
    return float(probability), name


def test_torch_has_the_same_network(python, networks, in_torch, tmp_path):
    import torch

    pixels = np.random.default_rng(2).integers(256, size=(8, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    for folder, network in zip(networks, in_torch, strict=True):
        files = [tmp_path / "pixels.npy", tmp_path / "answer.npy"]
        subprocess.run([python, "-c", ASK, folder, *files], check=True, capture_output=True)
        with torch.inference_mode():
            own = network(torch.from_numpy(pixels)).numpy()
        assert np.abs(np.load(tmp_path / "answer.npy") - own).max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("JPEG", "application/x-image")],
)
def test_each_model_answers_its_own_five_most_probable_classes(
    server, in_torch, kind, content_type
):
    body = picture(kind)
    for name, network in zip(("one", "two"), in_torch, strict=True):
        status, text = ask(server, "POST", f"/models/{name}/invoke", body, content_type)
        assert status == 200, text
        expected = probabilities(network, body)
        five = [read(line) for line in json.loads(text)]
        assert [name for _, name in five] == [CLASSES[i] for i in np.argsort(-expected)[:5]]
        assert [one for one, _ in five] == pytest.approx(np.sort(expected)[:1:-1], abs=2e-5)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [(b"", "image/png", 400), (b"RIFF", "image/png", 400), (b"{}", "application/json", 415)],
)
def test_it_says_why_it_refuses_a_request(server, body, content_type, status):
    answer = ask(server, "POST", "/models/one/invoke", body, content_type)
    assert answer[0] == status
    assert "expected" in json.loads(answer[1])["message"]


def test_a_network_with_a_label_is_served_too(server, python, tmp_path):
    subprocess.run([python, "-c", OLD, tmp_path], check=True, capture_output=True)
    (tmp_path / "synset.txt").write_text("\n".join(CLASSES) + "\n")
    shapes = [{"shape": [1, 3, 32, 32], "name": "data"}]
    (tmp_path / "old-shapes.json").write_text(json.dumps(shapes))
    status, text = load(server, "old", tmp_path)
    assert status == 200, text
    status, text = ask(server, "POST", "/models/old/invoke", picture(), "image/png")
    assert (status, read(json.loads(text)[0])[1]) == (200, CLASSES[4])


def test_a_model_that_exceeds_the_memory_of_all_is_507(networks):
    with serving(HANDLER, environment={"MODELS_MEMORY_MB": "700"}) as server:
        statuses = [load(server, f"copy{number}", networks[0])[0] for number in range(4)]
        refused = statuses.index(507)
        assert statuses == [200] * refused + [507] * (4 - refused)
        assert refused > 0
        assert ask(server, "DELETE", "/models/copy0")[0] == 200
        assert load(server, "another", networks[0])[0] == 200
        assert ask(server, "POST", "/models/another/invoke", picture(), "image/png")[0] == 200
