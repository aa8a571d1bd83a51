"""ResNet-18, -152 or SqueezeNet of Gluon's zoo, trained for a short while and saved for serving.

For a Python that has MXNet, which this project's does not: notebook 7 starts it. What it writes is
what infrastructure/containers/mms/mxnet loads: resnet-symbol.json, resnet-0000.params,
resnet-shapes.json and synset.txt; and parameters.npz, from which `resnet` and `squeezenet` make the
same network in torch.

Usage: ``python gluon.py --depth 18 --data digits.npz --output FOLDER [--steps 60]``, or
``--squeezenet`` instead of ``--depth``, and ``--imagenet`` instead of ``--data``: weights from
Gluon's zoo, which it downloads.
"""

import argparse
import json
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from mxnet.gluon.model_zoo import vision

MEAN = (123.675, 116.28, 103.53)  # of ImageNet's pixels: red, green, blue
DEVIATION = (58.395, 57.12, 57.375)
IMAGENET_SIZE = (224, 224)


class Classifier(gluon.HybridBlock):
    """Pixels of 0 to 255 in, probabilities out, around a network of the zoo."""

    def __init__(self, network):
        super().__init__()
        with self.name_scope():
            self.mean = self.params.get_constant("mean", nd.array(MEAN).reshape((1, 3, 1, 1)))
            deviation = nd.array(DEVIATION).reshape((1, 3, 1, 1))
            self.deviation = self.params.get_constant("deviation", deviation)
        self.network = network

    def scores(self, functions, pixels, mean, deviation):
        values = functions.broadcast_div(functions.broadcast_sub(pixels, mean), deviation)
        return self.network(values)

    def hybrid_forward(self, F, data, mean, deviation):  # noqa: N803 (Gluon's name)
        scores = self.scores(F, data, mean, deviation)
        return scores if autograd.is_training() else F.softmax(scores)


def squeezenet(**options):
    """Return SqueezeNet 1.0 for images of any size: the zoo's last mean is of 13 x 13 values."""
    network = vision.squeezenet1_0(**options)
    output = gluon.nn.HybridSequential(prefix="")
    for layer in network.output:
        is_mean = isinstance(layer, gluon.nn.AvgPool2D)
        output.add(gluon.nn.GlobalAvgPool2D() if is_mean else layer)
    network.output = output
    return network


def train(classifier, images, labels, steps, rate, batch=64):
    """Train for a number of steps; images as bytes of shape (n, 3, height, width)."""
    trainer = gluon.Trainer(classifier.network.collect_params(), "adam", {"learning_rate": rate})
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    generator = np.random.default_rng(0)
    for step in range(steps):
        chosen = generator.integers(len(images), size=batch)
        pixels = nd.array(images[chosen].astype(np.float32))
        with autograd.record():
            loss = loss_of(classifier(pixels), nd.array(labels[chosen])).mean()
        loss.backward()
        trainer.step(1)
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.asscalar():.3f}", flush=True)


def save(classifier, size, classes, folder):
    """Write symbol, parameters, shapes and synset, and the parameters once more for torch."""
    folder.mkdir(parents=True, exist_ok=True)
    classifier.hybridize()
    classifier(nd.zeros((1, 3, *size)))
    classifier.export(str(folder / "resnet"))
    shapes = [{"shape": [1, 3, *size], "name": "data"}]
    (folder / "resnet-shapes.json").write_text(json.dumps(shapes) + "\n", encoding="utf-8")
    (folder / "synset.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    parameters = classifier.network.collect_params().values()
    arrays = {f"{number:04}": one.data().asnumpy() for number, one in enumerate(parameters)}
    np.savez(folder / "parameters.npz", **arrays)


def imagenet_classes(root):
    """Return the thousand names, from beside the weights."""
    url = "http://data.mxnet.io/models/imagenet/synset.txt"
    path = gluon.utils.download(url, path=str(root / "synset.txt"))
    return Path(path).read_text(encoding="utf-8").splitlines()


def main():
    """Train or download one network, and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--depth", type=int, help="of a ResNet", choices=(18, 34, 50, 101, 152))
    which.add_argument("--squeezenet", action="store_true", help="SqueezeNet 1.0")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--data", type=Path, help="npz with images, labels and classes")
    parser.add_argument("--imagenet", action="store_true", help="weights from Gluon's zoo")
    arguments = parser.parse_args()
    mx.random.seed(0)
    network_of = getattr(vision, f"resnet{arguments.depth}_v1", squeezenet)
    if arguments.imagenet:
        arguments.output.mkdir(parents=True, exist_ok=True)
        classes = imagenet_classes(arguments.output)
        classifier = Classifier(network_of(pretrained=True))
        classifier.initialize()  # the constants; what is pretrained stays
        save(classifier, IMAGENET_SIZE, classes, arguments.output)
        return
    with np.load(arguments.data) as data:
        images, labels, classes = data["images"], data["labels"], data["classes"].tolist()
    classifier = Classifier(network_of(classes=len(classes)))
    classifier.initialize(mx.init.Xavier())
    # Without normalisation in between, large steps end where nothing is learned any more.
    train(classifier, images, labels, arguments.steps, 3e-4 if arguments.squeezenet else 1e-3)
    save(classifier, images.shape[2:], classes, arguments.output)


if __name__ == "__main__":
    main()
