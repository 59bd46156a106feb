"""ResNet-50: what a plain network learns from the same images.

The papers name it and state no settings. Here they are CNNDetection's without its blur
and JPEG: the short side to 256, random crops of 224 and flips, the last layer from N(0,
0.02), Adam 1e-4 in batches of 64, early stopping by the accuracy on validation images
or, without any, on a tenth of the training images, 100 epochs at most; scored on the
short side resized to 256, the middle 224. 23,510,081 parameters. `--start` takes
ImageNet's weights under torchvision's names, such as `timm/resnet50.tv_in1k`; without
them it starts from random ones, and its rows do not reproduce those that start from
ImageNet's. `--weights` takes a detector under the same names, its layer `fc` with one
output. BatchNorm's running variance is
Flax's, without Bessel's correction.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn

from item_jax.methods import _pictures, _resnet
from item_jax.methods._classifier import Classifier
from item_jax.methods._resnet import ResNet

STAGES = (3, 4, 6, 3)
NETWORK = ResNet(STAGES, output_init=nn.initializers.normal(0.02))
METHOD = Classifier(
    "resnet50",
    NETWORK,
    _pictures.middle,
    size=256,
    crop=224,
    test=224,
    DEFAULTS={
        "train.epochs": 100,
        "train.batch_size": 64,
        "train.learning_rate": 1e-4,
    },
    START="torchvision's ResNet-50 of ImageNet",
    started=functools.partial(_resnet.started, stages=STAGES),
    from_weights=functools.partial(_resnet.from_weights, network=NETWORK, output="fc"),
)
small = dataclasses.replace(
    METHOD,
    name="resnet50-small",
    network=ResNet((1, 1, 1), stem=3, width=16),
    size=64,
    crop=56,
    test=64,
    DEFAULTS={**METHOD.DEFAULTS, "train.epochs": 20, "train.learning_rate": 1e-3},
    START="",
    from_weights=None,
)
