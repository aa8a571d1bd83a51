"""ResNet v1 as Gluon's zoo builds it, in torch: the same layers in the same order.

A network takes pixels (float32 of shape (n, 3, height, width), 0 to 255) and answers class
probabilities (n, classes); what ImageNet's networks expect of pixels is part of it. So is the rule
for classes, and neither has to be repeated by whoever serves it.

Source: mxnet/gluon/model_zoo/vision/resnet.py of MXNet 1.9.1, ResNetV1 with BasicBlockV1 and
BottleneckV1. It differs from torchvision's: in a bottleneck the first convolution has the stride,
and those of size 1 have a bias.
"""

import json
from pathlib import Path

import numpy as np
import torch
from onnx_file import write_onnx
from torch import nn

LAYERS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
MEAN = (123.675, 116.28, 103.53)  # of ImageNet's pixels: red, green, blue
DEVIATION = (58.395, 57.12, 57.375)


class Block(nn.Module):
    """Two convolutions of size 3, or in deep networks one between two of size 1."""

    def __init__(self, inner, channels, stride, *, deep, narrower):
        super().__init__()
        if deep:
            layers = [
                *convolution(inner, channels // 4, 1, stride, bias=True),
                nn.ReLU(),
                *convolution(channels // 4, channels // 4, 3, 1),
                nn.ReLU(),
                *convolution(channels // 4, channels, 1, 1, bias=True),
            ]
        else:
            layers = [
                *convolution(inner, channels, 3, stride),
                nn.ReLU(),
                *convolution(channels, channels, 3, 1),
            ]
        self.body = nn.Sequential(*layers)
        shortcut = convolution(inner, channels, 1, stride) if narrower else [nn.Identity()]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, values):
        return torch.relu(self.body(values) + self.shortcut(values))


class ImageNetwork(nn.Module):
    """Pixels in, probabilities out, around the layers of a subclass: ``features``, ``output``."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        deviation = torch.tensor(DEVIATION).reshape(1, 3, 1, 1)
        self.register_buffer("deviation", deviation, persistent=False)

    def scores(self, pixels):
        """Return what softmax makes probabilities of."""
        return self.output(self.features((pixels - self.mean) / self.deviation))

    def forward(self, pixels):
        return torch.softmax(self.scores(pixels), dim=1)


class ResNet(ImageNetwork):
    """A ResNet of the zoo; a width below 64 makes it smaller than any there."""

    def __init__(self, depth, classes, width=64):
        super().__init__()
        deep = depth >= 50
        blocks = []
        inner = width
        for stage, count in enumerate(LAYERS[depth]):
            channels = (4 if deep else 1) * width << stage
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                narrower = number == 0 and channels != inner
                blocks.append(Block(inner, channels, stride, deep=deep, narrower=narrower))
                inner = channels
        self.features = nn.Sequential(
            *convolution(3, width, 7, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.output = nn.Linear(inner, classes)


def convolution(inner, channels, size, stride, *, bias=False):
    """Return a convolution that keeps the size, but for its stride, and its normalisation."""
    kernel = nn.Conv2d(inner, channels, size, stride, size // 2, bias=bias)
    return [kernel, nn.BatchNorm2d(channels)]


def train(network, images, labels, *, steps=60, batch=64, rate=1e-3):
    """Train a network for a short while; images as bytes of shape (n, 3, height, width)."""
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        chosen = generator.integers(len(images), size=batch)
        scores = network.scores(torch.from_numpy(images[chosen]).float())
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(labels[chosen]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def read_gluon(depth, folder):
    """Return the ResNet whose parameters gluon.py has left in a folder, as parameters.npz."""
    arrays = parameters_in(folder)
    return filled(ResNet(depth, classes=len(arrays[-1])), arrays)


def parameters_in(folder):
    """Return what gluon.py has left, numbered in the order of the layers; classes are last."""
    with np.load(Path(folder, "parameters.npz")) as file:
        return [torch.from_numpy(file[name]) for name in sorted(file.files)]


def filled(network, arrays):
    """Return a network with those parameters: their order is that of torch's state."""
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(names, arrays, strict=True)), strict=False)
    return network.eval()


def export(network, size, classes, *, torchscript=None, onnx=None):
    """Write a network for model_packages/resnet_torchscript, resnet_onnx or both.

    Parameters
    ----------
    size
        Height and width of its images.
    classes
        Their names.
    torchscript, onnx
        Artefact folders.
    """
    pixels = torch.zeros(1, 3, *size)
    with torch.inference_mode():
        if torchscript is not None:
            traced = torch.jit.freeze(torch.jit.trace(network, pixels))
            traced.save(str(_described(torchscript, size, classes) / "resnet.pt"))
        if onnx is not None:
            write_onnx(
                network,
                (pixels,),
                _described(onnx, size, classes) / "resnet.onnx",
                inputs={"pixels": {0: "n"}},
                outputs={"probabilities": {0: "n"}},
            )


def _described(folder, size, classes):
    """Write what a handler has to know besides the network; return the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "synset.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    shapes = [{"shape": [1, 3, *size], "name": "data"}]
    (folder / "shapes.json").write_text(json.dumps(shapes) + "\n", encoding="utf-8")
    return folder
