"""SqueezeNet 1.0 as Gluon's zoo builds it, in torch: the same layers in the same order.

Pixels in and probabilities out, as `resnet` has it, which trains and exports it as well.

Source: mxnet/gluon/model_zoo/vision/squeezenet.py of MXNet 1.9.1. There the last layer is a mean of
13 x 13 values, which is all of them in an image of 224 x 224; here it is a mean of all, whatever
the image's size.
"""

import torch
from resnet import ImageNetwork, filled, parameters_in
from torch import nn


class Fire(nn.Module):
    """A convolution of size 1 to few channels, then two beside each other to many."""

    def __init__(self, inner, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(inner, squeezed, 1)
        self.expand = nn.ModuleList(
            [nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)]
        )

    def forward(self, values):
        squeezed = torch.relu(self.squeeze(values))
        return torch.cat([torch.relu(expand(squeezed)) for expand in self.expand], dim=1)


class SqueezeNet(ImageNetwork):
    """SqueezeNet 1.0, for images of at least 32 x 32."""

    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(96, 16, 64),
            Fire(128, 16, 64),
            Fire(128, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 32, 128),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(512, 64, 256),
            nn.Dropout(0.5),
        )
        self.output = nn.Sequential(
            nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        # Without normalisation in between, what torch begins with would hardly learn.
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.output[0].weight, std=0.01)


def read_gluon(folder):
    """Return the SqueezeNet whose parameters gluon.py has left in a folder, as parameters.npz."""
    arrays = parameters_in(folder)
    return filled(SqueezeNet(classes=len(arrays[-1])), arrays)
