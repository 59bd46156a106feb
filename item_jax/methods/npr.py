"""NPR: what up-sampling leaves between neighbouring pixels (Tan et al., CVPR 2024).

The picture minus itself, halved and doubled again by nearest neighbours, times 2/3,
goes to a short ResNet: 3 x 3 convolution, max-pool, bottlenecks 3 x 64 and 4 x 128, one
linear layer; 1,437,761 parameters. Settings of the authors' repository: resized to 256
x 256 whatever the ratio, random crops of 224 and flips, Adam 2e-4 times 0.9 every ten
epochs, batches of 32, 50 epochs; scored uncropped. Two differences: the last epoch is
kept, and the running variance is that of BatchNorm in Flax, without Bessel's
correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings
from item_jax.methods import _network, _pictures
from item_jax.methods._resnet import ResNet

NEEDS = ("pixels",)
SETTINGS = ("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds")
DEFAULTS = {
    "train.epochs": 50,
    "train.batch_size": 32,
    "train.learning_rate": 2e-4,
}
SIZE, CROP = 256, 224
FALL, EVERY = 0.9, 10


class Network(nn.Module):
    """Pictures `[B, H, W, 3]` of even sides -> logits `[B]`."""

    @nn.compact
    def __call__(self, x, train: bool = False, valid: jax.Array | None = None):
        net = ResNet((3, 4), stem=3, name="net")
        return net(residual(x) * (2 / 3), train=train, valid=valid)


def residual(x: jax.Array) -> jax.Array:
    """x minus its up-sampled half, `[B, H, W, C]` of even H and W."""
    half = x[:, ::2, ::2]
    return x - jnp.repeat(jnp.repeat(half, 2, axis=1), 2, axis=2)


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
) -> list[_network.State]:
    """Trains a network per seed, side by side."""
    c, module = config.train, Network()
    data = _pictures.joined(parts, _pictures.squashed, SIZE)
    steps = -(-len(data["labels"]) // c.batch_size)

    def rate(step):
        # It falls at the end of the authors' epochs 10, 20, ..., counted from 0.
        falls = jnp.maximum(0, (step // steps - 1) // EVERY)
        return c.learning_rate * FALL**falls

    recipe = _network.recipe(
        "npr",
        module,
        config,
        optax.adam(rate),
        loss=_pictures.loss_of(module, CROP),
        init=_pictures.init_of(module, CROP),
    )
    return _network.train(recipe, data, config, seeds, checkpoints, on_epoch)


fit = _network.alone(fit_seeds)
score, check = _pictures.scorer(Network(), _pictures.squashed, SIZE, SIZE)
