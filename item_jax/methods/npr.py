"""NPR: what up-sampling leaves between neighbouring pixels (Tan et al., CVPR 2024).

The picture minus itself, halved and doubled again by nearest neighbours, times 2/3,
goes to a short ResNet: 3 x 3 convolution, max-pool, bottlenecks 3 x 64 and 4 x 128, one
linear layer; 1,437,761 parameters. Settings of the authors' repository
(NPR-DeepfakeDetection): resized to 256 x 256 whatever the ratio, random crops of 224
and flips, Adam 2e-4 times 0.9 every ten epochs (0.8 in an earlier version of it),
batches of 32, 50 epochs, the last of which is kept.

The authors test in three ways, and P(fake) depends on it:

    npr                            resized to 256 x 256: ForenSynths, DiffusionForensics
                                   and UniversalFakeDetect in their `test.py`
    item_jax.methods.npr:whole     not resized, odd rows and columns dropped:
                                   GANGen-Detection, AIGCDetectBenchmark
    item_jax.methods.npr:genimage  not resized, small sides repeated ("translate and
                                   duplicate"), the middle 224: GenImage

`genimage` is trained without resizing too, for one epoch, as theirs. Differences:
BatchNorm's running variance is Flax's, without Bessel's correction; and the random
crops of `genimage` are from the middle 256 pixels, theirs from anywhere.
`--weights` takes `NPR.pth` of their repository, and what their code saves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from PIL import Image

from item_jax import views
from item_jax.methods import _network, _pictures, _resnet
from item_jax.methods._classifier import Classifier
from item_jax.methods._resnet import ResNet

STAGES, STEM = (3, 4), 3
FALL, EVERY = 0.9, 10


class Network(nn.Module):
    """Pictures `[B, H, W, 3]` of even sides -> logits `[B]`."""

    width: int = 64

    @nn.compact
    def __call__(self, x, train: bool = False, valid: jax.Array | None = None):
        net = ResNet(STAGES, stem=STEM, width=self.width, name="net")
        return net(residual(x) * (2 / 3), train=train, valid=valid)


def residual(x: jax.Array) -> jax.Array:
    """x minus its up-sampled half, `[B, H, W, C]` of even H and W."""
    half = x[:, ::2, ::2]
    return x - jnp.repeat(jnp.repeat(half, 2, axis=1), 2, axis=2)


def falling(c: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Adam whose learning rate falls in steps of `steps` an epoch."""

    def rate(step):
        # It falls at the end of the authors' epochs 10, 20, ..., counted from 0.
        falls = jnp.maximum(0, (step // steps - 1) // EVERY)
        return c.learning_rate * FALL**falls

    return optax.adam(rate)


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that the authors' weights are.

    Args:
      tensors: under torchvision's names, the last layer's is `fc1`.

    Raises:
      ValueError: for tensors that are missing, of another shape, or of no layer.
    """
    net = ResNet(STAGES, stem=STEM)
    found = _resnet.from_weights(tensors, net, "fc1")
    return {collection: {"net": layers} for collection, layers in found.items()}


METHOD = Classifier(
    "npr",
    Network(),
    functools.partial(views.squash, resample=Image.Resampling.BILINEAR),
    size=256,
    crop=224,
    test=256,
    DEFAULTS={
        "train.epochs": 50,
        "train.batch_size": 32,
        "train.learning_rate": 2e-4,
    },
    optimizer=falling,
    stopping=None,
    from_weights=from_weights,
)
whole = dataclasses.replace(METHOD, name="npr-whole", view=_pictures.even, batches=(1,))
genimage = dataclasses.replace(
    METHOD,
    name="npr-genimage",
    resize=_pictures.tiled,
    view=functools.partial(_pictures.tiled, size=224),
    test=224,
    DEFAULTS={**METHOD.DEFAULTS, "train.epochs": 1},
)
small = dataclasses.replace(
    METHOD,
    name="npr-small",
    network=Network(width=16),
    size=64,
    crop=56,
    test=64,
    DEFAULTS={**METHOD.DEFAULTS, "train.epochs": 10},
    from_weights=None,
)
